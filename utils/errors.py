"""What can go wrong, by exit status."""


class UserError(Exception):
    """Bad input: flags, files, data or a checkpoint. One line, exit status 2."""


class RunError(Exception):
    """A failure of the run itself, such as a non-finite loss or a full disk. Exit status 1."""


class Interrupted(Exception):
    """SIGINT or SIGTERM: the run can be resumed. Exit status 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_status = 128 + signal_number
