"""What a data set is to the rest of the program."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.files.reader import ImageReader, Task
from datasets.normalisation import CIFAR, Normalisation
from utils.errors import UserError

CIFAR_MEAN, CIFAR_STD = CIFAR.mean, CIFAR.std


PART, STREAMED_PART = 1000, 64  # images looked at in one go


@dataclass(frozen=True)
class Split:
    """Images held in memory, uint8 ``[N, 3, H, W]``, and their labels, int64 ``[N]``.

    Raises:
        UserError: another type or shape, or labels of another number than images.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise UserError(f"images must be uint8 [N, 3, H, W], not {found}")
        if self.labels.shape != (len(self.images),):
            raise UserError(f"{len(self.images)} images have {list(self.labels.shape)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def area(self) -> int:
        """Pixels of an image."""
        return self.images.shape[2] * self.images.shape[3]

    def subset(self, positions: np.ndarray) -> "Split":
        chosen = torch.from_numpy(positions)
        return Split(self.images[chosen], self.labels[chosen])

    def content(self) -> Iterator[bytes]:
        """What tells these images from others."""
        yield self.images.numpy().tobytes()

    def pixels(self) -> Iterator[Tensor]:
        """The images as they are, uint8 ``[B, 3, H, W]``, a part at a time."""
        yield from self.images.split(PART)

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray) -> "Split":
        """Of uint8 ``[N, H, W, 3]`` images and integer labels."""
        channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return cls(channels_first.contiguous(), torch.from_numpy(labels.astype(np.int64)))

    def to(self, device: torch.device) -> "Split":
        """On a device; moved there once for all who ask."""
        if device not in self._elsewhere:
            is_here = device == self.images.device
            moved = self if is_here else Split(self.images.to(device), self.labels.to(device))
            self._elsewhere[device] = moved
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> dict[torch.device, "Split"]:
        return {}


@dataclass(frozen=True)
class StreamedSplit:
    """Images that stay in their files, with their labels, int64 ``[N]``; they are read by `reader`
    as side × side pixels.

    Names are relative to `root` and tell the images: moving them all changes nothing.
    """

    root: Path
    names: list[str]
    labels: Tensor
    side: int
    reader: ImageReader

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def area(self) -> int:
        """Pixels of an image."""
        return self.side**2

    def subset(self, positions: np.ndarray) -> "StreamedSplit":
        names = [self.names[position] for position in positions]
        return replace(self, names=names, labels=self.labels[torch.from_numpy(positions)])

    def content(self) -> Iterator[bytes]:
        """What tells these images from others: their names."""
        yield from (f"{name}\n".encode() for name in self.names)

    def pixels(self) -> Iterator[Tensor]:
        """The images as they are, uint8 ``[B, 3, side, side]``, a part at a time."""
        yield from self.read(torch.arange(len(self)).split(STREAMED_PART))

    def read(
        self,
        batches: Sequence[Tensor],
        augment: str = "none",
        seeds: Sequence[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Batches of images by position ``[B]``, uint8 ``[B, 3, side, side]``, augmented with one
        seed an image; the next ones are read ahead."""
        seeds = seeds or [torch.zeros_like(positions) for positions in batches]
        return self.reader.read(
            Task(
                paths=[os.path.join(self.root, self.names[i]) for i in positions],
                side=self.side,
                augment=augment,
                seeds=batch_seeds.tolist(),
            )
            for positions, batch_seeds in zip(batches, seeds, strict=True)
        )


AnySplit = Split | StreamedSplit


@dataclass(frozen=True)
class BalancedData:
    """A data set as its source gives it, before a long-tailed subset is chosen; with held-out
    images where the source has some.

    Raises:
        UserError: labels out of range, or a class without training images.
    """

    train: AnySplit
    test: AnySplit
    class_names: list[str]
    heldout: AnySplit | None = None

    def __post_init__(self) -> None:
        num_classes = len(self.class_names)
        splits = {"training": self.train, "test": self.test, "held-out": self.heldout}
        for split, labels in ((n, s.labels) for n, s in splits.items() if s is not None):
            if len(labels) == 0:
                raise UserError(f"no {split} images")
            if labels.min() < 0 or labels.max() >= num_classes:
                raise UserError(
                    f"{split} labels run from {labels.min()} to {labels.max()}, "
                    f"with {num_classes} classes"
                )
        present = set(self.train.labels.unique().tolist())
        missing = [name for label, name in enumerate(self.class_names) if label not in present]
        if missing:
            raise UserError(f"classes without training images: {', '.join(missing)}")


@dataclass(frozen=True)
class LongTailedData:
    """A long-tailed training set, its test set and, where there are any, held-out images.

    `mean` and `std` normalise the channels of images scaled to [0, 1].
    """

    name: str
    train: AnySplit
    test: AnySplit
    heldout: AnySplit | None
    class_names: list[str]
    mean: tuple[float, ...] = CIFAR_MEAN
    std: tuple[float, ...] = CIFAR_STD

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self.train.labels, minlength=self.num_classes).tolist()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the chosen training images and their labels, order included."""
        digest = hashlib.sha256(self.train.labels.numpy().tobytes())
        for part in self.train.content():
            digest.update(part)
        return digest.hexdigest()

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.train, StreamedSplit)

    def description(self) -> dict:
        """What runs remember of how their images reached the model, beside the options."""
        return {
            "normalisation": Normalisation(self.mean, self.std).as_dict(),
            "streamed": self.is_streamed,
        }

    @property
    def evaluation_splits(self) -> dict[str, AnySplit]:
        splits = {"test": self.test, "heldout": self.heldout}
        return {name: split for name, split in splits.items() if split is not None}
