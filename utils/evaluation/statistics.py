"""Means, deviations and differences of accuracies over seeds and images, in percent and points.

A ± is one of three things here, each with a function of its own: a sample standard deviation over
seeds (`deviation`), a standard error (`standard_error`, `Difference.error`), or a 95 % interval
(`Difference.interval`).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None where a value is missing or there is none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def deviation(values: Sequence[float | None]) -> float | None:
    """Returns the sample standard deviation, with n − 1; None of fewer than two values or where
    one is missing.

    Example:
        >>> round(deviation([1.0, 3.0]), 4)
        1.4142
    """
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if 1 < len(known) == len(values) else None


def standard_error(values: Sequence[float | None]) -> float | None:
    """Returns the standard error of the mean, deviation / √n; None where there is no deviation."""
    spread = deviation(values)
    return None if spread is None else spread / math.sqrt(len(values))


def binomial_error(accuracy: float, images: int) -> float:
    """Returns the standard error, in points, of an accuracy in percent on so many images."""
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / images)


@dataclass(frozen=True)
class Difference:
    """A difference of two mean accuracies and how sure it is.

    Args:
        points: the mean difference, in points.
        seeds: how many it is a mean over.
        seed_error: the standard error of the mean over seeds; None with one seed.
        image_error: the standard error that the test images leave; None where it is unknown.
        images: how many test images there are; None where that is unknown.
        is_paired: whether `image_error` compares predictions image by image.
    """

    points: float
    seeds: int
    seed_error: float | None
    image_error: float | None
    images: int | None
    is_paired: bool

    @property
    def error(self) -> float | None:
        """The standard error of seeds and images together, √(seed² + image²); that of the one that
        is known; None where neither is."""
        known = [error for error in (self.seed_error, self.image_error) if error is not None]
        return math.hypot(*known) if known else None

    @property
    def covers(self) -> str:
        """What `error` and `interval` are over: `seeds and images`, `seeds`, `images` or
        nothing."""
        names = {"seeds": self.seed_error, "images": self.image_error}
        return " and ".join(name for name, error in names.items() if error is not None)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval, in points; None where there is no error.

        Half its width is √((t_{S−1} a)² + (t_{N−1} b)²) for the standard errors a of S seeds and b
        of N images, each with the quantile of its own Student's t, so that few seeds widen it.
        """
        from scipy.stats import t

        if self.error is None:
            return None
        parts = [(self.seed_error, self.seeds), (self.image_error, self.images or math.inf)]
        quantile = (1 + CONFIDENCE) / 2
        half = math.hypot(*(e * t.ppf(quantile, n - 1) for e, n in parts if e is not None))
        return self.points - half, self.points + half


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compares two methods on the same test images and seeds.

    The image error is s / √N, where s is the deviation over the N images of d_n, the difference at
    image n averaged over the seeds. The seed error is the standard error of the S accuracies'
    differences. The two are joined as √(image² + seed²), which counts what images and seeds have in
    common twice, so the error is rather too large than too small.

    Args:
        ours: whether each prediction is right ``[S, N]``, of S seeds on N images.
        theirs: the same of the other method, by the same seeds.

    Raises:
        ValueError: the two have different shapes.
    """
    ours, theirs = np.atleast_2d(ours).astype(float), np.atleast_2d(theirs).astype(float)
    if ours.shape != theirs.shape:
        raise ValueError(f"predictions of shapes {ours.shape} and {theirs.shape}")
    differences = 100 * (ours - theirs)
    of_images = differences.mean(axis=0)
    images = len(of_images)
    image_error = float(of_images.std(ddof=1)) / math.sqrt(images) if images > 1 else None
    of_seeds = differences.mean(axis=1).tolist()
    return Difference(
        statistics.fmean(of_seeds),
        len(of_seeds),
        standard_error(of_seeds),
        image_error,
        images,
        is_paired=True,
    )


def unpaired_difference(
    ours: Sequence[float], theirs: Sequence[float], images: int | None
) -> Difference:
    """Compares two methods by their accuracies alone, seed by seed.

    The images are taken as independent of each other, √(p(1 − p)/N + q(1 − q)/N) of the mean
    accuracies p and q, which is too large where they are the same images.

    Args:
        ours, theirs: accuracies in percent, of the same seeds.
        images: how many test images there are; None where that is unknown.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    tops = statistics.fmean(ours), statistics.fmean(theirs)
    image_error = math.hypot(*(binomial_error(top, images) for top in tops)) if images else None
    return Difference(
        statistics.fmean(differences),
        len(differences),
        standard_error(differences),
        image_error,
        images,
        is_paired=False,
    )


def difference_to_constant(ours: Sequence[float], value: float, images: int | None) -> Difference:
    """Compares accuracies in percent of several seeds with a number that has no error of its own,
    such as a published one."""
    top = statistics.fmean(ours)
    image_error = binomial_error(top, images) if images else None
    return Difference(
        top - value, len(ours), standard_error(ours), image_error, images, is_paired=False
    )
