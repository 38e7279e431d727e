"""In which order training sees the images.

`ClassAwareSampler` is the released sampler, draw for draw. Training uses the samplers below it,
which draw a whole epoch at once as a tensor; they share one CPU generator, so an order does not
depend on the device, and their `state_dict` continues an interrupted run exactly.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from losses.classification import effective_number_weights


def _shuffled_cycle(items: Sequence[int]) -> Iterator[int]:
    """Endless passes over the items, shuffled in place before each by Python's `random`."""
    items = list(items)
    while True:
        random.shuffle(items)
        yield from items


class ClassAwareSampler:
    """Class-aware sampling (Shen et al., "Relay Backpropagation for Effective Learning of Deep
    Convolutional Neural Networks", ECCV 2016, section 3.2), draw for draw as in the released code.

    Classes are visited in a shuffled cycle; from each visited class `num_samples_cls` images are
    drawn from its own shuffled cycle, consecutively. An epoch is n_max · K draws, and the cycles
    go on from one epoch to the next.

    Args:
        labels: label of each image ``[N]``, every class 0..K−1 at least once.
        num_samples_cls: images drawn at each visit, ≥ 1.

    Raises:
        ValueError: a class without images or fewer than one image a visit.
    """

    def __init__(
        self, labels: Sequence[int] | np.ndarray | Tensor, num_samples_cls: int = 1
    ) -> None:
        positions = _positions_by_class(labels)
        if num_samples_cls < 1:
            raise ValueError(f"a visit draws at least one image, not {num_samples_cls}")
        self.num_samples = max(map(len, positions)) * len(positions)
        self.num_samples_cls = num_samples_cls
        self._classes = _shuffled_cycle(range(len(positions)))
        self._images = [_shuffled_cycle(p.tolist()) for p in positions]

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.num_samples, self.num_samples_cls):
            images = self._images[next(self._classes)]
            # A whole visit is drawn even where the epoch ends within it, as released.
            visit = [next(images) for _ in range(self.num_samples_cls)]
            yield from visit[: self.num_samples - start]


def _positions_by_class(labels: Sequence[int] | np.ndarray | Tensor) -> list[np.ndarray]:
    labels = np.asarray(labels)
    positions = [np.flatnonzero(labels == c) for c in range(int(labels.max()) + 1)]
    empty = [c for c, p in enumerate(positions) if len(p) == 0]
    if empty:
        raise ValueError(f"classes without images: {', '.join(map(str, empty))}")
    return positions


def visits_every_class(num_classes: int, largest: int, samples_per_class: int) -> bool:
    """Returns True if class-aware sampling visits every class in every epoch.

    An epoch makes V = ⌈n_max · K / k⌉ visits, in a cycle of shuffled passes over the K classes that
    goes on from one epoch to the next. An epoch that begins o > 0 visits into a pass needs the
    K − o that are left of it and a whole pass more; of these o, multiples of g = gcd(V, K), the
    smallest is g. So every class is visited if V ≥ 2K − g.

    Args:
        num_classes: K.
        largest: n_max, images of the largest class.
        samples_per_class: k, images drawn at each visit.

    Example:
        >>> [k for k in range(1, 13) if visits_every_class(10, 11, k)]
        [1, 2, 3, 4, 5, 6, 11, 12]
    """
    visits = -(-largest * num_classes // samples_per_class)
    return visits >= 2 * num_classes - math.gcd(visits, num_classes)


class Order(Protocol):
    """Which images an epoch consists of, and in which order."""

    def __len__(self) -> int:
        """Images an epoch."""
        ...

    def draw(self) -> Tensor:
        """The epoch's image positions, int64 ``[len(self)]``, on the CPU."""
        ...

    def state_dict(self) -> dict:
        """What the orders of later epochs depend on, beside the generator."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Goes on from there."""


class SequentialOrder:
    """Every image once, in the order of the set."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def draw(self) -> Tensor:
        """The epoch's image positions, int64 ``[len(self)]``, on the CPU."""
        return torch.arange(self.num_images)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing is carried from one epoch to the next."""


class ShuffledOrder(SequentialOrder):
    """Every image once, shuffled."""

    def __init__(self, num_images: int, generator: torch.Generator) -> None:
        super().__init__(num_images)
        self.generator = generator

    def draw(self) -> Tensor:
        return torch.randperm(self.num_images, generator=self.generator)


class EffectiveNumberOrder(SequentialOrder):
    """Stage 1's `Resample`: N draws with replacement, an image of class c with a probability
    proportional to (1 − β) / (1 − β^n_c)."""

    def __init__(self, labels: Tensor, generator: torch.Generator) -> None:
        super().__init__(len(labels))
        self.weights = effective_number_weights(torch.bincount(labels).tolist())[labels]
        self.generator = generator

    def draw(self) -> Tensor:
        return torch.multinomial(
            self.weights, self.num_images, replacement=True, generator=self.generator
        )


class _ShuffledCycle:
    """`_shuffled_cycle`, many draws at a time."""

    def __init__(self, items: Tensor, generator: torch.Generator) -> None:
        self.items = items
        self.generator = generator
        self.left = items[:0]

    def take(self, count: int) -> Tensor:
        missing = count - len(self.left)
        passes = max(0, -(-missing // len(self.items)))
        order = torch.rand(passes, len(self.items), generator=self.generator).argsort(dim=1)
        stream = torch.cat([self.left, self.items[order].flatten()])
        self.left = stream[count:]
        return stream[:count]


class ClassAwareOrder:
    """The law of `ClassAwareSampler`, a whole epoch at a time.

    Args:
        labels: label of each image ``[N]``, every class 0..K−1 at least once.
        samples_per_class: images drawn at each visit of a class, ≥ 1.
        generator: CPU generator.

    Raises:
        ValueError: a class without images, or a visit that draws none.
    """

    def __init__(self, labels: Tensor, samples_per_class: int, generator: torch.Generator) -> None:
        positions = [torch.from_numpy(p) for p in _positions_by_class(labels)]
        if samples_per_class < 1:
            raise ValueError(f"a visit draws at least one image, not {samples_per_class}")
        self.num_draws = max(map(len, positions)) * len(positions)
        self.generator = generator
        self.samples_per_class = samples_per_class
        self.classes = _ShuffledCycle(torch.arange(len(positions)), generator)
        self.images = [_ShuffledCycle(p, generator) for p in positions]

    def __len__(self) -> int:
        return self.num_draws

    def draw(self) -> Tensor:
        """The epoch's image positions, int64 ``[len(self)]``, on the CPU."""
        visits = self.classes.take(-(-self.num_draws // self.samples_per_class))
        visit_counts = torch.bincount(visits, minlength=len(self.images))
        order = torch.empty(len(visits), self.samples_per_class, dtype=torch.int64)
        for label, count in enumerate(visit_counts.tolist()):
            drawn = self.images[label].take(count * self.samples_per_class)
            order[visits == label] = drawn.view(count, self.samples_per_class)
        return order.flatten()[: self.num_draws]

    def state_dict(self) -> dict:
        # Copies: what is left is a view of a whole epoch's stream, which would be saved with it.
        images = [cycle.left.clone() for cycle in self.images]
        return {"classes": self.classes.left.clone(), "images": images}

    def load_state_dict(self, state: dict) -> None:
        self.classes.left = state["classes"]
        for cycle, left in zip(self.images, state["images"], strict=True):
            cycle.left = left
