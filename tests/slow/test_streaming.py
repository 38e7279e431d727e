"""Streamed images in a process of its own: its memory, and its end when memory ends a worker."""

import subprocess
import sys

import pytest

from tests.support.helpers import REPOSITORY
from tests.support.streamed_sets import write_jpeg


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven pictures."""
    root = tmp_path_factory.mktemp("images")
    for i in range(11):
        write_jpeg(root / f"{i}.jpg", label=i % 3, seed=i)
    return root


GROWTH = """
import resource, sys
from pathlib import Path
import torch
from datasets.files.reader import ImageReader
from datasets.loading.resident import Normalise
from datasets.samplers import ShuffledOrder
from datasets.splits import StreamedSplit
from datasets.loading.streamed import StreamedLoader

def peak(images):
    names = [f"{i % 11}.jpg" for i in range(images)]
    labels = torch.zeros(images, dtype=torch.long)
    split = StreamedSplit(Path(sys.argv[1]), names, labels, 64, ImageReader(0))
    generator = torch.Generator().manual_seed(0)
    normalise = Normalise((0.5,) * 3, (0.5,) * 3, torch.device("cpu"))
    order = ShuffledOrder(images, generator)
    for batch, _ in StreamedLoader(split, normalise, 16, order, "crop_flip", generator):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large = peak(100), peak(1100)
print(1024 * (large - small) // 1000)
"""


def test_memory_does_not_grow_with_the_number_of_images(folder):
    """Decoded, an image of this test takes 12,288 bytes."""
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH, folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 3000


def test_a_worker_that_memory_ended_ends_the_run_and_the_process(folder):
    """A bus error is what the kernel ends a worker with when /dev/shm is full."""
    code = (
        "import os, signal, torch\n"
        "from datasets.files.reader import ImageReader, Task\n"
        "reader = ImageReader(2)\n"
        f"task = Task([{str(folder / '0.jpg')!r}], 32, 'none', [0])\n"
        "os.kill(reader._processes[0].pid, signal.SIGBUS)\n"
        "try:\n"
        "    for _ in range(9):\n"
        "        list(reader.read([task] * 9))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "RunError\n"
