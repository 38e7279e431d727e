"""What a data set is to the rest of the program."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


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

    def subset(self, positions: np.ndarray) -> "Split":
        chosen = torch.from_numpy(positions)
        return Split(self.images[chosen], self.labels[chosen])

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray) -> "Split":
        """Of uint8 ``[N, H, W, 3]`` images and integer labels."""
        channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return cls(channels_first.contiguous(), torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class BalancedData:
    """A data set as its source gives it, before a long-tailed subset is chosen.

    Raises:
        UserError: labels out of range, or a class without training images.
    """

    train: Split
    test: Split
    class_names: list[str]

    def __post_init__(self) -> None:
        num_classes = len(self.class_names)
        for split, labels in (("training", self.train.labels), ("test", self.test.labels)):
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
    train: Split
    test: Split
    heldout: Split | None
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
        digest.update(self.train.images.numpy().tobytes())
        return digest.hexdigest()

    @property
    def evaluation_splits(self) -> dict[str, Split]:
        splits = {"test": self.test, "heldout": self.heldout}
        return {name: split for name, split in splits.items() if split is not None}
