"""Mean and standard deviation of the channels, by which images are normalised."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from utils.errors import UserError


@dataclass(frozen=True)
class Normalisation:
    """Of the channels of images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_dict(self) -> dict[str, list[float]]:
        """As checkpoints and `args.json` hold it."""
        return {"mean": list(self.mean), "std": list(self.std)}


CIFAR = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CONSTANTS = {"cifar": CIFAR, "imagenet": IMAGENET}


def of_images(batches: Iterable[Tensor]) -> Normalisation:
    """Of all pixels of uint8 batches ``[B, C, H, W]``: exact, so it does not depend on how the
    images are batched. A channel without any deviation gets 1.

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
    """How often each value occurs in each channel, int64 ``[C, 256]``."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def recorded(values: Mapping) -> Normalisation:
    """What a run remembers.

    Raises:
        UserError: no three means and deviations.
    """
    mean, std = (_three_numbers(values, name) for name in ("mean", "std"))
    if min(std) <= 0:
        raise UserError(f"the recorded normalisation has a deviation that is not > 0: {list(std)}")
    return Normalisation(mean, std)


def _three_numbers(values: Mapping, name: str) -> tuple[float, ...]:
    numbers = values.get(name) if isinstance(values, Mapping) else None
    if (
        not isinstance(numbers, (list, tuple))
        or len(numbers) != 3
        or not all(isinstance(x, float) and math.isfinite(x) for x in numbers)
    ):
        raise UserError(
            f"the recorded normalisation has no three means and deviations: {name} is {numbers}"
        )
    return tuple(numbers)
