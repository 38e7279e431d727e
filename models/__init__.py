"""Networks. Each returns ``(features, logits)`` and has its head in `linear`."""

from models.build import ARCHITECTURES, build_model
from models.heads import COSINE_SCALE, NormedLinear
from models.network import Network
from models.resnet_cifar import (
    ResNetCifar,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)
from models.resnet_imagenet import (
    ResNetImageNet,
    resnet10,
    resnet18,
    resnet34,
    resnet50,
    resnext50,
)

__all__ = [
    "ARCHITECTURES",
    "COSINE_SCALE",
    "Network",
    "NormedLinear",
    "ResNetCifar",
    "ResNetImageNet",
    "build_model",
    "resnet10",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "resnet1202",
    "resnext50",
]
