"""Batches of images that stay in their files."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from datasets.pipeline import Normalise, ResidentLoader
from datasets.samplers import SequentialOrder
from datasets.splits import AnySplit, StreamedSplit
from utils.world import ALONE, World

# A worker reads so many images at a time: few enough for all of them to share in a batch, and for
# what is read ahead to take little memory.
TASK_IMAGES = 64


class StreamedLoader:
    """Batches of a set beyond memory, read and augmented by the workers of its reader.

    The protocol is `ResidentLoader`'s, with the same orders. An epoch's order and one seed an image
    are drawn before its first batch, so that augmentation depends neither on the number of workers
    nor on which of them reads an image, and an interrupted run goes on exactly.

    Args:
        split: the set; what its batches go through is on `normalise`'s device.
        normalise: what makes floats of a batch.
        batch_size: B.
        order: in which order to go through the set (`datasets.samplers`); its own if None.
        augment: `none`, `crop_flip` or `autoaugment`, as `datasets.image_reader` has them.
        generator: CPU generator of the augmentation.
        world: the processes that share each batch: each reads the images of its share of it, and
            the targets are still those of all of it.
    """

    def __init__(
        self,
        split: StreamedSplit,
        normalise: Normalise,
        batch_size: int,
        order: SequentialOrder | None = None,
        augment: str = "none",
        generator: torch.Generator | None = None,
        world: World = ALONE,
    ) -> None:
        self.split = split
        self.normalise = normalise
        self.order = SequentialOrder(len(split)) if order is None else order
        self.batch_size = min(batch_size, len(self.order))
        self.augment = augment
        self.generator = generator
        self.world = world

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches(self.batch_size)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in batches of another size: passes without gradients take larger ones."""
        order = self.order.draw()
        seeds = torch.zeros_like(order)
        if self.augment != "none":
            seeds.random_(2**32, generator=self.generator)
        device = self.normalise.mean.device
        batches = order.split(batch_size)
        shares = [batch[self.world.share(len(batch))] for batch in batches]
        own_seeds = torch.cat([s[self.world.share(len(s))] for s in seeds.split(batch_size)])
        parts = [part for share in shares for part in share.split(TASK_IMAGES)]
        part_seeds = own_seeds.split([len(part) for part in parts])
        images = self.split.read(parts, self.augment, part_seeds)
        for positions, share in zip(batches, shares, strict=True):
            count = -(-len(share) // TASK_IMAGES)
            pixels = [part.to(device, non_blocking=True) for part in islice(images, count)]
            targets = self.split.labels[positions].to(device, non_blocking=True)
            yield self.normalise(torch.cat(pixels)), targets


Loader = ResidentLoader | StreamedLoader


def make_loader(
    split: AnySplit,
    normalise: Normalise,
    batch_size: int,
    order: SequentialOrder | None = None,
    augment: str = "none",
    generator: torch.Generator | None = None,
    world: World = ALONE,
) -> Loader:
    """The loader of a split on `normalise`'s device: a set held in memory moves there."""
    if isinstance(split, StreamedSplit):
        return StreamedLoader(split, normalise, batch_size, order, augment, generator, world)
    resident = split.to(normalise.mean.device)
    return ResidentLoader(resident, normalise, batch_size, order, augment, generator, world)
