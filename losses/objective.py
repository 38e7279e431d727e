"""The objectives that training minimises: sums of named losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losses.classification import (
    BalancedSoftmaxLoss,
    FocalLoss,
    LDAMLoss,
    balanced_weights,
    effective_number_weights,
    long_tail_weights,
)
from losses.contrastive import ContrastiveBranch
from losses.distillation import DistillationLoss
from losses.dro import DROLoss

CLASS_WEIGHTS = {"": None, "_lt": long_tail_weights, "_bal": balanced_weights}
"""What a loss's suffix makes of the class counts."""


Mixed = tuple[Tensor, Tensor]
"""The second targets ``[B]`` of mixed images and the first ones' share of them, a scalar."""


Views = tuple[Tensor, Tensor]
"""The features ``[V · B, D]`` of V more views of the batch, one after the other, and the weights of
the classifier ``[K, D]``."""

CLASSIFICATION_WEIGHT, CONTRASTIVE_WEIGHT = 2.0, 0.6
"""Of balanced contrastive learning (Zhu et al., CVPR 2022)."""


class Objective(nn.Module):
    """A weighted sum of named losses: of the logits and targets, or of the features and the epoch's
    centroids (`DROLoss`), or of the logits and a teacher's (`DistillationLoss`), or of the features
    of more views and the classifier's weights (`ContrastiveBranch`).

    Args:
        losses: name to loss module.
        weights: one factor per loss; 1 each if None.
        columns: which columns of features and centroids a robust loss works on; all if not named.
    """

    weights: Tensor

    def __init__(
        self,
        losses: dict[str, nn.Module],
        weights: Sequence[float] | None = None,
        columns: Mapping[str, slice] | None = None,
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        weights = [1.0] * len(losses) if weights is None else weights
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.columns = {} if columns is None else dict(columns)

    @property
    def names(self) -> list[str]:
        return list(self.losses)

    @property
    def uses_centroids(self) -> bool:
        return any(isinstance(loss, DROLoss) for loss in self.losses.values())

    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        targets: Tensor,
        centroids: Tensor | None = None,
        *,
        mixed: Mixed | None = None,
        teacher_logits: Tensor | None = None,
        views: Views | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum, and the losses by themselves ``[number of losses]`` without weights, detached.

        A classification loss L of images that were mixed (mixup) is λ · L(y) + (1 − λ) · L(y'),
        with the share λ of the images with the targets y.

        Shapes: features ``[B, D]``, logits ``[B, K]``, targets ``[B]``, centroids ``[K, D]``, a
        teacher's logits ``[B, K]``.

        Raises:
            ValueError: mixed images for a loss that takes one target an image.
        """

        def value(name: str, loss: nn.Module) -> Tensor:
            if isinstance(loss, DistillationLoss):
                return loss(logits, teacher_logits)
            if isinstance(loss, ContrastiveBranch):
                assert views is not None
                view_features, class_weights = views
                number = len(view_features) // len(targets)
                return loss(view_features, targets.repeat(number), class_weights)
            if isinstance(loss, DROLoss):
                if mixed is not None:
                    raise ValueError("the robust loss takes one target an image, not two")
                assert centroids is not None
                return loss.to_centroids(*self._columns_of(name, features, targets, centroids))
            if mixed is None:
                return loss(logits, targets)
            others, share = mixed
            return share * loss(logits, targets) + (1 - share) * loss(logits, others)

        parts = torch.stack([value(name, loss) for name, loss in self.losses.items()])
        return (self.weights * parts).sum(), parts.detach()

    def _columns_of(
        self, name: str, features: Tensor, targets: Tensor, centroids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if name not in self.columns:
            return features, targets, centroids
        columns = self.columns[name]
        return features[:, columns], targets, centroids[:, columns]


def stage_1_objective(
    loss_type: str,
    class_counts: Sequence[int],
    reweighted: bool = False,
    prior_weight: float = 1.0,
    robust: tuple[DROLoss, float] | None = None,
    distillation: tuple[DistillationLoss, float] | None = None,
    contrast: ContrastiveBranch | None = None,
) -> Objective:
    """Stage 1's loss `CE`, `Focal` (γ = 1), `LDAM` (largest margin 0.5, scale 30) or `BS` (balanced
    softmax, τ = `prior_weight`), with effective-number class weights if `reweighted`.

    With `robust`, a loss R and its weight w, the sum is L + w · R (one stage's joint loss); with
    `distillation`, a loss D and its weight v, it is (1 − v) · L + v · D; with both, their sum
    (1 − v) · L + w · R + v · D. With `contrast` alone, a branch C, it is 2 · L + 0.6 · C.

    Raises:
        ValueError: an unknown loss.
    """
    weight = effective_number_weights(class_counts) if reweighted else None
    if loss_type == "CE":
        loss = nn.CrossEntropyLoss(weight=weight)
    elif loss_type == "Focal":
        loss = FocalLoss(weight=weight, gamma=1.0)
    elif loss_type == "LDAM":
        loss = LDAMLoss(class_counts, max_m=0.5, weight=weight, s=30)
    elif loss_type == "BS":
        loss = BalancedSoftmaxLoss(class_counts, prior_weight, weight)
    else:
        raise ValueError(f"the loss must be CE, Focal, LDAM or BS, not {loss_type!r}")
    losses: dict[str, nn.Module] = {loss_type: loss}
    weights = [1.0]
    if robust is not None:
        losses["robust_loss"] = robust[0]
        weights.append(robust[1])
    if distillation is not None:
        losses["distillation"] = distillation[0]
        weights[0] = 1.0 - distillation[1]
        weights.append(distillation[1])
    if contrast is not None:
        losses["contrast"] = contrast
        weights = [CLASSIFICATION_WEIGHT, *weights[1:], CONTRASTIVE_WEIGHT]
    return Objective(losses, weights)


def stage_2_objective(
    names: Sequence[str],
    class_counts: Sequence[int],
    *,
    temperature: float = 1.0,
    epsilons: Tensor | Sequence[Tensor] | None = None,
    released_margins: bool = False,
    distance: str = "euclidean",
    robust_weight: float | None = None,
    columns: Mapping[str, slice] | None = None,
    prior_weight: float = 1.0,
) -> Objective:
    """The sum of the named losses.

    `ce`, `bs` (balanced softmax) and `robust_loss` (`DROLoss`), each with an optional suffix: `_lt`
    for class weights n_c / n_max, `_bal` for N / (K n_c). With `robust_weight` w, the sum becomes
    (1 − w) · cross-entropy + w · robust (the paper's joint loss, with λ = 1 − w), where balanced
    softmax is a cross-entropy too.

    With `columns`, the features are those of several layers side by side: the robust loss
    `robust_loss` becomes one `robust_loss@LAYER` on each layer's columns, with margins of its own:
    `epsilons` holds one vector ``[K]`` per layer.

    Args:
        names: of the losses, which its parts are in the order of.
        class_counts: training images per class n_c ``[K]``, all at least 1.
        temperature, epsilons, released_margins, distance: of the robust loss (`DROLoss`).
        robust_weight: w, 0 to 1, or None.
        columns: by layer, or None.
        prior_weight: τ of balanced softmax.

    Raises:
        ValueError: an unknown loss.
    """
    losses: dict[str, nn.Module] = {}
    weights: list[float] = []
    columns_of: dict[str, slice] = {}
    # None stands for the features as a whole.
    layers: dict[str | None, Any] = {None: epsilons}
    if columns is not None:
        layers = dict(zip(columns, () if epsilons is None else epsilons, strict=True))
    for name in names:
        base, make_weights = _base_and_weights(name)
        class_weights = make_weights(class_counts) if make_weights else None
        if base == "robust_loss":
            for layer, layer_epsilons in layers.items():
                layer_name = name if layer is None else f"{name}@{layer}"
                losses[layer_name] = DROLoss(
                    temperature,
                    class_weights=class_weights,
                    epsilons=layer_epsilons,
                    released_margins=released_margins,
                    distance=distance,
                )
                weights.append(1.0 if robust_weight is None else robust_weight)
                if layer is not None and columns is not None:
                    columns_of[layer_name] = columns[layer]
        else:
            if base == "bs":
                losses[name] = BalancedSoftmaxLoss(class_counts, prior_weight, class_weights)
            else:
                losses[name] = nn.CrossEntropyLoss(weight=class_weights)
            weights.append(1.0 if robust_weight is None else 1.0 - robust_weight)
    return Objective(losses, weights, columns_of)


def _base_and_weights(name: str) -> tuple[str, Callable[[Sequence[int]], Tensor] | None]:
    """A loss without its suffix, and what makes class weights by the suffix."""
    for base in ("robust_loss", "ce", "bs"):
        if name.startswith(base) and name.removeprefix(base) in CLASS_WEIGHTS:
            return base, CLASS_WEIGHTS[name.removeprefix(base)]
    raise ValueError(
        f"the loss must be ce, bs or robust_loss, or one of them with _lt or _bal, not {name!r}"
    )
