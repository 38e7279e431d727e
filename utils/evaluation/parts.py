"""Scores of many images, computed in parts that fit into memory."""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import starmap

import torch
from torch import Tensor

VALUES_AT_ONCE = 2**28
"""Values of one kind that are in memory at once: 1 GiB in float32."""


def in_parts(
    score: Callable[[Tensor], Tensor], num_classes: int, features: Tensor, *others: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Yields, part after part, the scores ``[n, K]`` of n features and the same rows of the other
    tensors. A part has at most `VALUES_AT_ONCE` scores, or a single row.

    Args:
        score: returns the scores ``[n, K]`` of features ``[n, D]``, each row by itself.
        num_classes: K.
        features: ``[N, D]``.
        others: tensors ``[N, ...]``, such as the labels.
    """
    rows = max(1, VALUES_AT_ONCE // num_classes)
    for part, *same_rows in zip(*(t.split(rows) for t in (features, *others)), strict=True):
        yield score(part), *same_rows


def sum_of_parts(measure: Callable[..., Tensor], parts: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """Returns the sum of what `measure` finds in the tensors of each part."""
    return reduce(torch.add, starmap(measure, parts))
