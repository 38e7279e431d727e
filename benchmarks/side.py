"""A side of a benchmark: what it can do, and the clock that measures it."""

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

TRAINING_BATCHES = 20
"""The speed of training is measured on this many batches; on a whole epoch if it has fewer, and for
this project also on a GPU."""


@dataclass(frozen=True)
class EpochTime:
    """The seconds of a whole epoch, and those of its training."""

    seconds: float
    training_seconds: float


def clock(device: torch.device) -> float:
    """Returns the time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Side(ABC):
    """Trains both stages on given images. It lives in a process of its own (`SideProcess`)."""

    device: torch.device

    @abstractmethod
    def first_step(self) -> None:
        """Takes the first training step of stage 1."""

    @abstractmethod
    def epoch_times(self) -> dict[str, list[EpochTime]]:
        """Trains both stages; returns the times of the epochs of each phase."""

    @abstractmethod
    def train_batches(self, phase: str) -> int:
        """Trains on the first batches of an epoch, which it also augments; returns the number of
        images."""

    @abstractmethod
    def evaluate(self) -> int:
        """Evaluates the network; returns the number of images."""

    @abstractmethod
    def load(self, batches: int | None = None) -> int:
        """Brings batches of the feature phase to the device, a whole epoch if `batches` is None;
        returns the number of images."""

    def rate(self, quantity: str) -> float:
        """Returns images a second of `evaluation`, of `augmentation`, or of a phase's training.

        `torch.utils.benchmark.Timer` would do the work three times before it measures, on one
        thread.
        """
        began = clock(self.device)
        if quantity == "evaluation":
            images = self.evaluate()
        elif quantity == "augmentation":
            images = self.load()
        else:
            images = self.train_batches(quantity)
        return images / (clock(self.device) - began)

    def process_id(self) -> int:
        """Returns the number of the process."""
        return os.getpid()

    def device_memory(self) -> int | None:
        """Returns the peak memory of the process on the device, in bytes; None on a CPU."""
        is_cuda = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if is_cuda else None
