"""Loaders: how images become normalised batches on the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from datasets.normalisation import Normalisation
from datasets.samplers import Order
from datasets.splits import AnySplit
from utils.machine.processes import ALONE, World


class Normalise:
    """Makes uint8 images ``[B, C, H, W]`` float32, channels-last: (x / 255 − mean) / std.

    Args:
        normalisation: mean and standard deviation of each channel, of images scaled to [0, 1].
        device: the device of the images.

    Attributes:
        device: the same, with its index.
    """

    def __init__(self, normalisation: Normalisation, device: torch.device) -> None:
        self.mean = torch.tensor(normalisation.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(normalisation.std, device=device).view(1, -1, 1, 1)
        self.device = self.mean.device

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
        generator: CPU generator of the augmentation; the order must draw from it or not at all.
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
        self.order = Order(len(split)) if order is None else order
        self.batch_size = min(batch_size, len(self.order))
        self.augment = augment
        self.generator = generator
        self.world = world
        self.smallest_batch = smallest_batch
        self.views = views

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
