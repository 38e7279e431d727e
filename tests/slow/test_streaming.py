"""Streamed images: memory, the end of a worker, a run that is interrupted, a large network."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.support.helpers import REPOSITORY, call, differences_of_runs, load, succeed
from tests.support.streamed_sets import (
    records_of,
    stage_1,
    stage_2,
    write_imagenet_lt,
    write_jpeg,
)
from utils.training.trainer import Trainer


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
from datasets.files.trees import FileList
from datasets.loading.reader import ImageReader
from datasets.loading.loader import Normalise
from datasets.samplers import ShuffledOrder
from datasets.splits import StreamedSplit
from datasets.loading.streamed import StreamedLoader
from datasets.normalisation import Normalisation

def peak(images):
    names = [f"{i % 11}.jpg" for i in range(images)]
    listing = FileList(Path(sys.argv[1]), names, [0] * images)
    split = StreamedSplit(listing, 64, ImageReader(0))
    generator = torch.Generator().manual_seed(0)
    normalise = Normalise(Normalisation((0.5,) * 3, (0.5,) * 3), torch.device("cpu"))
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
        "from datasets.loading.reader import ImageReader\n"
        "from datasets.splits import Task\n"
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


def test_a_worker_that_dies_in_a_step_ends_the_run_in_one_line(folder):
    code = (
        "import os, signal, sys, time\n"
        "from datasets.loading.reader import ImageReader\n"
        "from datasets.splits import Task\n"
        "from utils.errors import run_program\n"
        "def program():\n"
        "    reader = ImageReader(2)\n"
        f"    task = Task([{str(folder / '0.jpg')!r}], 32, 'none', [0])\n"
        "    for images in reader.read([task] * 9):\n"
        "        os.kill(reader._processes[0].pid, signal.SIGKILL)\n"
        "        time.sleep(9)\n"
        "sys.exit(run_program('tried', program))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("tried: error: the workers that read images failed: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def own(tmp_path):
    """Gives a small data set in ImageNet-LT's layout."""
    return write_imagenet_lt(tmp_path / "own", classes=3)


def test_a_streamed_run_that_was_interrupted_ends_with_the_same_bits_by_any_workers(
    own, tmp_path, monkeypatch, no_figures
):
    roots = [tmp_path / "whole", tmp_path / "interrupted"]
    centroids = Trainer._centroids

    def interrupt(self, phase, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return centroids(self, phase, epoch)

    for stage in (stage_1, stage_2):
        succeed(stage(own, roots[0]))
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_centroids", interrupt)
            assert call(stage(own, roots[1])).status == 130
        succeed(stage(own, roots[1], "--resume", "True", workers=0))
        folders = [records_of(stage(own, root)) for root in roots]
        assert differences_of_runs(*folders) == []


def test_resnet50_takes_both_stages_and_is_evaluated(own, tmp_path, no_figures):
    first = stage_1(own, tmp_path, "--epochs", 1, "--select_on", "last", arch="resnet50")
    succeed(first)
    folder = records_of(first)
    weights = load(folder / "ckpt.best.pth.tar")["state_dict"]
    assert weights["linear.weight"].shape == (3, 2048) and "layer4.2.conv3.weight" in weights
    flags = ("--pretrained", folder.name, "--select_on", "last")
    second = stage_2(own, tmp_path, *flags, arch="resnet50")
    succeed(second)
    succeed([*second, "--evaluation", "True"])
    with np.load(records_of(second) / "outputs_test.npz") as outputs:
        assert outputs["feats"].shape == (6, 2048)
    shutil.rmtree(folder)  # hundreds of megabytes
