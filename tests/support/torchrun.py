"""Starts the program, or a module of the tests, in several processes."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.helpers import REPOSITORY

MAIN = ("-m", "tests.support.small_images", "main")
"""Words that start `main.py` on images of a few pixels."""


@contextlib.contextmanager
def started(processes: int, words: Sequence[object]) -> Iterator[subprocess.Popen]:
    """Starts `torchrun` with these arguments on CPUs, and ends it if it still runs at the end. It
    takes a free port itself: one that is chosen before could be taken by another program until it
    begins."""
    launch = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    with subprocess.Popen(
        [sys.executable, "-m", *launch, *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def torchrun(processes: int, words: Sequence[object]) -> tuple[int, str, str]:
    """Does what `started` does, waits for the end, and returns status, standard output and standard
    error."""
    with started(processes, words) as process:
        out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def children(process: subprocess.Popen) -> list[int]:
    """Returns the ids of the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"\nPPid:\t{process.pid}\n" in status.read_text():
                found.append(int(status.parent.name))
    return sorted(found)
