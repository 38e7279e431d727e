"""The base of all networks: they return features beside logits."""

import torch
from torch import Tensor, nn

from models.heads import NormedLinear


class Network(nn.Module):
    """A network with a separate head. Each network here is a subclass with its own `features`.

    Functions take a network as `nn.Module`, because it may be wrapped, and write
    ``cast(Network, model)`` to use more of it.

    Attributes:
        linear: the head.
        num_features: D, the length of the features.
    """

    linear: nn.Linear | NormedLinear
    num_features: int

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``[B, D]`` (float32) of normalised images ``[B, 3, H, W]``."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Returns logits ``[B, K]`` of features ``[B, D]``, in float32 under autocast too."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features ``[B, D]`` and logits ``[B, K]``."""
        features = self.features(images)
        return features, self.classify(features)


def backbone_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of a network, except those of its head."""
    return [p for name, p in model.named_parameters() if not name.startswith("linear.")]


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    return list(model.get_submodule("linear").parameters())
