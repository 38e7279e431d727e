"""Means, deviations and differences of accuracies over seeds and images, in percent and points.

Three things can stand behind a ±: a sample standard deviation over seeds (`deviation`), a standard
error (`standard_error`, `Difference.error`), or a 95 % interval (`Difference.interval`).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95


def deviation(values: Sequence[float]) -> float | None:
    """Returns the sample standard deviation, with n − 1; None if there are fewer than two values.

    Example:
        >>> round(deviation([1.0, 3.0]), 4)
        1.4142
    """
    return statistics.stdev(values) if len(values) > 1 else None


def standard_error(values: Sequence[float]) -> float | None:
    """Returns the standard error of the mean, deviation / √n; None if there is no deviation."""
    spread = deviation(values)
    return None if spread is None else spread / math.sqrt(len(values))


def binomial_error(accuracy: float, images: float) -> float:
    """Returns the standard error, in points, of an accuracy in percent on `images` images:
    100 · √(p (1 − p) / N).

    p is the share with two right and two wrong images added, as of Agresti and Coull (The American
    Statistician 1998), because a share of 0 or 1 would have no error. Unlike theirs, the interval
    is around the accuracy itself, and N is the number of images, so it is narrower for few images.
    """
    share = (accuracy / 100 * images + 2) / (images + 4)
    return 100 * math.sqrt(share * (1 - share) / images)


def _image_error(tops: Sequence[float], images: float | None) -> float | None:
    """Returns the error of a difference or sum of accuracies, each on its own `images` images; None
    if their number is unknown or one."""
    if images is None or images <= 1:
        return None
    return math.hypot(*(binomial_error(top, images) for top in tops))


def images_of_balanced(labels: np.ndarray) -> float:
    """Returns the number of images whose `binomial_error` a balanced accuracy has: K² / Σ_c 1/n_c,
    for K classes with n_c images each. It is N if all classes have the same number of images, else
    less, because an image of a small class counts more.

    A balanced accuracy is the mean of K accuracies, so its error is √(Σ_c p_c (1 − p_c) / n_c) / K.
    With equal p_c it is √(p (1 − p) / this number).

    Args:
        labels: true labels of the images ``[N]``.

    Example:
        >>> images_of_balanced(np.array([0, 0, 0, 0, 1]))
        3.2
    """
    counts = np.unique(labels, return_counts=True)[1]
    return float(len(counts) ** 2 / (1 / counts).sum())


def combine(summaries: Sequence[Any]) -> Any:
    """Returns several records of one form as one record.

    - A measured number (a float) becomes ``{"mean": m, "std": s}``, where s is the sample standard
      deviation, or None for one record.
    - A value that is None in any record is None.
    - A key that any record lacks is left out.
    - Other values (texts, class counts) stay if they are equal in all records; if they are not
      (selected epochs), they become a list.

    Example:
        >>> combine([{"arch": "resnet32", "top1": 1.0}, {"arch": "resnet32", "top1": 3.0}])
        {'arch': 'resnet32', 'top1': {'mean': 2.0, 'std': 1.4142}}
    """
    first = summaries[0]
    if any(summary is None for summary in summaries):
        return None
    if isinstance(first, dict):
        # A summary made earlier may lack a key.
        shared = [key for key in first if all(key in summary for summary in summaries)]
        return {key: combine([summary[key] for summary in summaries]) for key in shared}
    if isinstance(first, list):
        return [combine(values) for values in zip(*summaries, strict=True)]
    if isinstance(first, float):
        spread = deviation(summaries)
        std = None if spread is None else round(spread, 4)
        return {"mean": round(statistics.fmean(summaries), 4), "std": std}
    return first if all(summary == first for summary in summaries) else list(summaries)


@dataclass(frozen=True)
class Difference:
    """A difference of two mean accuracies, and its standard errors.

    Args:
        points: the mean difference, in points.
        seeds: the number of seeds in the mean.
        seed_error: the standard error of the mean over seeds; None with one seed.
        image_error: the standard error over the images; None if it is unknown.
        images: the number of images; None if it is unknown.
        is_paired: True if `image_error` compares predictions image by image.
    """

    points: float
    seeds: int
    seed_error: float | None
    image_error: float | None
    images: float | None
    is_paired: bool

    @property
    def error(self) -> float | None:
        """The standard error over seeds and images, √(seed² + image²). If only one of the two is
        known, it is that one; if neither is, None."""
        known = [error for error in (self.seed_error, self.image_error) if error is not None]
        return math.hypot(*known) if known else None

    @property
    def covers(self) -> str:
        """What `error` and `interval` cover: `seeds and images`, `seeds`, `images` or an empty
        string."""
        names = {"seeds": self.seed_error, "images": self.image_error}
        return " and ".join(name for name, error in names.items() if error is not None)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval, in points; None if there is no error.

        Half its width is √((t_{S−1} a)² + (t_{N−1} b)²), where a is the standard error over S seeds
        and b the one over N images. Each has the quantile of its own Student's t distribution, so
        few seeds widen the interval. The errors have the scatter of single images and seeds in
        common, so with three seeds the interval covers the truth in about 98 % of cases.
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

    d_n is the difference at image n, averaged over the seeds. The image error is s / √N, where s is
    the standard deviation of d_n over the N images. The seed error is the standard error of the S
    differences of accuracies. The two are joined as √(image² + seed²). This counts twice what
    images and seeds have in common, so the error is rather too large than too small.

    Args:
        ours: True for each right prediction ``[S, N]``, for S seeds and N images; or a number for
            each prediction, whose mean over the images is the accuracy as a share.
        theirs: the same for the other method, with the same seeds.

    Raises:
        ValueError: the two have different shapes.
    """
    ours, theirs = np.atleast_2d(ours).astype(float), np.atleast_2d(theirs).astype(float)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"predictions must have the same shape, not {ours.shape} and {theirs.shape}"
        )
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
    ours: Sequence[float], theirs: Sequence[float], images: float | None
) -> Difference:
    """Compares two methods only by their accuracies, seed by seed.

    The image error is that of two independent samples, √(p(1 − p)/N + q(1 − q)/N) for the mean
    accuracies p and q. It is too large if both methods were tested on the same images.

    Args:
        ours, theirs: accuracies in percent, with the same seeds in the same order.
        images: N, or `images_of_balanced`; None if it is unknown. One image gives no error.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    tops = statistics.fmean(ours), statistics.fmean(theirs)
    return Difference(
        statistics.fmean(differences),
        len(differences),
        standard_error(differences),
        _image_error(tops, images),
        images,
        is_paired=False,
    )


def difference_to_constant(ours: Sequence[float], value: float, images: float | None) -> Difference:
    """Compares the accuracies of several seeds with a number without an error, such as a published
    one.

    Args:
        ours: accuracies in percent, one for each seed.
        value: the number, in percent.
        images: N, or `images_of_balanced`; None if it is unknown. One image gives no error.
    """
    top = statistics.fmean(ours)
    image_error = _image_error([top], images)
    return Difference(
        top - value, len(ours), standard_error(ours), image_error, images, is_paired=False
    )
