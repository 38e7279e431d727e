"""How many cores and how much memory this process may use."""

import math
import os
import re
from contextlib import suppress
from pathlib import Path

import psutil

from utils.machine.processes import world_of_environment

MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of cgroups, versions 2 and 1


def usable_cores() -> int:
    """Returns the number of cores that this process may use: those of its affinity, but not more
    than a container's quota, which torch ignores."""
    affine = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return cores


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
