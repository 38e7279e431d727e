"""Networks by their names."""

from collections.abc import Callable
from importlib import import_module

from torch import nn

from models.resnet_cifar import (
    resnet8,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)


def _large(name: str) -> Callable[..., nn.Module]:
    """Returns the function of that name in `models.resnet_imagenet`, which is imported when a
    network is built: it needs torchvision, which takes two seconds."""

    def build(*arguments, **settings) -> nn.Module:
        return getattr(import_module("models.resnet_imagenet"), name)(*arguments, **settings)

    return build


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet1202": resnet1202,
    "resnet10": _large("resnet10"),
    "resnet18": _large("resnet18"),
    "resnet34": _large("resnet34"),
    "resnet50": _large("resnet50"),
    "resnext50": _large("resnext50"),
}


def build_model(arch: str, num_classes: int, head_scale: float | None = None) -> nn.Module:
    """Returns a network with random weights.

    Args:
        arch: a name of `ARCHITECTURES`.
        num_classes: number of logits K.
        head_scale: None for a linear head, else the scale of a cosine head (`NormedLinear`), such
            as `COSINE_SCALE`.

    Raises:
        ValueError: the network is unknown.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"the network must be one of {', '.join(ARCHITECTURES)}, not {arch!r}")
    return ARCHITECTURES[arch](num_classes, head_scale=head_scale)
