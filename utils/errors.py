"""Errors of the program, and how it ends with them: one line on standard error, and a status."""

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TextIO

from utils.text import printable

SIGINT, SIGPIPE = 2, 13
"""The signals' numbers in POSIX; Windows has no SIGPIPE."""


class UserError(Exception):
    """Bad input: flags, files, data or a checkpoint. One line, exit status 2.

    If `is_shared` is True, all processes of the run have the error, and only process 0 reports it.
    """

    is_shared = True


class RunError(Exception):
    """A failure of the run itself, such as a non-finite loss or a full disk. Exit status 1."""

    is_shared = False


OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Error numbers of a disk that is full or broken."""


def unwritable(message: str, error: OSError) -> UserError | RunError:
    """Returns the error, with this message, for a file that cannot be written: a failure of the run
    if the disk is full or broken, else bad input."""
    return (RunError if error.errno in OF_THE_DISK else UserError)(message)


class LostContact(RunError):
    """Another process of the run has ended; that process, or torchrun, reports why.

    `is_shared` is True because several processes raise this and only one of them reports it.
    """

    is_shared = True

    def __init__(self, rank: int) -> None:
        super().__init__(f"process {rank} has lost contact with another process of this run")


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP came: the run can be resumed. Exit status 128 + the signal's
    number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_status = 128 + signal_number


def optional_module(name: str, package: str, purpose: str) -> ModuleType:
    """Returns a module of a package that is not among the requirements, because few need it.

    Args:
        name: the module.
        package: the package that pip installs.
        purpose: what needs it, for the message.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {package}: python -m pip install {package}"
        ) from None


_SIGNS_OF_SHORTAGE = (
    *("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    "CUDNN_STATUS_ALLOC_FAILED",
    # cuDNN says so if none of its kernels gets the memory that it wants.
    "unable to find an engine to execute this computation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True for an error of Python, torch or the system which means that memory ran out, on
    the device or on the host. Only some of torch's errors have a special type; the others are told
    by their text."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in _SIGNS_OF_SHORTAGE)


def is_failure_to_compile(error: BaseException) -> bool:
    """Returns True for an error of torch.compile, such as a missing C++ compiler. Its type is told
    by the name, because the import of its module takes seconds."""
    return any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__)


ENDINGS = (UserError, RunError, OSError, MemoryError, RuntimeError, KeyboardInterrupt, Interrupted)
"""The errors that `ending` takes. A `RuntimeError` counts only if it means that memory ran out or
that a worker died."""


def ending(error: BaseException) -> tuple[int, str]:
    """Returns the exit status for one of `ENDINGS`, and the message to print.

    The message is empty after Ctrl-C (status 130) and other signals, and if nobody reads standard
    output any more (status 141). In the latter case standard output is sent nowhere, because Python
    writes to it once more at its end.

    Raises:
        BaseException: the error itself, if it is a fault of the program, whose traceback is needed.
    """
    if isinstance(error, KeyboardInterrupt):
        return 128 + SIGINT, ""
    if isinstance(error, Interrupted):
        return error.exit_status, ""
    if isinstance(error, BrokenPipeError):
        _write_nowhere(sys.stdout)
        return 128 + SIGPIPE, ""
    if isinstance(error, (UserError, RunError)):
        return 2 if isinstance(error, UserError) else 1, printable(" ".join(str(error).split()))
    if isinstance(error, OSError):
        # No file system has a name that is too long, so somebody gave it. A run that has begun
        # reports a file that it may not write as a `RunError`.
        is_input = error.errno in (errno.ENAMETOOLONG, errno.EACCES)
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
        return 2 if is_input else 1, printable(message)
    if is_out_of_memory(error):
        on_gpu = " on the GPU; --gpu cpu takes the processor" if "CUDA" in str(error) else ""
        return 1, f"out of memory{on_gpu}"
    # torch raises this wherever the program is when a worker dies.
    if str(error).startswith("DataLoader worker"):
        return 1, f"the workers that read images failed: {str(error).strip()}"
    raise error


def run_program(name: str, program: Callable[[], int | None]) -> int:
    """Runs a program and returns its exit status. It prints what its streams can show.

    Args:
        name: the program's name, for the message.
        program: returns the exit status, or None for 0. If it raises one of `ENDINGS`, one line
            goes to standard error, and the status is that of `ending`.
    """
    set_up_streams()
    ignore_backend_of_notebooks()
    try:
        status = program()
        sys.stdout.flush()
    except ENDINGS as error:
        status, message = ending(error)
        if message:
            say(f"{name}: error: {message}")
    return status or 0


def say(text: str) -> None:
    """Prints to standard error why the program ends. If nobody reads it, the exit status says it
    alone."""
    try:
        print(text, file=sys.stderr)
    except OSError:  # Python would try again when it ends, and end with status 120
        _write_nowhere(sys.stderr)


def warn(message: str, program: str = "main.py") -> None:
    """Prints a warning of a program to standard error, in one line."""
    print(f"{program}: warning: {printable(message)}", file=sys.stderr)


def set_up_streams() -> None:
    """Makes output streams replace characters that they cannot show, and write each line at once,
    also to a file. A stream that was closed before the program began, as by ``>&-``, leads
    nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace", line_buffering=True)


def ignore_backend_of_notebooks() -> None:
    """Makes matplotlib ignore the window that a notebook's environment asks for. The package of
    such a window may be missing here, and then matplotlib cannot be imported."""
    if "matplotlib" not in sys.modules:
        os.environ.pop("MPLBACKEND", None)


def _write_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
