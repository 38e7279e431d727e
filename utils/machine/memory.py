"""How much memory this process may use, and how the C library manages it."""

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from utils.machine.processes import world_of_environment

MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of cgroups, versions 2 and 1

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""

LARGEST_BLOCKS = (2**30, 2**25)
"""Bytes. Some versions of glibc allow a threshold of at most 32 MiB."""


def usable_memory() -> int:
    """Returns how many bytes of memory this process may use: an equal share, among the processes of
    the run on this machine, of the machine's memory, but not of more than the limit of a container
    or a batch job, which psutil ignores.

    Source: the manual page cgroups(7). A limit of a group also holds for the groups in it.
    """
    limits = [psutil.virtual_memory().total]
    with suppress(OSError):  # a system without groups
        groups = Path("/proc/self/cgroup").read_text()
        for version_1, group in re.findall("^[0-9]+:(|memory):/(.*)", groups, re.MULTILINE):
            place = Path("/sys/fs/cgroup", version_1, group)
            for file in (up / name for up in (place, *place.parents) for name in MEMORY_LIMITS):
                with suppress(OSError, ValueError):  # no such file, or no limit ("max")
                    limits.append(int(file.read_text()))
    return min(limits) // world_of_environment().local_size


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation, and returns True. With another C
    library it changes nothing and returns False.

    By default, glibc gives a large block back to the system when it is freed. The output of a layer
    is such a block. So every training step would get its memory from the system again, page by
    page, and the system writes zeros to each page. The peak memory of a process stays the same.

    Source: the manual page mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    blocks_are_kept = any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_BLOCKS)
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and blocks_are_kept
