"""Many-, medium- and few-shot classes."""

import numpy as np
from numpy.typing import ArrayLike

MANY_ABOVE = 100
FEW_BELOW = 20
GROUPS = ("many", "medium", "few")


def group_of_counts(class_counts: ArrayLike) -> np.ndarray:
    """Returns the group of each class ``[K]``: `many` with more than 100 training images, `few`
    with fewer than 20, else `medium`.

    Source: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019, section
    5.1.

    Args:
        class_counts: training images of each class ``[K]``.
    """
    counts = np.asarray(class_counts)
    return np.select([counts > MANY_ABOVE, counts < FEW_BELOW], ["many", "few"], "medium")
