"""The objectives that training minimises: sums of named losses."""

from collections.abc import Mapping, Sequence

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

CLASS_WEIGHTS = {"": None, "lt": long_tail_weights, "bal": balanced_weights}
"""The class weights of stage 2's losses, as functions of the class counts."""

Mixed = tuple[Tensor, Tensor]
"""The second targets ``[B]`` of mixed images, and the share λ of the first ones, a scalar."""


Views = tuple[Tensor, Tensor]
"""The features ``[V · B, D]`` of V more views of the batch, view by view, and the weights of the
classifier ``[K, D]``."""

LDAM_MARGIN, LDAM_SCALE = 0.5, 30.0
"""The largest margin, and the scale of the head with which LDAM trains."""
CLASSIFICATION_WEIGHT, CONTRASTIVE_WEIGHT = 2.0, 0.6
"""The weights of classification and contrast in balanced contrastive learning (Zhu et al., CVPR
2022)."""


class Objective(nn.Module):
    """The weighted sum Σ_i w_i L_i of named losses.

    A loss takes logits and targets; or features and the epoch's centroids (`DROLoss`); or logits
    and a teacher's logits (`DistillationLoss`); or the features of more views and the classifier's
    weights (`ContrastiveBranch`).

    Args:
        losses: the loss modules, by name.
        weights: w_i, one for each loss; 1 each if None.
        columns: for a robust loss, by name, the columns of features and centroids that it takes;
            all if it is not named.
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
        """Returns the sum, and the single losses ``[number of losses]``, without weights and
        detached.

        For mixed images (mixup), a classification loss L becomes λ · L(y) + (1 − λ) · L(y'), where
        λ is the share of the images with the targets y.

        Shapes: features ``[B, D]``, logits ``[B, K]``, targets ``[B]``, centroids ``[K, D]``, a
        teacher's logits ``[B, K]``; `Mixed` and `Views` give those of `mixed` and `views`.

        Raises:
            ValueError: images are mixed, and a loss takes one target an image.
        """

        def value(name: str, loss: nn.Module) -> Tensor:
            if isinstance(loss, DistillationLoss):
                return loss(logits, teacher_logits)
            if isinstance(loss, ContrastiveBranch):
                assert views is not None
                view_features, classifier_weights = views
                number = len(view_features) // len(targets)
                return loss(view_features, targets.repeat(number), classifier_weights)
            if isinstance(loss, DROLoss):
                if mixed is not None:
                    raise ValueError("the robust loss takes one target an image, not two")
                assert centroids is not None
                own = self.columns.get(name, slice(None))
                return loss.to_centroids(features[:, own], targets, centroids[:, own])
            if mixed is None:
                return loss(logits, targets)
            others, share = mixed
            return share * loss(logits, targets) + (1 - share) * loss(logits, others)

        parts = torch.stack([value(name, loss) for name, loss in self.losses.items()])
        return (self.weights * parts).sum(), parts.detach()


def classification_loss(
    name: str, class_counts: Sequence[int], class_weights: Tensor | None, prior_weight: float
) -> nn.Module:
    """Returns a loss of logits ``[B, K]`` and targets ``[B]``: cross-entropy (`CE`, in stage 2
    `ce`), `Focal` (γ = 1), `LDAM` (largest margin 0.5, scale 30) or balanced softmax (`BS`, in
    stage 2 `bs`).

    Args:
        name: the name of the loss.
        class_counts: training images per class n_c ``[K]``, all at least 1.
        class_weights: ``[K]``, or None.
        prior_weight: τ of balanced softmax.

    Raises:
        ValueError: the loss is unknown.
    """
    match name:
        case "CE" | "ce":
            return nn.CrossEntropyLoss(weight=class_weights)
        case "Focal":
            return FocalLoss(weight=class_weights, gamma=1.0)
        case "LDAM":
            # The head has scaled the cosines, so the margin is scaled: s · (x − Δ) = s·x − s·Δ.
            margin = LDAM_SCALE * LDAM_MARGIN
            return LDAMLoss(class_counts, max_m=margin, weight=class_weights, s=1)
        case "BS" | "bs":
            return BalancedSoftmaxLoss(class_counts, prior_weight, class_weights)
    raise ValueError(f"the loss must be CE, Focal, LDAM or BS, not {name!r}")


def stage_1_objective(
    loss_type: str,
    class_counts: Sequence[int],
    reweighted: bool = False,
    prior_weight: float = 1.0,
    robust: tuple[DROLoss, float] | None = None,
    distillation: tuple[DistillationLoss, float] | None = None,
    contrast: ContrastiveBranch | None = None,
) -> Objective:
    """Returns the objective of stage 1.

    L is `CE`, `Focal`, `LDAM` or `BS` (`classification_loss`). All take logits; for LDAM these are
    the cosines times the scale, as `--head cosine` returns them. The objective is

    - (1 − v) · L + w · R + v · D, with a robust loss R and a distillation loss D; without one of
      them its weight is 0;
    - 2 · L + 0.6 · C with a contrastive branch C, which excludes the other two.

    Args:
        loss_type: the name of L.
        class_counts: training images per class n_c ``[K]``, all at least 1.
        reweighted: True if L has effective-number class weights.
        prior_weight: τ of balanced softmax.
        robust: R and w, or None.
        distillation: D and v, or None.
        contrast: C, or None.

    Raises:
        ValueError: the loss is unknown, or a contrastive branch comes with a robust loss or with
            distillation.
    """
    if contrast is not None and (robust is not None or distillation is not None):
        raise ValueError("a contrastive branch goes with neither a robust loss nor distillation")
    class_weights = effective_number_weights(class_counts) if reweighted else None
    loss = classification_loss(loss_type, class_counts, class_weights, prior_weight)
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
        weights = [CLASSIFICATION_WEIGHT, CONTRASTIVE_WEIGHT]
    return Objective(losses, weights)


def stage_2_objective(
    terms: Sequence[tuple[str, str]],
    class_counts: Sequence[int],
    *,
    temperature: float = 1.0,
    epsilons: Sequence[Tensor] | None = None,
    released_margins: bool = False,
    distance: str = "euclidean",
    robust_weight: float | None = None,
    columns: Mapping[str, slice] | None = None,
    prior_weight: float = 1.0,
) -> Objective:
    """Returns the objective of stage 2, the sum of the losses.

    A loss is `ce`, `bs` (balanced softmax) or `robust_loss` (`DROLoss`). Its class weights are
    n_c / n_max (`lt`), N / (K n_c) (`bal`), or none (an empty text). With `robust_weight` w, the
    sum becomes (1 − w) · cross-entropy + w · robust, where balanced softmax counts as a
    cross-entropy. This is the paper's joint loss with λ = 1 − w.

    With `columns`, the features of several layers are side by side. Then `robust_loss` becomes one
    loss `robust_loss@LAYER` for each layer, on the layer's columns and with its own margins.

    Args:
        terms: each loss with its class weights, such as ``("ce", "lt")``; the objective has them in
            this order, and names this one `ce_lt`.
        class_counts: training images per class n_c ``[K]``, all at least 1.
        temperature, released_margins, distance: of the robust loss (`DROLoss`).
        epsilons: a list with its margins ``[K]``, one vector for each layer of `columns` in their
            order, or a single one without layers; no margins if None.
        robust_weight: w, 0 to 1, or None.
        columns: the columns of each layer, by its name, or None.
        prior_weight: τ of balanced softmax.

    Raises:
        KeyError: class weights are unknown.
        ValueError: a loss is unknown, or there are not as many vectors of margins as layers.
    """
    losses: dict[str, nn.Module] = {}
    weights: list[float] = []
    columns_of: dict[str, slice] = {}
    layers = {"": slice(None)} if columns is None else {f"@{n}": c for n, c in columns.items()}
    vectors = [None] * len(layers) if epsilons is None else epsilons
    for kind, weighting in terms:
        name = f"{kind}_{weighting}" if weighting else kind
        make_weights = CLASS_WEIGHTS[weighting]
        class_weights = make_weights(class_counts) if make_weights else None
        if kind == "robust_loss":
            for (layer, layer_columns), layer_epsilons in zip(layers.items(), vectors, strict=True):
                columns_of[name + layer] = layer_columns
                losses[name + layer] = DROLoss(
                    temperature,
                    class_weights=class_weights,
                    epsilons=layer_epsilons,
                    released_margins=released_margins,
                    distance=distance,
                )
                weights.append(1.0 if robust_weight is None else robust_weight)
        else:
            losses[name] = classification_loss(kind, class_counts, class_weights, prior_weight)
            weights.append(1.0 if robust_weight is None else 1.0 - robust_weight)
    return Objective(losses, weights, columns_of)
