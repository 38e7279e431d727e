"""What all networks have in common: features beside the logits."""

import torch
from torch import Tensor, nn

from models.heads import NormedLinear


class Network(nn.Module):
    """A network whose head is apart from the rest. Each network here is one, and adds `features`.

    Code takes a network as `nn.Module`, since it may be wrapped, and writes
    ``cast(Network, model)`` where it needs more.

    Attributes:
        linear: the head.
        num_features: D.
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
