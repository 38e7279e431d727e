"""Images read and augmented off the training process, by workers of
`torch.utils.data.DataLoader`."""

import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from datasets.files.images import LARGE_SIDE, fault_of, fit, listed, to_rgb
from datasets.loading.augmentation import cutout
from utils.errors import RunError, UserError
from utils.machine import signals
from utils.machine.cores import usable_cores

# A worker reads so many images at a time: few enough for all of them to share in a batch, and for
# what is read ahead to take little memory.
TASK_IMAGES = 64
AHEAD = 2  # tasks that a worker may have finished before they are asked for
SHARED_MEMORY = "/dev/shm"

PADDING = 4
JITTER = 0.4


class Task(NamedTuple):
    """A batch to read: files, the side of the result, an augmentation and a seed an image."""

    paths: list[str]
    side: int
    augment: str
    seeds: list[int]


def augmented(image: Image.Image, side: int, augment: str, seed: int) -> Tensor:
    """One RGB image as uint8 ``[3, side, side]``; equal seeds give equal results, and torch's
    global generator is left as found.

    - `none`: resized and cropped in the centre (`fit`).
    - `crop_flip`, from 64 pixels on: a random part of 8 to 100 % of the image, flipped in half of
      the cases, with brightness, contrast and saturation changed by up to 0.4, the usual recipe of
      ImageNet-LT (Kang et al., "Decoupling Representation and Classifier for Long-Tailed
      Recognition", ICLR 2020, and its code). Below: fitted, padded by 4, cropped, flipped.
    - `autoaugment`, from 64 pixels on: a random part, flipped, and AutoAugment's ImageNet policy.
      Below: padded, cropped, flipped, AutoAugment's CIFAR-10 policy, Cutout 16.
    """
    if augment == "none":
        return to_tensor(fit(image, side))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if side >= LARGE_SIDE:
            return to_tensor(_large(side, augment)(image))
        small = to_tensor(_small(side, augment)(fit(image, side)))
        if augment == "autoaugment":
            cutout(small.unsqueeze(0), torch.default_generator)
        return small


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 ``[3, H, W]``."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _large(side: int, augment: str) -> transforms.Compose:
    last = {
        "crop_flip": transforms.ColorJitter(JITTER, JITTER, JITTER),
        "autoaugment": transforms.AutoAugment(transforms.AutoAugmentPolicy.IMAGENET),
    }
    crop_flip = [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*crop_flip, last[augment]])


def _small(side: int, augment: str) -> transforms.Compose:
    steps = [transforms.RandomCrop(side, padding=PADDING), transforms.RandomHorizontalFlip()]
    if augment == "autoaugment":
        policy = transforms.AutoAugmentPolicy.CIFAR10
        grey: list[Any] = [128] * 3
        steps.append(transforms.AutoAugment(policy, fill=grey))
    return transforms.Compose(steps)


class _Files(Dataset):
    """From a task to its images and what is wrong with them; it holds nothing itself."""

    def __getitem__(self, task: Task) -> tuple[Tensor, list[str]]:
        images = torch.zeros(len(task.paths), 3, task.side, task.side, dtype=torch.uint8)
        faults = []
        for i, (path, seed) in enumerate(zip(task.paths, task.seeds, strict=True)):
            try:
                with Image.open(path) as image:
                    images[i] = augmented(to_rgb(image), task.side, task.augment, seed)
            except Exception as error:  # whatever the bytes made of the reader
                faults.append(fault_of(path, error))
        return images, faults


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """A terminal sends them to the workers as well, whose images the parent still waits for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Queue:
    """The loader's sampler: the tasks at hand."""

    def __init__(self) -> None:
        self.tasks: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


def check_shared_memory(workers: int, side: int) -> None:
    """Whether the images that workers read ahead fit into the memory that processes share; where
    they do not, the kernel ends a worker in the midst of the run.

    Raises:
        RunError: they do not.
    """
    workers = min(workers, usable_cores())
    needed = workers * AHEAD * TASK_IMAGES * 3 * side**2
    try:
        there = os.statvfs(SHARED_MEMORY)
    except OSError:  # other systems share memory in another way
        return
    free = there.f_bavail * there.f_frsize
    if free < needed:
        raise RunError(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB free, and {workers} workers that read "
            f"images of {side}x{side} pixels need {needed / 2**20:.1f} MiB: -j 0 reads without "
            "workers, and docker run --shm-size makes it larger"
        )


class ImageReader:
    """One set of worker processes, which all loaders of a run share and which lives as long as it.

    What is to be read goes to the workers with each task, so they hold no list of files. They start
    at once, before the run opens files and locks that they would hold on to.

    Args:
        workers: number of processes, at most one a core is started; 0 reads in this process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = min(workers, usable_cores())
        self._queue = _Queue()
        loader = DataLoader(
            _Files(),
            batch_size=None,
            sampler=self._queue,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals_to_the_parent,
            persistent_workers=self.workers > 0,
            prefetch_factor=AHEAD if self.workers > 0 else None,
            pin_memory=torch.cuda.is_available(),
            # Of its own, so that torch's global one is left alone.
            generator=torch.Generator(),
        )
        others = multiprocessing.active_children()
        iter(loader)
        self._processes = [p for p in multiprocessing.active_children() if p not in others]
        # Workers are told to end when the loader's last reference goes, but not where the garbage
        # collector finds it in a cycle; this list is in none.
        self._loaders = [loader]
        weakref.finalize(self, self._loaders.clear)

    def read(self, tasks: Iterable[Task]) -> Iterator[Tensor]:
        """The images of each task in order, uint8 ``[B, 3, side, side]``. One reading at a time: a
        new one ends the one before.

        Raises:
            UserError: files that cannot be read.
            RunError: a worker died.
        """
        self._queue.tasks = tasks
        try:
            for images, faults in self._loaders[0]:
                if faults:
                    raise UserError(f"unreadable images: {listed(faults)}")
                yield images
        except RuntimeError as error:
            signals.check()
            # They ignore the signal by which Python would end them, and wait for each other.
            for process in self._processes:
                process.kill()
            raise RunError(f"the workers that read images failed: {error}") from error
