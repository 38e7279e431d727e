"""Every bad command: importing this package collects them in `cases.CASES`."""

from tests.bad_input import checkpoints, data, flags, folders

__all__ = ["checkpoints", "data", "flags", "folders"]
