"""The measurements, the sides in turns."""

import sys
import time
from collections.abc import Mapping, Sequence
from operator import methodcaller

from benchmarks.measurements import Measurements
from benchmarks.memory import MEBIBYTE, PeakMemory
from benchmarks.sides import SideProcess, both_sides, device_memory, process_of

VISIT = methodcaller("visit")
PARTS = (0.008, 0.012, 0.016, 0.02)
"""Parts of the images to train on where all of them take too long: 4, 6, 8 or 10 of CIFAR-100's
largest class. With 5, the class-aware sampler of the paper would miss a class."""


def measure_processes(
    found: Measurements, sides: Sequence[SideProcess], part: float, others: int
) -> None:
    """`start-up seconds` of so many other processes of each side and of these, and the peak memory
    of these, in MiB: of all phases on a part of the images, and of a first block of stage 2's
    images in full."""
    for _ in range(others):
        with both_sides(sides[-1].settings) as again:
            for side in again:
                found.add("start-up seconds", side.name, side.start_up_seconds())
                side.close()
    for side in sides:
        found.add("start-up seconds", side.name, side.start_up_seconds())
        with PeakMemory(side.ask(process_of)) as peak:
            side.ask(methodcaller("load", 1))
            side.ask(VISIT, part)
        found.add("peak MiB of process and workers", side.name, peak.mebibytes)
        if (of_device := side.ask(device_memory)) is not None:
            found.add("peak MiB of device", side.name, of_device / MEBIBYTE)
    _say("start-up and memory measured")


def measure_rates(
    found: Measurements,
    sides: Sequence[SideProcess],
    part: float,
    quantities: Sequence[str],
    repetitions: int,
) -> None:
    """`QUANTITY images/s` of these quantities on a part of the images; a first round warms up.
    The start of the plain loop's workers is no part of these."""
    sides = [side.with_persistent_workers() for side in sides]
    for i in range(repetitions + 1):
        for quantity in quantities:
            for side in sides:
                rate = side.ask(methodcaller("rate", quantity), part)
                if i:
                    found.add(f"{quantity} images/s", side.name, rate)
    _say(f"{', '.join(quantities)} measured")


def affordable(sides: Sequence[SideProcess], sizes: Sequence[int], deadline: float) -> float:
    """Returns the largest of `PARTS` of which a warm-up and two rounds of all sizes end in time, as
    far as a first visit of each side tells; at least the smallest."""
    began = time.perf_counter()
    for side in sides:
        side.ask(VISIT, PARTS[0])
    now = time.perf_counter()
    most = PARTS[0] * (deadline - now) / (3 * sum(sizes) * (now - began))
    return max((part for part in PARTS if part <= most), default=PARTS[0])


def measure_epochs(
    found: Measurements, sides: Sequence[SideProcess], parts: Mapping[int, float], deadline: float
) -> None:
    """`PHASE training seconds` of an epoch's training and `PHASE seconds` of all of it, at each
    size, in rounds until there is no time for another; one at least."""
    for part in parts.values():  # a warm-up: each size has a last batch of a size of its own
        for side in sides:
            side.ask(VISIT, part)
    began, rounds = time.perf_counter(), 0
    while not rounds or _time_left(began, rounds, deadline):
        order = sides if rounds % 2 == 0 else sides[::-1]
        for size, part in parts.items():
            for side in order:
                for phase, epochs in side.ask(VISIT, part).items():
                    for epoch in epochs:
                        found.add(f"{phase} seconds", side.name, epoch.seconds, size)
                        training = epoch.training_seconds
                        found.add(f"{phase} training seconds", side.name, training, size)
        rounds += 1
        _say(f"round {rounds} of epochs measured")


def _time_left(began: float, rounds: int, deadline: float) -> bool:
    """Returns True if another round, as long as those before in the mean, ends in time."""
    now = time.perf_counter()
    return now + (now - began) / rounds < deadline


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
