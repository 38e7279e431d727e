"""How the C library manages the memory of a process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""

LARGEST_BLOCKS = (2**30, 2**25)
"""Bytes. Some versions of glibc allow a threshold of at most 32 MiB."""


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
