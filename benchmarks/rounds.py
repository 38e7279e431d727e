"""The measurements, the sides in turns."""

import sys
import time
from collections.abc import Sequence

from benchmarks.child import run_child
from benchmarks.data import scaled
from benchmarks.measure import Measurements
from benchmarks.settings import Settings
from benchmarks.sides import Sides, side_names
from datasets import LongTailedData

LARGEST, SMALLEST = 0.02, 0.008
"""Parts of the images to train on where all of them take too long: 10 to 4 of CIFAR-100's largest
class, whose class-aware sampler needs 4."""


def affordable(sides: Sides, data: LongTailedData, sizes: Sequence[int], deadline: float) -> float:
    """The part of the images of which a warm-up and two rounds of all sizes end in time, as far as
    a first visit of each side tells."""
    began = time.perf_counter()
    part = scaled(data, SMALLEST)
    for name in side_names(sides.settings.precision):
        sides.visit(name, part)
    now = time.perf_counter()
    affordable = SMALLEST * (deadline - now) / (3 * sum(sizes) * (now - began))
    return min(LARGEST, max(SMALLEST, affordable))


def measure_processes(
    found: Measurements, settings: Settings, fraction: float, repetitions: int
) -> None:
    """`start-up seconds` of as many processes of each side, and the peak memory, in MiB, of the
    last of them."""
    for i in range(repetitions):
        for side in side_names(settings.precision):
            is_last = i == repetitions - 1
            child = run_child(side, settings, is_last, fraction)
            found.add("start-up seconds", side, child["start_up_seconds"])
            for place, mebibytes in (child["peak_mib"] or {}).items():
                if mebibytes is not None:
                    found.add(f"peak MiB of {place}", side, mebibytes)
    _say("start-up and memory measured")


def measure_passes(
    found: Measurements,
    sides: Sides,
    data: LongTailedData,
    quantities: Sequence[str],
    repetitions: int,
) -> None:
    """`images/s` of these quantities: `evaluation`, `augmentation`, or training in `pretraining` or
    `features`; a first round warms up."""
    with sides.passes(data) as passes:
        for i in range(repetitions + 1):
            for quantity in quantities:
                for name, rates in passes.items():
                    rate = rates[quantity]()
                    if i:
                        found.add(f"{quantity} images/s", name, rate)
    _say(f"{', '.join(quantities)} measured")


def measure_epochs(
    found: Measurements, sides: Sides, parts: dict[int, LongTailedData], deadline: float
) -> None:
    """`PHASE training seconds` of an epoch's training and `PHASE seconds` of all of it, at each
    size, in rounds until there is no time for another; one at least."""
    names = side_names(sides.settings.precision)
    for data in parts.values():
        for name in names:
            sides.visit(name, data)  # warms up: each size has a last batch of a size of its own
    began, rounds = time.perf_counter(), 0
    while not rounds or _time_left(began, rounds, deadline):
        order = names if rounds % 2 == 0 else names[::-1]
        for size, data in parts.items():
            for name in order:
                for phase, epochs in sides.visit(name, data).items():
                    for epoch in epochs:
                        found.add(f"{phase} seconds", name, epoch.seconds, size)
                        found.add(f"{phase} training seconds", name, epoch.training_seconds, size)
        rounds += 1
        _say(f"round {rounds} of epochs measured")


def _time_left(began: float, rounds: int, deadline: float) -> bool:
    """Whether another round, as long as those before in the mean, ends in time."""
    now = time.perf_counter()
    return now + (now - began) / rounds < deadline


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
