"""Classification heads beside `nn.Linear`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COSINE_SCALE = 30.0
"""The scale s of a cosine head."""


class NormedLinear(nn.Module):
    """Scaled cosine classifier: logit_k = s · cos(f, w_k), without a bias.

    It is the head of `--head cosine` and of LDAM (Cao et al., "Learning Imbalanced Datasets with
    Label-Distribution-Aware Margin Loss", NeurIPS 2019, section 3.1: features and weights are both
    normalised). Cosines are within [-1, 1], so a cross-entropy needs a scale such as s = 30. With
    s = 1 it is the released head of LDAM, whose loss multiplies by 30.

    Args:
        in_features: D.
        out_features: number of classes K; the weight has shape ``[D, K]``.
        scale: s.

    Shapes: features ``[B, D]`` to logits ``[B, K]``.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        super().__init__()
        directions = torch.empty(in_features, out_features).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(directions, dim=0))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * (F.normalize(features, dim=1) @ F.normalize(self.weight, dim=0))


def make_head(num_features: int, num_classes: int, scale: float | None) -> nn.Linear | NormedLinear:
    """Returns a linear head if the scale is None, else a cosine head of this scale."""
    if scale is None:
        return nn.Linear(num_features, num_classes)
    return NormedLinear(num_features, num_classes, scale)
