"""Networks by their names."""

from torch import nn

from models.resnet_cifar import (
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)
from models.resnet_imagenet import resnet10, resnet18, resnet34, resnet50, resnext50

ARCHITECTURES = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet1202": resnet1202,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnext50": resnext50,
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
    model = ARCHITECTURES[arch](num_classes, normed_head=head_scale is not None)
    if head_scale is not None:
        model.linear.scale = head_scale
    return model
