"""Batches of images that are held on the device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from datasets.loading.ahead import DrawnAhead
from datasets.loading.augmentation import AUGMENTATIONS, Draws
from datasets.loading.loader import Loader
from datasets.loading.transfer import to_device
from datasets.samplers import Order
from datasets.splits import Split

# Size of a block, the uint8 images that are augmented at once: 43,648 of CIFAR's in batches of 128.
# On CIFAR-LT this is a whole epoch of stage 1, and most of an epoch of stage 2. On every device
# random numbers are drawn block after block.
BLOCK_BYTES = 128 * 2**20
CUDA_BLOCKS = 8
"""A GPU augments this many blocks at once, a whole epoch of either stage."""


class ResidentLoader(Loader):
    """Batches of images that are held on the device as uint8.

    The epoch's order is drawn at once. The images are gathered and augmented in large blocks, by
    few operations, and a batch is a slice of a block.
    """

    split: Split
    _ahead: DrawnAhead | None = None

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
        for block in zip(*(drawn.split(blocks) for drawn in epoch), strict=True):
            sizes = self.sizes(len(block[0]), batch_size)
            targets = self.split.labels[to_device(block[0], device)].split(sizes)
            rows, own_sizes = self._own_rows(sizes)
            positions, *draws = (drawn[rows] for drawn in block)
            views = [view.split(own_sizes) for view in self._augmented(positions, draws)]
            for batch, batch_targets in zip(zip(*views, strict=True), targets, strict=True):
                yield (batch[0] if self.views == 1 else torch.cat(batch)), batch_targets

    def _own_rows(self, sizes: list[int]) -> tuple[Tensor, list[int]]:
        """Returns which images of a block this process makes, and how many of each batch.

        Args:
            sizes: number of images in each batch of the block.
        """
        batches = torch.arange(sum(sizes)).split(sizes)
        own = [rows[self.world.share(len(rows))] for rows in batches]
        return torch.cat(own), list(map(len, own))

    def _augmented(self, positions: Tensor, draws: list[Tensor]) -> list[Tensor]:
        """Returns the images at these positions once for each view, each time with its own
        draws."""
        count = len(draws) // self.views
        apply = AUGMENTATIONS[self.augment].apply
        of_views = [tuple(draws[v * count : (v + 1) * count]) for v in range(self.views)]
        return [apply(self.split.images, positions, of_view) for of_view in of_views]

    def _next_epoch(self, is_ahead: bool) -> Draws:
        if self.generator is None:
            return self._draw(self.order, None)
        if self._ahead is None:
            self._ahead = DrawnAhead(self._draw, self.order, self.generator)
        epoch = self._ahead.take()
        if is_ahead:
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
