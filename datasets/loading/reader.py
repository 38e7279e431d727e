"""Reads and augments images in worker processes of `torch.utils.data.DataLoader`."""

import atexit
import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.files.images import LARGE_SIDE, SHOWN_FAULTS, fault_of, fit, opened, to_rgb
from datasets.loading.augmentation import PADDING, cut_squares, draw_squares
from datasets.splits import Task
from utils.errors import Interrupted, RunError, UserError, is_out_of_memory
from utils.machine import signals
from utils.machine.cores import usable_cores
from utils.machine.processes import world_of_environment
from utils.text import listed

# Images that a worker reads at a time: few, so that all workers share in a batch, and that the
# images read ahead take little memory.
TASK_IMAGES = 64
AHEAD = 2  # tasks that a worker finishes before they are asked for
SHARED_MEMORY = "/dev/shm"

JITTER = 0.4


def augmented(image: Image.Image, side: int, augment: str, seed: int) -> Tensor:
    """Returns one RGB image as uint8 ``[3, side, side]``. Equal seeds give equal results, and
    torch's global generator keeps its state.

    - `none`: `fit` resizes the image and crops its centre.
    - `crop_flip`, side ≥ 64: a random part with 8 to 100 % of the image's area, flipped with
      probability 1/2; brightness, contrast and saturation change by factors of 0.6 to 1.4. This is
      the usual recipe of ImageNet-LT (Kang et al., "Decoupling Representation and Classifier for
      Long-Tailed Recognition", ICLR 2020, and its code).
    - `crop_flip`, side < 64: `fit`, padded by 4 pixels, cropped at random, flipped with
      probability 1/2.
    - `autoaugment`, side ≥ 64: a random part, flipped with probability 1/2, then AutoAugment's
      ImageNet policy.
    - `autoaugment`, side < 64: as `crop_flip`, then AutoAugment's CIFAR-10 policy and Cutout
      (`cut_squares`).
    """
    if augment == "none":
        return to_tensor(fit(image, side))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if side >= LARGE_SIDE:
            return to_tensor(_large(side, augment)(image))
        small = to_tensor(_small(side, augment)(fit(image, side)))
        if augment == "autoaugment":
            square = draw_squares(1, side, side, torch.default_generator)
            cut_squares(small.unsqueeze(0), square)
        return small


def to_tensor(image: Image.Image) -> Tensor:
    """Returns an RGB image as uint8 ``[3, H, W]``."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _large(side: int, augment: str) -> Callable[[Image.Image], Image.Image]:
    from torchvision import transforms  # two seconds to import, so only where needed

    last = {
        "crop_flip": transforms.ColorJitter(JITTER, JITTER, JITTER),
        "autoaugment": transforms.AutoAugment(transforms.AutoAugmentPolicy.IMAGENET),
    }
    crop_flip = [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*crop_flip, last[augment]])


def _small(side: int, augment: str) -> Callable[[Image.Image], Image.Image]:
    from torchvision import transforms

    steps = [transforms.RandomCrop(side, padding=PADDING), transforms.RandomHorizontalFlip()]
    if augment == "autoaugment":
        policy = transforms.AutoAugmentPolicy.CIFAR10
        grey: list[Any] = [128] * 3
        steps.append(transforms.AutoAugment(policy, fill=grey))
    return transforms.Compose(steps)


class _Files(Dataset):
    """Returns for a task its images, uint8 ``[B, 3, side, side]``, and a message for each fault. It
    holds no list of files."""

    def __getitem__(self, task: Task) -> tuple[Tensor, list[str]]:
        images = torch.zeros(len(task.paths), 3, task.side, task.side, dtype=torch.uint8)
        faults = []
        for i, (path, seed) in enumerate(zip(task.paths, task.seeds, strict=True)):
            try:
                with opened(path) as image:
                    images[i] = augmented(to_rgb(image), task.side, task.augment, seed)
            except Exception as error:  # Pillow's readers raise errors of many types
                if is_out_of_memory(error):  # of a type that torch can pass on from a worker
                    raise MemoryError from error
                faults.append(fault_of(path, error))
        return images, faults


def _leave_signals_to_the_parent(worker: int) -> None:
    """Makes a worker ignore the signals that a run defers. A terminal sends them to workers too,
    while the parent still waits for their images."""
    for number in signals.DEFERRED:
        signal.signal(number, signal.SIG_IGN)


def _kill(processes: Iterable[Any]) -> None:
    """Ends workers that are still there when the program ends. Python would wait for them for ever,
    because they ignore the signal with which it would end them."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error
    for process in processes:
        process.kill()


class _Queue:
    """The loader's sampler: it yields the tasks that `ImageReader.read` was called with."""

    def __init__(self) -> None:
        self.tasks: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


def _at_most_one_per_core(workers: int) -> int:
    """Returns the number of workers of this process, whose machine may have other processes of the
    run, each with as many."""
    return min(workers, max(1, usable_cores() // world_of_environment().local_size))


def check_shared_memory(workers: int, side: int) -> None:
    """Checks that the images that workers read ahead fit into the memory that processes share. If
    they did not, the kernel would end a worker in the middle of the run.

    Args:
        workers: number of worker processes, as for `ImageReader`.
        side: width and height of the images in pixels.

    Raises:
        RunError: they do not fit.
    """
    workers = _at_most_one_per_core(workers) * world_of_environment().local_size
    needed = workers * AHEAD * TASK_IMAGES * 3 * side**2
    try:
        there = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # systems without this folder or call share memory otherwise
        return
    free = there.f_bavail * there.f_frsize
    if free < needed:
        raise RunError(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB free, and {workers} workers that read "
            f"images of {side}x{side} pixels need {needed / 2**20:.1f} MiB: use fewer workers (-j "
            "0 for none), or make it larger (docker run --shm-size)"
        )


class ImageReader:
    """The worker processes of a run. All loaders share them, and they live as long as the run.

    Each task brings its file names with it, so the workers hold no list of files. The workers start
    at once: the run has not yet opened the files and locks that they would inherit.

    Args:
        workers: number of processes, but at most one per core, which the processes of a run on
            one machine (torchrun) divide among them; 0 reads in this process.
        is_pinned: True to give the images in pinned memory, from which a GPU copies them by itself.
    """

    def __init__(self, workers: int, is_pinned: bool = False) -> None:
        self.workers = _at_most_one_per_core(workers)
        import_module("torchvision.transforms")  # once, and not by each worker
        self._queue = _Queue()
        # From Python 3.14 on, a worker on Linux would start anew otherwise, and import torch again.
        is_forked = self.workers > 0 and sys.platform == "linux"
        loader = DataLoader(
            _Files(),
            batch_size=None,
            sampler=self._queue,
            num_workers=self.workers,
            multiprocessing_context="fork" if is_forked else None,
            worker_init_fn=_leave_signals_to_the_parent,
            persistent_workers=self.workers > 0,
            prefetch_factor=AHEAD if self.workers > 0 else None,
            pin_memory=is_pinned,
            # Without a generator of its own it would draw from torch's global one.
            generator=torch.Generator(),
        )
        others = multiprocessing.active_children()
        iter(loader)
        self._processes = [p for p in multiprocessing.active_children() if p not in others]
        if self._processes and hasattr(signal, "SIGCHLD"):  # Windows ends them anyway
            atexit.register(_kill, self._processes)
        # The workers end when the last reference to the loader goes, but not if the garbage
        # collector has to break a cycle for that. This list is in no cycle.
        self._loaders = [loader]
        weakref.finalize(self, self._loaders.clear)

    def read(self, tasks: Iterable[Task]) -> Iterator[Tensor]:
        """Yields the images of each task in order, uint8 ``[B, 3, side, side]``. A new call ends
        the call before.

        Raises:
            UserError: a file cannot be read.
            RunError: a worker died, or memory ran out.
            Interrupted: either, after a signal to this process.
        """
        self._queue.tasks = tasks
        try:
            for images, faults in self._loaders[0]:
                if faults:
                    error = UserError(f"unreadable images: {listed(faults, SHOWN_FAULTS, '; ')}")
                    error.is_shared = False  # other processes read other files
                    raise error
                yield images
        except (RuntimeError, MemoryError) as error:
            # Not `signals.check`: that would ask the other processes, which are in their step.
            if number := signals.received():
                raise Interrupted(number) from error
            if is_out_of_memory(error):
                advice = ": use fewer workers (-j)" if self.workers else ""
                raise RunError(f"out of memory while images were read{advice}") from error
            # The workers ignore the signal with which Python would end them, and they wait for each
            # other.
            for process in self._processes:
                process.kill()
            raise RunError(f"the workers that read images failed: {error}") from error
