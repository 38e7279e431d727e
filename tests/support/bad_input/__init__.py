"""All bad commands. Importing this package collects them in `cases.CASES`."""

from tests.support.bad_input import checkpoints, data, flags, folders

__all__ = ["checkpoints", "data", "flags", "folders"]
