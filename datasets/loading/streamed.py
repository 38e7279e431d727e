"""Batches of images that stay in their files."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from datasets.loading.loader import Loader
from datasets.loading.reader import TASK_IMAGES
from datasets.loading.transfer import to_device
from datasets.splits import StreamedSplit


class StreamedLoader(Loader):
    """Batches of images that stay in their files. The workers of `datasets.loading.reader` read and
    augment them.

    The epoch's order and one seed per image are drawn before the first batch. So the augmentation
    does not depend on the number of workers or on which worker reads an image, and a resumed run
    has the same batches.
    """

    split: StreamedSplit

    def pixels(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields as `Loader.pixels`. If several processes share the batches, each reads the images
        of its share. Images have one view: only `--contrastive` needs several, and it refuses
        streamed images."""
        batch_size = self.batch_size if batch_size is None else batch_size
        order = self.order.draw()
        seeds = torch.zeros_like(order)
        if self.augment != "none":
            seeds.random_(2**32, generator=self.generator)
        device = self.normalise.device
        sizes = self.sizes(len(order), batch_size)
        targets = to_device(self.split.labels[order], device).split(sizes)
        shares = [batch[self.world.share(len(batch))] for batch in order.split(sizes)]
        own_seeds = torch.cat([s[self.world.share(len(s))] for s in seeds.split(sizes)])
        parts = [part for share in shares for part in share.split(TASK_IMAGES)]
        part_seeds = own_seeds.split([len(part) for part in parts])
        images = self.split.read(parts, self.augment, part_seeds)
        for batch_targets, share in zip(targets, shares, strict=True):
            count = -(-len(share) // TASK_IMAGES)
            pixels = [part.to(device, non_blocking=True) for part in islice(images, count)]
            yield torch.cat(pixels), batch_targets
