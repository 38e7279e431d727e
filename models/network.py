"""The protocol of all networks."""

from typing import Protocol

from torch import Tensor, nn

from models.heads import NormedLinear


class Network(Protocol):
    """The attributes and methods of each network here, in addition to those of `nn.Module`.

    A protocol cannot be a module too. So code takes a network as `nn.Module`, and writes
    ``cast(Network, model)`` where it needs one of these.

    Attributes:
        linear: the head.
        num_features: D.
    """

    linear: nn.Linear | NormedLinear
    num_features: int

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``[B, D]`` (float32) of normalised images ``[B, 3, H, W]``."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Returns logits ``[B, K]`` of features ``[B, D]``, in float32 under autocast too."""
        ...

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features ``[B, D]`` and logits ``[B, K]``."""
        ...
