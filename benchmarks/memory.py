"""The memory of a process and its workers."""

import threading
from contextlib import suppress

import psutil

MEBIBYTE = 2**20
INTERVAL = 0.05  # seconds


def memory_of_tree(process: int) -> int:
    """Returns the bytes of a process and of all processes that it started. On Linux, memory that
    they share counts once (proportional set sizes). Elsewhere only memory of their own counts."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(process)
        for part in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # it may have ended
                found = part.memory_full_info()
                total += getattr(found, "pss", found.uss)
    return total


class PeakMemory(threading.Thread):
    """A `with` block in which a thread measures the memory of a process and its workers again and
    again. `mebibytes` is the largest value."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.mebibytes = process, 0.0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(INTERVAL):
            self.mebibytes = max(self.mebibytes, memory_of_tree(self.process) / MEBIBYTE)

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.join()
