"""What can go wrong, and how a program ends then: one line on standard error, and a status."""

import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

SIGINT, SIGPIPE = 2, 13
"""As POSIX numbers them; Windows has no SIGPIPE."""


class UserError(Exception):
    """Bad input: flags, files, data or a checkpoint. One line, exit status 2."""


class RunError(Exception):
    """A failure of the run itself, such as a non-finite loss or a full disk. Exit status 1."""


class LostContact(RunError):
    """Another process of the run has ended; it, or torchrun, says why.

    `is_shared`: of the processes that this happens to, one reports it.
    """

    is_shared = True

    def __init__(self, rank: int) -> None:
        super().__init__(f"process {rank} has lost contact with another process of this run")


class Interrupted(Exception):
    """SIGINT or SIGTERM: the run can be resumed. Exit status 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_status = 128 + signal_number


def optional_module(name: str, package: str, purpose: str) -> ModuleType:
    """Returns the module of a package that only few need, and so is not among the requirements.

    Raises:
        UserError: the package is not installed; it says for what it is needed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{purpose} needs the package {package}: python -m pip install {package}"
        ) from None


_SIGNS_OF_SHORTAGE = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True for an error of Python or torch that says that memory ran out, on the device or
    on the host. Torch has a type of its own for some of them alone."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in _SIGNS_OF_SHORTAGE)


ENDINGS = (UserError, RunError, OSError, MemoryError, RuntimeError, KeyboardInterrupt)
"""What `ending` knows; of `RuntimeError` only those that say that memory ran out."""


def ending(error: BaseException) -> tuple[int, str]:
    """Returns the exit status of a program that one of `ENDINGS` ends, and the line that says why.

    There is nothing to say after Ctrl-C (130), nor where nobody reads standard output any more
    (141). In the latter case standard output gets another place to go, so that Python's own last
    write to it is no error.

    Raises:
        BaseException: the error itself, where it is a fault of the program: its traceback is
            wanted.
    """
    if isinstance(error, KeyboardInterrupt):
        return 128 + SIGINT, ""
    if isinstance(error, BrokenPipeError):
        _write_nowhere()
        return 128 + SIGPIPE, ""
    if isinstance(error, (UserError, RunError)):
        return 2 if isinstance(error, UserError) else 1, " ".join(str(error).split())
    if isinstance(error, OSError):
        return 1, f"{error.filename or 'a file'}: {error.strerror or error}"
    if is_out_of_memory(error):
        return 1, "out of memory"
    raise error


def run_program(name: str, program: Callable[[], int | None]) -> int:
    """Runs a program and returns its exit status: what it returns (None is 0), or that of `ending`
    after one line on standard error."""
    try:
        status = program()
        sys.stdout.flush()
    except ENDINGS as error:
        status, message = ending(error)
        if message:
            print(f"{name}: error: {message}", file=sys.stderr)
    return status or 0


def _write_nowhere() -> None:
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
