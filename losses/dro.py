"""The distributional robustness loss (Samuel and Chechik, ICCV 2021, section 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DISTANCES = ("euclidean", "squared", "normalised")
DIFFERENCES_AT_ONCE = 2**28
SHORTEST = 1e-3
"""``normalised`` brings features to length 1 unless they are shorter than this part of the mean
length of the centroids."""
FAR = 1e15
"""Larger coordinates are scaled down before they are squared."""
HEADROOM = 2.0**20
"""The largest factor by which class weights and τ/τ₀ together may multiply a logit."""


def class_means(features: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Returns the centroids ``[K, D]``: the mean of each class, μ_c = Σ_{y_i = c} z_i / n_c.

    They are in float32, or in the features' type if that is wider. A class without samples has NaN
    in its row.

    Args:
        features: ``[N, D]`` of any floating type; sums are taken in float32 at least.
        targets: ``[N]``, 0 to K-1.
        num_classes: K.
    """
    # A sum of bfloat16 stops growing at 256 ones.
    features = features.to(_at_least_float32(features.dtype))
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, targets, features)
    # Not `torch.bincount`, which waits for a GPU.
    counts = sums.new_zeros(num_classes).index_add_(0, targets, sums.new_ones(len(targets)))
    return sums / counts.unsqueeze(1)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def euclidean_distances(centroids: Tensor, features: Tensor) -> Tensor:
    """Returns ‖μ_c − z_i‖ of centroids ``[K, D]`` and features ``[B, D]``, as ``[K, B]``.

    They are finite if the exact distance is finite, because coordinates are scaled to at most 1
    before they are squared. If a sample lies on a centroid, the gradient is zero.
    """
    largest = torch.maximum(centroids.abs().max(), features.abs().max())
    scale = largest.detach().clamp(min=1.0)
    centroids, features = centroids / scale, features / scale
    # The matrix-product form of cdist loses precision for close points.
    exact = "donot_use_mm_for_euclid_dist"
    # With thousands of classes and features, cdist's backward would take too much memory at once:
    # it holds all K · B · D differences on a GPU.
    parts = centroids.split(max(1, DIFFERENCES_AT_ONCE // features.numel()))
    distances = [torch.cdist(part, features, compute_mode=exact) for part in parts]
    return scale * (distances[0] if len(parts) == 1 else torch.cat(distances))


def lengths_of(vectors: Tensor) -> Tensor:
    """Returns the lengths ``[N, 1]`` of vectors ``[N, D]``. They are finite if the exact length is
    finite. The gradient is zero at a vector of zeros."""
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    # The squares of far coordinates would not be finite. Other vectors keep their bits.
    scale = torch.where(largest > FAR, largest, 1.0)
    return scale * torch.linalg.vector_norm(vectors / scale, dim=1, keepdim=True)


def unit_lengths(vectors: Tensor, shortest: Tensor | float) -> Tensor:
    """Returns the vectors ``[N, D]`` scaled to length 1. A vector shorter than `shortest` is
    divided by `shortest` instead, so no gradient is larger than 1/shortest, not even at a zero
    vector."""
    return vectors / lengths_of(vectors).clamp(min=shortest)


def finite_squares(distances: Tensor, temperature: float) -> Tensor:
    """Returns the squares of distances ``[K, B]``. If a square is so large that sums of d² / τ
    would overflow, all distances are first scaled down by one factor. The factor is a constant for
    the gradient. The order of the distances stays, and loss and gradient are finite."""
    samples = distances.shape[1]
    largest = torch.finfo(distances.dtype).max / (HEADROOM * samples) * min(temperature, 1.0)
    factor = (largest**0.5 / distances.detach().max()).clamp(max=1.0)
    return (factor * distances).square()


def misaligned(margins: Tensor, targets: Tensor) -> Tensor:
    """Returns the margins ``[B]`` as the released code assigns them to the samples.

    The released code writes a vector in batch order through a boolean (class, sample) mask, and the
    mask is read class by class. So the j-th sample in class order receives the margin of the j-th
    sample in batch order.
    """
    class_order = torch.argsort(targets, stable=True)
    return torch.zeros_like(margins).scatter(0, class_order, margins)


class DROLoss(nn.Module):
    r"""Robust contrastive loss over class centroids.

    For centroids :math:`\mu_c`, features :math:`z_i` with labels :math:`y_i`, margins
    :math:`\varepsilon_c` and temperature :math:`\tau`,

    .. math::
        s_{ci} = -\frac{\lVert \mu_c - z_i \rVert + \varepsilon_c [y_i = c]}{\tau}, \qquad
        L_c = -\frac{\tau}{\tau_0 \, n_c} \sum_{i: y_i = c}
              \log \frac{\exp s_{ci}}{\sum_{j \in \text{batch}} \exp s_{cj}}

    The loss is the mean of :math:`L_c` over the classes in the batch. With class weights w it is
    :math:`\sum_c w_c L_c / \sum_c w_c` over all classes, where :math:`L_c = 0` for an absent class.
    It stands for the worst case over a ball around each centroid (Samuel and Chechik, ICCV 2021,
    section 4; arXiv 2104.03066). In the paper's derivation a ball of radius r gives the margin 2 r.
    The released code adds :math:`\varepsilon_c` once, as here, so it is twice the radius.

    The paper does not say which distance it means; the released code has the Euclidean one above.
    Two others can replace :math:`\lVert \mu_c - z_i \rVert + \varepsilon_c [y_i = c]`:

    - ``squared``: :math:`\max(\lVert \mu_c - z_i \rVert + \varepsilon_c [y_i = c],\, 0)^2`, the
      largest squared distance to a point of a ball of radius :math:`\varepsilon_c`; up to a
      factor it is the negative log-likelihood of a Gaussian class;
    - ``normalised``: centroids and features are scaled to length 1 first, so the distance is a
      function of their cosine and lies between 0 and 2. A feature shorter than a thousandth of the
      mean length of the centroids stays shorter than 1, so that its gradient is bounded.

    Args:
        temperature: τ > 0, in units of the distance.
        base_temperature: τ₀; by default τ, as in the paper's code, so that the factor is 1.
        class_weights: w of shape ``[K]``, or None.
        epsilons: margins of shape ``[K]``, in units of the distance before squaring; an
            `nn.Parameter` if they are learned; None for zero margins.
        released_margins: assign the margins to samples as the released code does. It assigns them
            to the wrong samples unless the batch is sorted by class (see `misaligned`).
        distance: one of `DISTANCES`.

    Raises:
        ValueError: a temperature is not positive, or the distance is unknown.

    Example:
        >>> loss = DROLoss(temperature=1.0, epsilons=nn.Parameter(torch.ones(2)))
        >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> centroids = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> round(loss.to_centroids(features, torch.tensor([0, 1]), centroids).item(), 4)
        0.5073
    """

    def __init__(
        self,
        temperature: float,
        base_temperature: float | None = None,
        class_weights: Tensor | None = None,
        epsilons: Tensor | None = None,
        released_margins: bool = False,
        distance: str = "euclidean",
    ) -> None:
        super().__init__()
        base_temperature = temperature if base_temperature is None else base_temperature
        if not (temperature > 0 and base_temperature > 0):
            raise ValueError(
                f"temperatures must be positive, not {temperature} and {base_temperature}"
            )
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, not {distance!r}")
        self.temperature = temperature
        self.base_temperature = base_temperature
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        if isinstance(epsilons, nn.Parameter):
            self.epsilons = epsilons
        else:
            self.register_buffer("epsilons", epsilons, persistent=False)
        self.released_margins = released_margins
        self.distance = distance

    def forward(
        self, feats: Tensor, targets: Tensor, bank_feats: Tensor, bank_targets: Tensor
    ) -> Tensor:
        """Returns the loss, a scalar, of features ``[B, D]`` with targets ``[B]`` against the class
        means of a bank of features ``[N, D]`` with targets ``[N]``.

        The bank must have every class, otherwise the loss is NaN. The means are constants for the
        gradient.
        """
        num_classes = int(bank_targets.max()) + 1 if self.epsilons is None else len(self.epsilons)
        centroids = class_means(bank_feats.detach(), bank_targets, num_classes)
        return self.to_centroids(feats, targets, centroids)

    def to_centroids(self, features: Tensor, targets: Tensor, centroids: Tensor) -> Tensor:
        """Returns the loss, a scalar, of features ``[B, D]`` with targets ``[B]`` against centroids
        ``[K, D]``.

        All centroids must be finite, otherwise the loss is NaN: `class_means` has NaN for a class
        without samples. They get a gradient unless they are detached.

        It is computed in the type of the features, at least float32. Nothing in it waits for the
        device, and its shapes depend only on B, D and K.
        """
        features = features.to(_at_least_float32(features.dtype))
        centroids = centroids.to(features.dtype)
        num_classes = len(centroids)
        belongs = F.one_hot(targets, num_classes).T.to(features.dtype)  # [K, B]
        if self.distance == "normalised":
            shortest = SHORTEST * lengths_of(centroids.detach()).mean()
            features = unit_lengths(features, shortest.clamp(min=1e-12))
            centroids = unit_lengths(centroids, 1e-12)
        distances = euclidean_distances(centroids, features)
        if self.epsilons is not None:
            margins = self.epsilons[targets]
            if self.released_margins:
                margins = misaligned(margins, targets)
            distances = distances + belongs * margins
        if self.distance == "squared":
            distances = finite_squares(distances.clamp(min=0), self.temperature)
        log_probabilities = F.log_softmax(-distances / self.temperature, dim=1)
        counts = belongs.sum(dim=1)
        per_class = -(belongs * log_probabilities).sum(dim=1) / counts.clamp(min=1)
        per_class = per_class * (self.temperature / self.base_temperature)
        if self.class_weights is not None:
            weights = self.class_weights
            return (weights * per_class).sum() / weights.sum()
        return per_class.sum() / (counts > 0).sum()
