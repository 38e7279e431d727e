"""Mean and standard deviation of the channels, with which images are normalised."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from utils.errors import UserError
from utils.options.flags import BENCHMARK_LISTS


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the three channels of images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_dict(self) -> dict[str, list[float]]:
        """Returns it as checkpoints and `args.json` record it."""
        return {"mean": list(self.mean), "std": list(self.std)}


CIFAR = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CONSTANTS = {"cifar": CIFAR, "imagenet": IMAGENET}


def usual(dataset: object) -> Normalisation:
    """Returns the normalisation of a data set that has none of its own: ImageNet's for the
    benchmark lists, else CIFAR's."""
    return IMAGENET if dataset in BENCHMARK_LISTS else CIFAR


def of_images(batches: Iterable[Tensor]) -> Normalisation:
    """Returns the normalisation of all pixels of uint8 batches ``[B, C, H, W]``.

    It is computed from exact counts of the 256 values, so it does not depend on how the images are
    batched. A channel without any deviation gets a deviation of 1.

    Example:
        >>> of_images([torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)])
        Normalisation(mean=(0.5,), std=(0.5,))
    """
    histogram = reduce(torch.add, map(_histogram, batches))
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = histogram.double() / histogram.sum(dim=1, keepdim=True)
    mean = shares @ values
    std = (shares * (values - mean.unsqueeze(1)).square()).sum(dim=1).sqrt()
    return Normalisation(tuple(mean.tolist()), tuple(d or 1.0 for d in std.tolist()))


def _histogram(images: Tensor) -> Tensor:
    """Returns how often each value occurs in each channel, int64 ``[C, 256]``."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def from_record(values: Mapping) -> Normalisation:
    """Returns the normalisation that a run recorded as `Normalisation.as_dict`.

    Raises:
        UserError: there are not three finite means and three positive deviations.
    """
    mean, std = (_three_numbers(values, name) for name in ("mean", "std"))
    if min(std) <= 0:
        raise UserError(f"the recorded normalisation has deviations that are not > 0: {list(std)}")
    return Normalisation(mean, std)


def _three_numbers(values: Mapping, name: str) -> tuple[float, ...]:
    numbers = values.get(name) if isinstance(values, Mapping) else None
    if (
        not isinstance(numbers, (list, tuple))
        or len(numbers) != 3
        or not all(isinstance(x, float) and math.isfinite(x) for x in numbers)
    ):
        raise UserError(
            f"the recorded normalisation must have three numbers for mean and std: {name} is "
            f"{numbers}"
        )
    return tuple(numbers)
