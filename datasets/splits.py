"""What the rest of the program knows of a data set."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from datasets.files.trees import FileList
from datasets.normalisation import CIFAR, Normalisation
from datasets.origin import OWN_TEST_SET, Origin, account
from datasets.recorded import data_of
from utils.errors import UserError
from utils.files import of_each

PART, STREAMED_PART = 1000, 64  # images that `pixels` yields at a time
BEGINNING = 4096  # first bytes of a file that enter the fingerprint of streamed images


@dataclass(frozen=True)
class Split:
    """Images held in memory, uint8 ``[N, 3, H, W]``, and their labels, int64 ``[N]``.

    `files` are the names of the images, relative to the data root; None if they are not files.

    Raises:
        UserError: the images have another type or shape, or there are not as many labels.
    """

    images: Tensor
    labels: Tensor
    files: list[str] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise UserError(f"images must be uint8 [N, 3, H, W], not {found}")
        if self.labels.shape != (len(self.images),):
            raise UserError(f"{len(self.images)} images have {list(self.labels.shape)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """The width of an image in pixels; data sets have square images."""
        return self.images.shape[3]

    def subset(self, positions: np.ndarray) -> "Split":
        """Returns the images at these positions, int64 ``[M]``."""
        chosen = torch.from_numpy(positions)
        files = None if self.files is None else [self.files[i] for i in positions]
        return Split(self.images[chosen], self.labels[chosen], files)

    def content(self) -> Iterator[memoryview]:
        """Yields the bytes that tell these images from others: all pixels, not copied."""
        yield self.images.flatten().numpy().data

    def pixels(self) -> Iterator[Tensor]:
        """Yields all images, uint8 ``[B, 3, H, W]``, a part at a time and not augmented."""
        yield from self.images.split(PART)

    @classmethod
    def from_arrays(
        cls, images: np.ndarray, labels: np.ndarray, files: list[str] | None = None
    ) -> "Split":
        """Returns the split of uint8 images ``[N, H, W, 3]`` and integer labels ``[N]``."""
        channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return cls(channels_first.contiguous(), torch.from_numpy(labels.astype(np.int64)), files)

    def to(self, device: torch.device) -> "Split":
        """Returns the split on a device; it is moved there only once, however often this is
        called."""
        if device == self.images.device:
            return self
        if device not in self._elsewhere:
            moved = Split(self.images.to(device), self.labels.to(device), self.files)
            self._elsewhere[device] = moved
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> dict[torch.device, "Split"]:
        return {}


class Task(NamedTuple):
    """Images for a worker to read."""

    paths: list[str]
    side: int  # of the result, in pixels
    augment: str  # none, crop_flip or autoaugment
    seeds: list[int]  # one per image


class Reader(Protocol):
    """What reads the images of a `StreamedSplit`: `datasets.loading.reader.ImageReader`."""

    def read(self, tasks: Iterable[Task]) -> Iterator[Tensor]:
        """Yields the images of each task in order, uint8 ``[B, 3, side, side]``."""
        ...


@dataclass(frozen=True)
class StreamedSplit:
    """Images that stay in their files. `reader` reads them as side × side pixels."""

    listing: FileList
    side: int
    reader: Reader

    def __len__(self) -> int:
        return len(self.listing)

    @cached_property
    def labels(self) -> Tensor:
        """The label of each image, int64 ``[N]``."""
        return torch.tensor(self.listing.labels, dtype=torch.int64)

    def subset(self, positions: np.ndarray) -> "StreamedSplit":
        """Returns the images at these positions, int64 ``[M]``."""
        return replace(self, listing=self.listing.part(positions))

    @property
    def files(self) -> list[str]:
        """Names relative to the data root."""
        return self.listing.files

    def content(self) -> Iterator[bytes]:
        """Yields the bytes that tell these images from others: names, sizes and first bytes of the
        files."""
        yield from of_each(self._beginning, self.listing.names)

    def _beginning(self, name: str) -> bytes:
        """Returns the name, size and first bytes of a file."""
        with open(self.listing.path(name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return os.fsencode(name) + f" {size}\n".encode() + file.read(BEGINNING)

    def names_alone(self) -> Iterator[bytes]:
        """Yields what `content` yielded in earlier versions."""
        yield from (os.fsencode(f"{name}\n") for name in self.listing.names)

    def pixels(self) -> Iterator[Tensor]:
        """Yields all images, uint8 ``[B, 3, side, side]``, a part at a time and not augmented."""
        yield from self.read(torch.arange(len(self)).split(STREAMED_PART))

    def read(
        self,
        batches: Sequence[Tensor],
        augment: str = "none",
        seeds: Sequence[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Returns an iterator over batches, uint8 ``[B, 3, side, side]``; it reads ahead.

        Args:
            batches: positions of the images of each batch, int64 ``[B]``.
            augment: `none`, `crop_flip` or `autoaugment`.
            seeds: for each batch one seed per image, int64 ``[B]``; zeros if None.
        """
        seeds = seeds or [torch.zeros_like(positions) for positions in batches]
        return self.reader.read(
            Task(
                paths=[self.listing.path(self.listing.names[i]) for i in positions],
                side=self.side,
                augment=augment,
                seeds=batch_seeds.tolist(),
            )
            for positions, batch_seeds in zip(batches, seeds, strict=True)
        )


AnySplit = Split | StreamedSplit


@dataclass(frozen=True)
class BalancedData:
    """A data set as its source gives it, before a long-tailed subset is chosen. `heldout` is None
    if the source has no held-out images.

    Raises:
        UserError: a split is empty, a label is out of range, or a class has no training images.
    """

    train: AnySplit
    test: AnySplit
    class_names: list[str]
    heldout: AnySplit | None = None
    origin: Origin = OWN_TEST_SET

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
    """A long-tailed training set, its test set and its held-out images, or None."""

    name: str
    train: AnySplit
    test: AnySplit
    heldout: AnySplit | None
    class_names: list[str]
    normalisation: Normalisation = CIFAR
    origin: Origin = OWN_TEST_SET

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_counts(self) -> list[int]:
        """Training images of each class ``[K]``."""
        return self._counts(self.train)

    def _counts(self, split: AnySplit) -> list[int]:
        """Returns the number of images of each class ``[K]`` in a split."""
        return torch.bincount(split.labels, minlength=self.num_classes).tolist()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the chosen training images and their labels, in their order."""
        return _digest(self.train.labels, self.train.content())

    @cached_property
    def evaluation_fingerprints(self) -> dict[str, str]:
        """The same of the test and the held-out images, by split."""
        splits = self.evaluation_splits
        return {name: _digest(split.labels, split.content()) for name, split in splits.items()}

    def has_fingerprint(self, recorded: str | None) -> bool:
        """Returns True if a run with this fingerprint may have been trained on these images. None
        fits all images; the fingerprints of earlier versions had only the names of streamed
        images."""
        if recorded in (None, self.fingerprint):
            return True
        train = self.train
        is_streamed = isinstance(train, StreamedSplit)
        return is_streamed and recorded == _digest(train.labels, train.names_alone())

    def changed_splits(self, record: Mapping) -> list[str] | None:
        """Returns which evaluation splits, `test` and `heldout`, have other images than those of an
        earlier run. None if its record does not tell: that of an earlier version, or of a run that
        streamed its images where this one does not.

        Args:
            record: a checkpoint or the `args.json` of that run.
        """
        description = data_of(record)
        before = description.get("evaluation_fingerprints")
        if not isinstance(before, Mapping) or description.get("streamed") != self.is_streamed:
            return None
        now = self.evaluation_fingerprints
        return [name for name in ("test", "heldout") if before.get(name) != now.get(name)]

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.train, StreamedSplit)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.train.side

    def description(self) -> dict:
        """Returns what runs record about their data beside the options."""
        return {
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "normalisation": self.normalisation.as_dict(),
            "streamed": self.is_streamed,
            "test_fraction": self.origin.test_fraction,
            "test_rand_number": self.origin.test_rand_number,
            "are_whole": self.origin.are_whole,
            "evaluation_fingerprints": self.evaluation_fingerprints,
        }

    def account(self) -> str:
        """Returns one line about the data: classes, images, largest and smallest class, where test
        and held-out images come from, and what was ignored."""
        splits = {"train": self.train} | self.evaluation_splits
        counts = {name: self._counts(split) for name, split in splits.items()}
        return account(self.origin, self.class_names, counts)

    @property
    def evaluation_splits(self) -> dict[str, AnySplit]:
        """The splits `test` and, if there is one, `heldout`, by name."""
        splits = {"test": self.test, "heldout": self.heldout}
        return {name: split for name, split in splits.items() if split is not None}


def _digest(labels: Tensor, content: Iterable[bytes | memoryview]) -> str:
    """Returns a SHA-256 of labels and of what tells their images from others."""
    digest = hashlib.sha256(labels.numpy().tobytes())
    for part in content:
        digest.update(part)
    return digest.hexdigest()
