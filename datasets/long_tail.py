"""Which images a long-tailed training set keeps. The class counts follow Cui et al.,
"Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, section 5.1; the images are
chosen as in LDAM-DRW."""

from collections.abc import Sequence

import numpy as np


def long_tail_counts(
    num_classes: int, max_count: int, imb_type: str, imb_factor: float
) -> list[int]:
    """Returns how many images to keep of each class ``[K]``, largest class first.

    - ``exp``: n_k = ⌊n_max · f^(k/(K−1))⌋;
    - ``step``: n_max for the first half of the classes (rounded up), ⌊n_max · f⌋ for the rest;
    - ``natural``: n_max for all.

    Args:
        num_classes: K ≥ 1.
        max_count: n_max, images of the largest class.
        imb_type: `exp`, `step` or `natural`.
        imb_factor: f, smallest class over largest class, 0 < f ≤ 1.

    Raises:
        ValueError: the type is unknown, the factor is out of bounds, or there is no class.

    Example:
        >>> long_tail_counts(5, 100, "exp", 0.01)
        [100, 31, 10, 3, 1]
    """
    if num_classes < 1:
        raise ValueError(f"a data set needs at least one class, not {num_classes}")
    if not 0 < imb_factor <= 1:
        raise ValueError(f"the imbalance factor must be in (0, 1], not {imb_factor}")
    if imb_type == "exp":
        last = max(num_classes - 1, 1)
        return [int(max_count * imb_factor ** (k / last)) for k in range(num_classes)]
    if imb_type == "step":
        head = (num_classes + 1) // 2
        return [max_count] * head + [int(max_count * imb_factor)] * (num_classes - head)
    if imb_type == "natural":
        return [max_count] * num_classes
    raise ValueError(f"the imbalance type must be exp, step or natural, not {imb_type!r}")


def counts_by_size(
    sizes: Sequence[int] | np.ndarray, imb_type: str, imb_factor: float
) -> list[int]:
    """Returns how many images to keep of each class ``[K]``, by label.

    The largest class gets the first of `long_tail_counts`, the second largest the second, and so
    on; classes of one size are taken in the order of their labels.

    Args:
        sizes: images of each class ``[K]``; the largest is n_max.
        imb_type: `exp`, `step` or `natural`.
        imb_factor: f, smallest class over largest class, 0 < f ≤ 1.

    Raises:
        ValueError: the type is unknown, the factor is out of bounds, or there is no class.

    Example:
        >>> counts_by_size([3, 6, 20], "exp", 0.1)
        [2, 6, 20]
    """
    sizes = np.asarray(sizes)
    counts = np.zeros(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    counts[order] = long_tail_counts(len(sizes), int(sizes.max()), imb_type, imb_factor)
    return counts.tolist()


def positions_by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Returns the positions of each class's images, K arrays in file order.

    It sorts the labels once. Looking for each class among all labels takes N · K steps, minutes for
    millions of images of 40,000 classes.

    Args:
        labels: label of each image, integers ``[N]``, 0..K−1.
        num_classes: K ≥ 1.

    Example:
        >>> [positions.tolist() for positions in positions_by_class(np.array([2, 0, 2]), 3)]
        [[1], [], [0, 2]]
    """
    ends = np.bincount(labels, minlength=num_classes).cumsum()
    return np.split(np.argsort(labels, kind="stable"), ends[:-1])


def _shuffled_positions(labels: np.ndarray, num_classes: int, rand_number: int) -> list[np.ndarray]:
    """Returns the shuffled positions of each class.

    NumPy's legacy generator is seeded once. It then shuffles the classes in label order; before
    its shuffle, a class is in file order.
    """
    generator = np.random.RandomState(rand_number)
    by_class = positions_by_class(labels, num_classes)
    for positions in by_class:
        generator.shuffle(positions)
    return by_class


def long_tail_indices(
    labels: Sequence[int] | np.ndarray, counts: Sequence[int], rand_number: int
) -> np.ndarray:
    """Returns the positions of the images to keep, int64 ``[Σ n_k]``, class after class. They are
    the first n_k of each class's shuffled positions, or all if the class has fewer.

    Args:
        labels: label of each image ``[N]``, 0..K−1, in file order.
        counts: n_k of each class ``[K]``.
        rand_number: seed of the shuffle.
    """
    shuffled = _shuffled_positions(np.asarray(labels), len(counts), rand_number)
    kept = [positions[:count] for positions, count in zip(shuffled, counts, strict=True)]
    return np.concatenate(kept).astype(np.int64)


def left_out_indices(
    labels: Sequence[int] | np.ndarray,
    counts: Sequence[int] | np.ndarray,
    rand_number: int,
    per_class: int | None = None,
) -> np.ndarray:
    """Returns the positions that `long_tail_indices` leaves out, int64, class after class.

    Args:
        labels: label of each image ``[N]``, 0..K−1, in file order.
        counts: n_k of each class ``[K]``.
        rand_number: seed of the shuffle, the same as for `long_tail_indices`.
        per_class: how many positions of a class are returned at most; None for all.
    """
    shuffled = _shuffled_positions(np.asarray(labels), len(counts), rand_number)
    left = [
        positions[count:][:per_class] for positions, count in zip(shuffled, counts, strict=True)
    ]
    return np.concatenate(left).astype(np.int64)
