"""Samplers: in which order training sees the images.

`ClassAwareSampler` is the released sampler, draw for draw. Training uses the orders below it. An
order draws a whole epoch at once as a tensor. It draws from a CPU generator, so it is the same on
every device. Its `state_dict` lets a resumed run draw exactly what it would have drawn.
"""

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.long_tail import positions_by_class
from losses.classification import effective_number_weights


def _shuffled_cycle(items: Sequence[int]) -> Iterator[int]:
    """Yields the items endlessly; Python's `random` shuffles them in place before each pass."""
    items = list(items)
    while True:
        random.shuffle(items)
        yield from items


class ClassAwareSampler:
    """Class-aware sampling, draw for draw as in the released code.

    Classes are visited in a shuffled cycle. A visit takes the next `num_samples_cls` images of the
    class's own shuffled cycle. An epoch has n_max · K draws, and the cycles go on from one epoch to
    the next. The draws are from Python's `random`: `random.seed` repeats them, and
    `torch.manual_seed` does not. A sampler that is made again does not go on where it was.

    Source: Shen et al., "Relay Backpropagation for Effective Learning of Deep Convolutional Neural
    Networks", ECCV 2016, section 3.2.

    Args:
        labels: label of each image ``[N]``, every class 0..K−1 at least once.
        num_samples_cls: images drawn at each visit, ≥ 1.

    Raises:
        ValueError: a class has no images, or a visit would draw none.
    """

    def __init__(
        self, labels: Sequence[int] | np.ndarray | Tensor, num_samples_cls: int = 1
    ) -> None:
        positions = _checked_positions(labels)
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
            # The released code draws a whole visit even if the epoch ends within it.
            visit = [next(images) for _ in range(self.num_samples_cls)]
            yield from visit[: self.num_samples - start]


def _checked_positions(labels: Sequence[int] | np.ndarray | Tensor) -> list[np.ndarray]:
    """Returns the positions of each class's images; raises ValueError if a class has none."""
    labels = np.asarray(labels)
    positions = positions_by_class(labels, int(labels.max()) + 1)
    empty = [c for c, p in enumerate(positions) if len(p) == 0]
    if empty:
        raise ValueError(f"classes without images: {', '.join(map(str, empty))}")
    return positions


def visits_every_class(num_classes: int, largest: int, samples_per_class: int) -> bool:
    """Returns True if class-aware sampling visits every class in every epoch.

    An epoch makes V = ⌈n_max · K / k⌉ visits. They go through shuffled passes over the K classes,
    and a pass may begin in one epoch and end in the next. An epoch that begins o > 0 visits into a
    pass needs the other K − o visits of this pass and one whole pass, together 2K − o. Every o is
    a multiple of g = gcd(V, K), so the smallest is g. So every class is visited if V ≥ 2K − g.

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


class Order:
    """The images of an epoch, in order: here every image once, in the order of the set.

    Args:
        num_images: number of images in an epoch.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def draw(self) -> Tensor:
        """Returns the epoch's image positions, int64 ``[len(self)]``, on the CPU."""
        return torch.arange(self.num_images)

    def state_dict(self) -> dict:
        """Returns what later epochs depend on beside the generator, as tensors in dicts and
        lists."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a state that `state_dict` returned."""


class ShuffledOrder(Order):
    """Every image once, shuffled."""

    def __init__(self, num_images: int, generator: torch.Generator) -> None:
        super().__init__(num_images)
        self.generator = generator

    def draw(self) -> Tensor:
        return torch.randperm(self.num_images, generator=self.generator)


class EffectiveNumberOrder(Order):
    """Stage 1's `Resample`: N draws with replacement. The probability of an image of class c is
    proportional to (1 − β) / (1 − β^n_c), the weight of `losses.effective_number_weights`.

    Args:
        labels: label of each image, int64 ``[N]``.
        generator: CPU generator.
    """

    def __init__(self, labels: Tensor, generator: torch.Generator) -> None:
        super().__init__(len(labels))
        of_class = effective_number_weights(torch.bincount(labels).tolist())
        # multinomial adds the weights up in their own type. In float32, the classes of some 300,000
        # images would be drawn several percent too often or too rarely.
        self.weights = of_class.double()[labels]
        self.generator = generator

    def draw(self) -> Tensor:
        return torch.multinomial(
            self.weights, self.num_images, replacement=True, generator=self.generator
        )


class _ShuffledCycle:
    """The cycle of `_shuffled_cycle`, with many draws at a time and a torch generator."""

    def __init__(self, items: Tensor, generator: torch.Generator) -> None:
        self.items = items
        self.generator = generator
        self.left = items[:0]

    def take(self, count: int) -> Tensor:
        """Returns the next `count` items, ``[count]``."""
        missing = count - len(self.left)
        passes = max(0, -(-missing // len(self.items)))
        order = torch.rand(passes, len(self.items), generator=self.generator).argsort(dim=1)
        stream = torch.cat([self.left, self.items[order].flatten()])
        self.left = stream[count:]
        return stream[:count]


class ClassAwareOrder(Order):
    """Class-aware sampling with a whole epoch at a time. Its epochs have the same distribution as
    those of `ClassAwareSampler`.

    Args:
        labels: label of each image ``[N]``, every class 0..K−1 at least once.
        samples_per_class: images drawn at each visit of a class, ≥ 1.
        generator: CPU generator.

    Raises:
        ValueError: a class has no images, or a visit would draw none.
    """

    def __init__(self, labels: Tensor, samples_per_class: int, generator: torch.Generator) -> None:
        positions = [torch.from_numpy(p) for p in _checked_positions(labels)]
        if samples_per_class < 1:
            raise ValueError(f"a visit draws at least one image, not {samples_per_class}")
        super().__init__(max(map(len, positions)) * len(positions))
        self.generator = generator
        self.samples_per_class = samples_per_class
        self.classes = _ShuffledCycle(torch.arange(len(positions)), generator)
        self.images = [_ShuffledCycle(p, generator) for p in positions]

    def draw(self) -> Tensor:
        visits = self.classes.take(-(-self.num_images // self.samples_per_class))
        visit_counts = torch.bincount(visits, minlength=len(self.images))
        drawn = [
            cycle.take(count * self.samples_per_class)
            for cycle, count in zip(self.images, visit_counts.tolist(), strict=True)
        ]
        order = torch.empty(len(visits), self.samples_per_class, dtype=torch.int64)
        # A stable sort lists the visits of class 0 in their order, then those of class 1, ...
        order[visits.argsort(stable=True)] = torch.cat(drawn).view_as(order)
        return order.flatten()[: self.num_images]

    def state_dict(self) -> dict:
        # `left` is a view of a whole epoch's draws; without the copy, all of them would be saved.
        images = [cycle.left.clone() for cycle in self.images]
        return {"classes": self.classes.left.clone(), "images": images}

    def load_state_dict(self, state: dict) -> None:
        self.classes.left = state["classes"]
        for cycle, left in zip(self.images, state["images"], strict=True):
            cycle.left = left
