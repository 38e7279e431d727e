"""What can go wrong, by exit status."""


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
