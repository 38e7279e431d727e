"""What is measured, and its medians and spread."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

TRAINING_BATCHES = 20
"""Of an epoch, or all if it has fewer: by these, images a second of training are measured."""

PHASES = ("pretraining", "features", "classifier")


@dataclass(frozen=True)
class EpochTime:
    """One epoch: wall clock of all of it and of its training part."""

    seconds: float
    training_seconds: float


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class Sample:
    """One measured value; `size` is the multiple of the training set, where there is one."""

    quantity: str
    side: str
    value: float
    size: int | None = None


class Measurements:
    """Every value that was measured, in order."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, quantity: str, side: str, value: float, size: int | None = None) -> None:
        self.samples.append(Sample(quantity, side, value, size))

    def values(self, quantity: str, side: str, size: int | None = None) -> list[float]:
        return [
            s.value for s in self.samples if (s.quantity, s.side, s.size) == (quantity, side, size)
        ]

    def median(self, quantity: str, side: str, size: int | None = None) -> float:
        return float(np.median(self.values(quantity, side, size)))

    def summary(self) -> Iterator[dict]:
        """A record for each quantity, side and size: median, quartiles and the values."""
        for key in dict.fromkeys((s.quantity, s.side, s.size) for s in self.samples):
            values = self.values(*key)
            low, median, high = np.percentile(values, (25, 50, 75)).tolist()
            yield {
                **dict(zip(("quantity", "side", "size"), key, strict=True)),
                **{"median": median, "quartiles": [low, high], "values": values},
            }

    def text(self, quantity: str, side: str, size: int | None = None) -> str:
        """`median (lower to upper quartile)`, or nothing where it was not measured."""
        values = self.values(quantity, side, size)
        if not values:
            return ""
        low, median, high = (short(v) for v in np.percentile(values, (25, 50, 75)))
        return median if len(values) == 1 else f"{median} ({low} to {high})"


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line_through(images: list[float], seconds: list[float]) -> tuple[float, float]:
    """Least squares of seconds = fixed + images · slope, with fixed ≥ 0."""
    slope, fixed = np.polyfit(images, seconds, 1)
    if fixed < 0:
        slope, fixed = np.dot(images, seconds) / np.dot(images, images), 0.0
    return float(fixed), float(slope)


@contextmanager
def process_settings_kept() -> Iterator[None]:
    """Leaves torch's process-wide settings as it found them."""
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.allow_tf32
    matmul = torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.allow_tf32 = flags
        torch.backends.cuda.matmul.allow_tf32 = matmul
