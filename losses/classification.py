"""Classification losses and class weights of both stages, and the class prior as offsets of the
logits."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Focal loss: mean over the batch of (1 − p)^γ · ℓ, with ℓ the (weighted) cross-entropy of a
    sample and p = exp(−ℓ).

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5, in the form of
    LDAM-DRW, where p includes the class weight.

    Args:
        weight: class weights ``[K]``, or None.
        gamma: γ ≥ 0; 0 gives the unweighted mean of ℓ.

    Shapes: logits ``[B, K]``, targets ``[B]``; returns a scalar.

    Raises:
        ValueError: gamma is negative.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, gamma: float = 1.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, not {gamma}")
        self.register_buffer("weight", weight, persistent=False)
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        sample_losses = F.cross_entropy(logits, targets, weight=self.weight, reduction="none")
        # At p = 1 the gradient of a power below 1 is infinite.
        others = (1 - torch.exp(-sample_losses)).clamp(min=torch.finfo(sample_losses.dtype).tiny)
        return (others**self.gamma * sample_losses).mean()


class LDAMLoss(nn.Module):
    """Label-distribution-aware margin loss: cross-entropy of the logits s · (x_c − Δ_c [c = y]).
    Δ_c is proportional to n_c^(−1/4), and the largest Δ_c is `max_m`.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS
    2019, equations 12 and 13. Its logits x are cosines (`models.NormedLinear`).

    Args:
        cls_num_list: training images per class ``[K]``.
        max_m: the largest margin, that of the smallest class.
        weight: class weights ``[K]``, or None.
        s: scale of the logits, > 0.

    Shapes: cosines ``[B, K]``, targets ``[B]``; returns a scalar.

    Raises:
        ValueError: the scale is not positive, or a class has no images.
    """

    margins: Tensor
    weight: Tensor | None

    def __init__(
        self,
        cls_num_list: Sequence[int],
        max_m: float = 0.5,
        weight: Tensor | None = None,
        s: float = 30,
    ) -> None:
        super().__init__()
        if s <= 0:
            raise ValueError(f"the scale must be positive, not {s}")
        counts = np.asarray(cls_num_list, dtype=np.float64)
        if counts.min() < 1:
            raise ValueError("every class needs at least one image")
        margins = counts**-0.25
        margins = margins * (max_m / margins.max())
        self.register_buffer(
            "margins", torch.tensor(margins, dtype=torch.float32), persistent=False
        )
        self.register_buffer("weight", weight, persistent=False)
        self.scale = s

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        is_target = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        logits = logits - is_target * self.margins[targets].unsqueeze(1)
        return F.cross_entropy(self.scale * logits, targets, weight=self.weight)


class BalancedSoftmaxLoss(nn.Module):
    """Balanced softmax: cross-entropy of the logits x_c + τ · log π_c, with the class prior
    π_c = n_c / N of the training images.

    Only training uses the prior. Predictions use the plain logits, as if all classes were equally
    frequent. Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020,
    equation 4; with τ, it is the logit-adjusted loss of Menon et al., "Long-Tail Learning via Logit
    Adjustment", ICLR 2021, equation 10. With equal counts, or τ = 0, it is cross-entropy.

    Args:
        cls_num_list: training images per class n_c ``[K]``.
        tau: τ ≥ 0, the weight of the prior.
        weight: class weights ``[K]``, or None.

    Shapes: logits ``[B, K]``, targets ``[B]``; returns a scalar.

    Raises:
        ValueError: τ is negative, or a class has no images.
    """

    offsets: Tensor
    weight: Tensor | None

    def __init__(
        self, cls_num_list: Sequence[int], tau: float = 1.0, weight: Tensor | None = None
    ) -> None:
        super().__init__()
        if not tau >= 0:
            raise ValueError(f"tau must be at least 0, not {tau}")
        self.register_buffer("offsets", prior_offsets(cls_num_list, tau), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.offsets, targets, weight=self.weight)


def prior_offsets(class_counts: Sequence[int], tau: float) -> Tensor:
    """Returns τ · log(n_c / N), ``[K]``, which balanced softmax adds to the logits.

    Raises:
        ValueError: a class has no images.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if counts.min() < 1:
        raise ValueError("every class needs at least one image")
    return torch.tensor(tau * np.log(counts / counts.sum()), dtype=torch.float32)


def effective_number_weights(class_counts: Sequence[int], beta: float = 0.9999) -> Tensor:
    """Returns class weights ``[K]`` proportional to (1 − β) / (1 − β^n_c), with the sum K. Every
    class needs an image.

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, equation 2.
    """
    weights = (1.0 - beta) / (1.0 - np.power(beta, np.asarray(class_counts, dtype=np.float64)))
    return torch.tensor(weights / weights.sum() * len(weights), dtype=torch.float32)


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Returns the class weights ``[K]`` of the suffix ``_bal``: N / (K · n_c), scikit-learn's
    "balanced" weights. Every class needs an image."""
    counts = np.asarray(class_counts, dtype=np.float64)
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)


def long_tail_weights(class_counts: Sequence[int]) -> Tensor:
    """Returns the class weights ``[K]`` of the suffix ``_lt``: n_c / n_max.

    They follow the long tail. With a class-aware sampler they restore the natural class proportions
    in a loss.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    return torch.tensor(counts / counts.max(), dtype=torch.float32)
