"""How many cores this process may use."""

import math
import os
from pathlib import Path


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
