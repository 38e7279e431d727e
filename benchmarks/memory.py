"""The memory of a process and its workers."""

import resource
import sys
import threading
from contextlib import suppress

import psutil

MEBIBYTE = 2**20
INTERVAL = 0.05  # seconds


def memory_of_tree(process: int) -> int:
    """Returns the bytes of a process and all that it has started, a page that several share counted
    once (the sum of proportional set sizes); 0 where the system does not tell, outside Linux."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(process)
        for part in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):  # it may have ended
                total += getattr(part.memory_full_info(), "pss", 0)
    return total


class PeakMemory(threading.Thread):
    """Looks at the memory of this process and its workers every now and then, and remembers the
    most; where the system does not tell, the most of this process alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(INTERVAL):
            self.most = max(self.most, memory_of_tree(psutil.Process().pid))

    def stop(self) -> float:
        """Ends the looking; returns the most, in MiB."""
        self.is_over.set()
        self.join()
        if self.most:
            return self.most / MEBIBYTE
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
