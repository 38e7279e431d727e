"""Means, deviations and differences of results, in percent and points."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.reproduce.chains import Chain, Result, is_same_run
from utils.runs.records import MissingRecord


def mean(values: Sequence[float | None]) -> float | None:
    """None where any value is missing."""
    return None if None in values else statistics.fmean(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation, with n − 1; None of one value.

    Example:
        >>> deviation([1.0, 3.0])
        1.4142135623730951
    """
    return statistics.stdev(values) if len(values) > 1 else None


def predictions_of(result: Result) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels of the test images ``[N]`` and which of them are predicted right ``[N]``, where the
    run's predictions are recorded and are those of this result."""
    try:
        arrays = result.chain.run.arrays("predictions.npz", ("labels", "preds"))
    except MissingRecord:
        return None
    correct = arrays["labels"] == arrays["preds"]
    if abs(100 * correct.mean() - result.top1) >= 0.005:
        return None
    return arrays["labels"], correct


def paired_error(first: np.ndarray, second: np.ndarray) -> float:
    """The standard error, in points, of the difference of two accuracies on the same N images,
    which one predicts right and the other not b and c times: √(b + c − (b − c)²/N) / N (McNemar's
    counts; what a bootstrap of the images converges to)."""
    n = len(first)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    return 100 * math.sqrt(b + c - (b - c) ** 2 / n) / n


def unpaired_error(first: float, second: float, images: int) -> float:
    """The standard error, in points, of the difference of two accuracies in percent as if they were
    of different images: more than the paired one."""
    return math.hypot(*(binomial_error(accuracy, images) for accuracy in (first, second)))


def binomial_error(accuracy: float, images: int) -> float:
    """The standard error, in points, of an accuracy in percent on so many images."""
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / images)


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method minus that of another, in points, over the seeds that both have.

    Args:
        seeds: those.
        points: the mean.
        deviation: over the seeds; None with one.
        image_error: the standard error that the test images leave; None where unknown.
        is_paired: whether `image_error` is that of the same images.
    """

    seeds: list[int]
    points: float
    deviation: float | None
    image_error: float | None
    is_paired: bool

    @property
    def error(self) -> float | None:
        """The standard error of seeds and images together."""
        if self.image_error is None:
            return None
        return joint_error(self.deviation, len(self.seeds), self.image_error)


def joint_error(deviation: float | None, seeds: int, image_error: float) -> float:
    """The standard error that seeds, of this deviation, and images leave together."""
    return math.hypot(0 if deviation is None else deviation / math.sqrt(seeds), image_error)


def comparable_seeds(ours: dict[int, Result], theirs: dict[int, Result]) -> list[int]:
    """The seeds that both have, where what they should share is the same: two stage 2 on one kind
    of stage 1, the run itself; a stage 2 and its stage 1, that it started from it."""
    shared = sorted(ours.keys() & theirs.keys())
    return [seed for seed in shared if _is_comparable(ours[seed].chain, theirs[seed].chain)]


def _is_comparable(ours: Chain, theirs: Chain) -> bool:
    if ours.row.start == theirs.row.start:
        starts = ours.start, theirs.start
    elif ours.row.start == theirs.row:
        starts = ours.start, theirs.run
    else:
        return True
    return None in starts or is_same_run(*starts)


def difference(ours: dict[int, Result], theirs: dict[int, Result]) -> Difference | None:
    """`ours` minus `theirs`, by seed; None where they have no comparable seed in common."""
    seeds = comparable_seeds(ours, theirs)
    if not seeds:
        return None
    values = [ours[seed].top1 - theirs[seed].top1 for seed in seeds]
    errors, pairing = [], []
    for seed in seeds:
        found = [predictions_of(result) for result in (ours[seed], theirs[seed])]
        is_paired = None not in found and np.array_equal(found[0][0], found[1][0])
        pairing.append(is_paired)
        if is_paired:
            errors.append(paired_error(found[0][1], found[1][1]))
        else:
            images = number_of_images(ours[seed]) or number_of_images(theirs[seed])
            tops = ours[seed].top1, theirs[seed].top1
            errors.append(unpaired_error(*tops, images) if images else None)
    return Difference(
        seeds, statistics.fmean(values), deviation(values), mean(errors), all(pairing)
    )


def number_of_images(result: Result) -> int | None:
    """Those of the test set, where the run's predictions are recorded."""
    try:
        return len(result.chain.run.arrays("predictions.npz", ("labels",))["labels"])
    except MissingRecord:
        return None
