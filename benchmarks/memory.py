"""The memory of a process and its workers."""

import threading
from contextlib import suppress

import psutil

MEBIBYTE = 2**20
INTERVAL = 0.05  # seconds


def memory_of_tree(process: int) -> int:
    """Returns the bytes of a process and all that it has started. A page that several share counts
    once on Linux (the sum of proportional set sizes); elsewhere only unshared pages count."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(process)
        for part in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # it may have ended
                found = part.memory_full_info()
                total += getattr(found, "pss", found.uss)
    return total


class PeakMemory(threading.Thread):
    """Inside a `with`, looks at the memory of a process and its workers every now and then;
    `mebibytes` is the most that it saw."""

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
