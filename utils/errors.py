"""What can go wrong, by exit status."""

import importlib
from types import ModuleType


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
