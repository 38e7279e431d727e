"""Many-, medium- and few-shot classes."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

MANY_ABOVE = 100
FEW_BELOW = 20
GROUPS = ("many", "medium", "few")


def group_of_counts(class_counts: ArrayLike) -> np.ndarray:
    """Returns the group of each class ``[K]``, which its number of training images decides: `many`
    above 100, `few` below 20, `medium` from 20 to 100 (Liu et al., "Large-Scale Long-Tailed
    Recognition in an Open World", CVPR 2019, section 5.1)."""
    counts = np.asarray(class_counts)
    return np.select([counts > MANY_ABOVE, counts < FEW_BELOW], ["many", "few"], "medium")


def balanced_accuracy(record: Mapping) -> float | None:
    """Returns the balanced accuracy of a record of `accuracy_record`, in percent: its ``balanced``
    or, in a record made before there was one, the mean of its ``per_class``."""
    if "balanced" in record:
        return record["balanced"]
    return class_mean(record["per_class"])


def class_mean(per_class: Iterable[float | None]) -> float | None:
    """Returns the mean of per-class accuracies over the classes that have images (those that are
    not None), or None if none has."""
    known = [accuracy for accuracy in per_class if accuracy is not None]
    return sum(known) / len(known) if known else None
