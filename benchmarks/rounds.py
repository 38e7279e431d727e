"""The measurements. In each round all sides take turns, so that other work on the machine slows all
of them."""

import math
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.measurements import Measurements
from benchmarks.memory import MEBIBYTE, PeakMemory
from benchmarks.side_process import SideProcess, both_sides

PARTS = (0.008, 0.012, 0.016, 0.02)
"""Parts of the images for epochs, if epochs of all images take too long. The largest class of
CIFAR-100 then has 4, 6, 8 or 10 images. With 5, the class-aware sampler would miss a class."""


def measure_processes(
    found: Measurements, sides: Sequence[SideProcess], part: float, others: int
) -> None:
    """Measures the start-up in seconds and the peak memory in MiB of these processes. The memory is
    that of all phases on a part of the images, and of a first block of all images of stage 2.

    Args:
        found: takes the values.
        sides: the processes, which have not started.
        part: the part of the images.
        others: how many other processes of each side start too, for more values of the start-up.
    """
    for _ in range(others):
        with both_sides(sides[-1].settings) as again:
            for side in again:
                found.add("start-up seconds", side.name, side.start_up_seconds())
    for side in sides:
        found.add("start-up seconds", side.name, side.start_up_seconds())
        with PeakMemory(side.ask("process_id")) as peak:
            side.ask("load", 1)
            side.ask("epoch_times", part=part)
        found.add("peak MiB of process and workers", side.name, peak.mebibytes)
        if (of_device := side.ask("device_memory")) is not None:
            found.add("peak MiB of device", side.name, of_device / MEBIBYTE)
    _say("start-up and memory measured")


def measure_rates(
    found: Measurements,
    sides: Sequence[SideProcess],
    part: float,
    quantities: Sequence[str],
    rounds: int,
    deadline: float = math.inf,
) -> None:
    """Measures images a second of these quantities on a part of the images, after a round that
    warms up. The plain loop's workers persist, so that their start does not count.

    Args:
        found: takes the values.
        sides: the processes.
        part: the part of the images.
        quantities: what is measured.
        rounds: how many rounds at most. The first two do not depend on the deadline.
        deadline: the time of `time.perf_counter` at which no third round may still run.
    """
    began = time.perf_counter()
    for i in range(rounds + 1):
        if i > 2 and not _is_time_left(began, i, deadline):
            break
        for quantity in quantities:
            for side in sides:
                rate = side.ask("rate", quantity, part=part, persistent_workers=True)
                if i:
                    found.add(f"{quantity} images/s", side.name, rate)
    _say(f"{', '.join(quantities)} measured")


def affordable(sides: Sequence[SideProcess], sizes: Sequence[int], deadline: float) -> float:
    """Returns the largest of `PARTS` on which a warm-up and two rounds of all sizes end in time, or
    the smallest if none does. It estimates this from an epoch of each phase on the smallest."""
    began = time.perf_counter()
    for side in sides:
        side.ask("epoch_times", part=PARTS[0])
    now = time.perf_counter()
    most = PARTS[0] * (deadline - now) / (3 * sum(sizes) * (now - began))
    return max((part for part in PARTS if part <= most), default=PARTS[0])


def measure_epochs(
    found: Measurements, sides: Sequence[SideProcess], parts: Mapping[int, float], deadline: float
) -> None:
    """Measures the seconds of an epoch of each phase at each size, and those of its training. There
    is one round at least, and more as long as another one ends in time.

    Args:
        found: takes the values.
        sides: the processes.
        parts: the part of the images at each size.
        deadline: the time of `time.perf_counter` at which no round may still run.
    """
    for part in parts.values():  # a warm-up at each size, because the last batches differ in size
        for side in sides:
            side.ask("epoch_times", part=part)
    began, rounds = time.perf_counter(), 0
    while not rounds or _is_time_left(began, rounds, deadline):
        order = sides if rounds % 2 == 0 else sides[::-1]
        for size, part in parts.items():
            for side in order:
                for phase, epochs in side.ask("epoch_times", part=part).items():
                    for epoch in epochs:
                        training = epoch.training_seconds
                        found.add(f"{phase} seconds", side.name, epoch.seconds, size)
                        found.add(f"{phase} training seconds", side.name, training, size)
        rounds += 1
        _say(f"round {rounds} of epochs measured")


def _is_time_left(began: float, rounds: int, deadline: float) -> bool:
    """Returns True if another round, as long as the mean of those before, ends in time."""
    now = time.perf_counter()
    return now + (now - began) / rounds < deadline


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
