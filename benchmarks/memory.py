"""The memory of a process and its workers."""

import os
import re
import resource
import sys
import threading
from contextlib import suppress
from pathlib import Path

MEBIBYTE = 2**20
INTERVAL = 0.05  # seconds


def children_of(process: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def memory_of_tree(process: int) -> int:
    """Bytes of a process and all that it has started, a page that several share counted once (the
    sum of proportional set sizes)."""
    total = sum(memory_of_tree(child) for child in children_of(process))
    with suppress(OSError):  # it may have ended
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


class PeakMemory(threading.Thread):
    """Looks at the memory of this process and its workers every now and then, and remembers the
    most; where the system does not tell (outside Linux), the most of this process alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(INTERVAL):
            self.most = max(self.most, memory_of_tree(os.getpid()))

    def stop(self) -> float:
        """Ends the looking; the most, in MiB."""
        self.is_over.set()
        self.join()
        if self.most:
            return self.most / MEBIBYTE
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
