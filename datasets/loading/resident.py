"""Loaders: how images become normalised batches on the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from datasets.loading.ahead import DrawnAhead
from datasets.loading.augmentation import AUGMENTATIONS, Draws
from datasets.loading.transfer import to_device
from datasets.normalisation import Normalisation
from datasets.samplers import Order, SequentialOrder
from datasets.splits import AnySplit, Split
from utils.machine.processes import ALONE, World

# Size of a block, the uint8 images that are augmented at once: a whole CIFAR epoch of stage 1, half
# an epoch of stage 2. On every device random numbers are drawn block after block.
BLOCK_BYTES = 128 * 2**20
CUDA_BLOCKS = 8
"""A GPU augments this many blocks at once, a whole epoch of either stage."""


class Normalise:
    """Makes uint8 images ``[B, C, H, W]`` float32, channels-last: (x / 255 − mean) / std.

    Args:
        normalisation: mean and standard deviation of each channel, of images scaled to [0, 1].
        device: the device of the images.
    """

    def __init__(self, normalisation: Normalisation, device: torch.device) -> None:
        self.mean = torch.tensor(normalisation.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(normalisation.std, device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
        return scaled.sub_(self.mean).div_(self.std)


class Loader(ABC):
    """Epochs of batches.

    Iteration yields ``(images [B, 3, H, W] float32 normalised, targets [B] int64)`` on the device.
    The last batch may be smaller, or larger by fewer than `smallest_batch` images. If several
    processes share the batches, each draws the whole epoch with the same random numbers and makes
    only the images of its share; the targets are those of the whole batch.

    Args:
        split: the images.
        normalise: makes the images floats, on its device.
        batch_size: B.
        order: the epoch's images in order (`datasets.samplers`); each image once in the order of
            the split if None.
        augment: `none`, `crop_flip` or `autoaugment`.
        generator: CPU generator of the augmentation.
        world: the processes that share each batch.
        smallest_batch: if fewer images are left for the last batch, they join the batch before.
        views: V; a batch has each image V times, each time with a new augmentation, as
            ``[V · B, 3, H, W]``: first all images once, then all of them again. The targets stay
            ``[B]``.
    """

    def __init__(
        self,
        split: AnySplit,
        normalise: Normalise,
        batch_size: int,
        order: Order | None = None,
        augment: str = "none",
        generator: torch.Generator | None = None,
        world: World = ALONE,
        smallest_batch: int = 1,
        views: int = 1,
    ) -> None:
        self.split = split
        self.normalise = normalise
        self.order = SequentialOrder(len(split)) if order is None else order
        self.batch_size = min(batch_size, len(self.order))
        self.augment = augment
        self.generator = generator
        self.world = world
        self.smallest_batch = smallest_batch
        self.views = views
        self._ahead: DrawnAhead | None = None

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return len(self.batch_sizes)

    @property
    def batch_sizes(self) -> list[int]:
        """Number of images in each batch of an epoch."""
        return self.sizes(len(self.order), self.batch_size)

    def sizes(self, count: int, batch_size: int) -> list[int]:
        """Returns the sizes of the batches into which `count` images are divided."""
        sizes = [batch_size] * (count // batch_size)
        rest = count % batch_size
        if sizes and 0 < rest < self.smallest_batch:
            sizes[-1] += rest
        elif rest:
            sizes.append(rest)
        return sizes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches(self.batch_size)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields one epoch in batches of another size, because passes without gradients can take
        larger batches."""
        for images, targets in self.pixels(batch_size):
            yield self.normalise(images), targets

    @abstractmethod
    def pixels(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields one epoch as `batches` does, but with uint8 images, because a training step
        normalises them itself. If `batch_size` is None, the loader's own counts."""


class ResidentLoader(Loader):
    """Batches of images that are held on the device as uint8.

    The epoch's order is drawn at once. The images are gathered and augmented in large blocks, by
    few operations, and a batch is a slice of a block.
    """

    split: Split

    @property
    def block_size(self) -> int:
        """Number of images in a block, a multiple of the batch size."""
        batch_bytes = self.batch_size * self.split.images[0].numel()
        return self.batch_size * max(1, BLOCK_BYTES // batch_bytes)

    def pixels(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields as `Loader.pixels`; on CUDA a thread draws the next epoch meanwhile."""
        batch_size = self.batch_size if batch_size is None else batch_size
        device = self.split.images.device
        epoch = self._next_epoch(is_ahead=device.type == "cuda")
        size = self.block_size * (CUDA_BLOCKS if device.type == "cuda" else 1)
        blocks = self.sizes(len(epoch[0]), size)
        for positions, *draws in zip(*(drawn.split(blocks) for drawn in epoch), strict=True):
            whole = self.sizes(len(positions), batch_size)
            rows = torch.arange(len(positions)).split(whole)
            shares = [batch[self.world.share(len(batch))] for batch in rows]
            targets = self.split.labels[to_device(positions, device)]
            if self.world.size > 1:
                own = torch.cat(shares)
                positions, *draws = (drawn[own] for drawn in (positions, *draws))
            # Each view has its own draws.
            count = len(draws) // self.views
            of_views = [tuple(draws[v * count : (v + 1) * count]) for v in range(self.views)]
            apply = AUGMENTATIONS[self.augment].apply
            images = [apply(self.split.images, positions, of_view) for of_view in of_views]
            sizes = list(map(len, shares))
            views = zip(*(view.split(sizes) for view in images), strict=True)
            for batch, batch_targets in zip(views, targets.split(whole), strict=True):
                yield (batch[0] if self.views == 1 else torch.cat(batch)), batch_targets

    def _next_epoch(self, is_ahead: bool) -> Draws:
        if self.generator is None:
            return self._draw(self.order, None)
        if self._ahead is None:
            self._ahead = DrawnAhead(self._draw, self.order, self.generator)
        epoch = self._ahead.take()
        # The thread copies one generator, so an order that draws from another cannot be drawn
        # ahead.
        if is_ahead and getattr(self.order, "generator", self.generator) is self.generator:
            self._ahead.begin()
        return epoch

    def _draw(self, order: Order, generator: torch.Generator | None) -> Draws:
        """Returns the positions of an epoch's images, and the draws of their augmentation."""
        positions = order.draw()
        height, width = self.split.images.shape[2:]
        augmentation: Any = AUGMENTATIONS[self.augment]
        blocks = [
            [
                drawn
                for _ in range(self.views)
                for drawn in augmentation.draw(len(block), height, width, generator)
            ]
            for block in positions.split(self.sizes(len(positions), self.block_size))
        ]
        return positions, *(torch.cat(drawn) for drawn in zip(*blocks, strict=True))
