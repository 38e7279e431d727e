"""Means, deviations and differences of results, in percent and points."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.report.records import MissingRecord
from utils.reproduce.chains import Result


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


def correct_of(result: Result) -> np.ndarray | None:
    """Which test images are predicted right ``[N]``, where the run's predictions are recorded and
    are those of this result."""
    try:
        arrays = result.chain.run.arrays("predictions.npz", ("labels", "preds"))
    except MissingRecord:
        return None
    correct = arrays["labels"] == arrays["preds"]
    return correct if abs(100 * correct.mean() - result.top1) < 0.005 else None


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
    variances = [a / 100 * (1 - a / 100) for a in (first, second)]
    return 100 * math.sqrt(sum(variances) / images)


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
        of_seeds = 0 if self.deviation is None else self.deviation / math.sqrt(len(self.seeds))
        return math.hypot(of_seeds, self.image_error)


def difference(ours: dict[int, Result], theirs: dict[int, Result]) -> Difference | None:
    """`ours` minus `theirs`, by seed; None where they have no seed in common."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    values = [ours[seed].top1 - theirs[seed].top1 for seed in seeds]
    errors, pairing = [], []
    for seed in seeds:
        correct = correct_of(ours[seed]), correct_of(theirs[seed])
        is_paired = None not in [c if c is None else 0 for c in correct]
        is_paired = is_paired and len(correct[0]) == len(correct[1])
        pairing.append(is_paired)
        if is_paired:
            errors.append(paired_error(*correct))
        else:
            images = _test_images(ours[seed]) or _test_images(theirs[seed])
            tops = ours[seed].top1, theirs[seed].top1
            errors.append(unpaired_error(*tops, images) if images else None)
    return Difference(
        seeds, statistics.fmean(values), deviation(values), mean(errors), all(pairing)
    )


def _test_images(result: Result) -> int | None:
    try:
        return len(result.chain.run.arrays("predictions.npz", ("labels",))["labels"])
    except MissingRecord:
        return None
