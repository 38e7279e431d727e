"""What the code around the networks relies on."""

from typing import Protocol

from torch import Tensor, nn

from models.heads import NormedLinear


class Network(Protocol):
    """What each network here has beside what every `nn.Module` has.

    A protocol cannot be a module too, so code that takes a network says `nn.Module`, and says
    ``cast(Network, model)`` where it needs one of these.

    Attributes:
        linear: the head.
        num_features: D.
    """

    linear: nn.Linear | NormedLinear
    num_features: int

    def features(self, images: Tensor) -> Tensor:
        """Features ``[B, D]`` (float32) of normalised images ``[B, 3, H, W]``."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Logits ``[B, K]`` of features ``[B, D]``, in float32 under autocast too."""
        ...

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, D]`` and logits ``[B, K]``."""
        ...
