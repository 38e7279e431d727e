"""What is asked of either side of a benchmark, with the clock that both are measured by."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

TRAINING_BATCHES = 20
"""Of an epoch, or all if it has fewer: by these, images a second of training are measured."""


@dataclass(frozen=True)
class EpochTime:
    """One epoch: wall clock of all of it and of its training part."""

    seconds: float
    training_seconds: float


def clock(device: torch.device) -> float:
    """Returns seconds, once the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Side(ABC):
    """Both stages of training on given images."""

    device: torch.device

    @abstractmethod
    def first_step(self) -> None:
        """Trains until the first step of stage 1 is done."""

    @abstractmethod
    def visit(self) -> dict[str, list[EpochTime]]:
        """Trains both stages; returns the times of epochs of each phase."""

    @abstractmethod
    def training(self, phase: str) -> Callable[[], int]:
        """Returns a function that trains on the first batches of an epoch of a phase, their
        augmentation included, and returns the number of images."""

    @abstractmethod
    def evaluate(self) -> int:
        """Passes the evaluated images through the network; returns their number."""

    @abstractmethod
    def load(self, batches: int | None = None) -> int:
        """Brings the batches of an epoch of the feature phase, or the first so many, to the device;
        returns the number of images."""

    def rate(self, quantity: str) -> float:
        """Returns the images a second of training in a phase, of the `evaluation` pass, or of the
        `augmentation`.

        This is no work for `torch.utils.benchmark.Timer`, which does it three times to warm up, and
        on one thread.
        """
        works = {"evaluation": self.evaluate, "augmentation": self.load}
        work = works[quantity] if quantity in works else self.training(quantity)
        began = clock(self.device)
        images = work()
        return images / (clock(self.device) - began)
