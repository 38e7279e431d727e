"""Networks. Each returns ``(features, logits)`` and has its head in `linear`."""

from models.build import ARCHITECTURES, build_model
from models.heads import COSINE_SCALE, NormedLinear
from models.network import Network
from models.resnet_cifar import (
    ResNetCifar,
    resnet8,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)

__all__ = [
    "ARCHITECTURES",
    "COSINE_SCALE",
    "Network",
    "NormedLinear",
    "ResNetCifar",
    "build_model",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
]
