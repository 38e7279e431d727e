"""Balanced contrastive learning (Zhu et al., "Balanced Contrastive Learning for Long-Tailed Visual
Recognition", CVPR 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BalancedContrastiveLoss(nn.Module):
    r"""Supervised contrastive loss with class centres and class-averaged denominators.

    For unit vectors :math:`z_i` with labels :math:`y_i`, centres :math:`z_{M+c}` with the labels c
    behind them, and :math:`s_{ik} = z_i \cdot z_k / \tau`, :math:`B_c` holds the vectors of class
    c, its centre included, and

    .. math::
        L_i = -\frac{1}{|B_{y_i} \setminus i|} \sum_{p \in B_{y_i} \setminus i} \log
              \frac{\exp s_{ip}}
              {\sum_c \frac{1}{|B_c \setminus i|} \sum_{k \in B_c \setminus i} \exp s_{ik}}

    and the loss is the mean of :math:`L_i` over the M vectors that are no centres (sections 3.2 and
    3.3). A frequent class counts in the denominator as much as a rare one, and by its centre every
    class is there.

    What it shares with `DROLoss` with the normalised distance: unit vectors, a point for each
    class, a softmax of similarities over a temperature, and a mean that treats classes alike. Where
    they differ: here the softmax of a *sample* is over the classes, and the centres are trained;
    there the softmax of a *centroid* is over the samples of the batch, and the centroids are the
    class means of the epoch, with a margin for the error of the mean.

    Args:
        temperature: τ > 0.

    Shapes: embeddings ``[M, D]``, targets ``[M]``, centres ``[K, D]``, all of any length > 0; a
    scalar.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"the temperature must be positive, not {temperature}")
        self.temperature = temperature

    def forward(self, embeddings: Tensor, targets: Tensor, centres: Tensor) -> Tensor:
        number, classes = len(embeddings), len(centres)
        vectors = F.normalize(torch.cat([embeddings, centres]), dim=1)
        labels = torch.cat([targets, torch.arange(classes, device=targets.device)])
        similarities = vectors[:number] @ vectors.T / self.temperature  # [M, M + K]
        itself = F.pad(torch.eye(number, device=targets.device, dtype=torch.bool), (0, classes))
        is_of_class = targets.unsqueeze(1) == labels
        positives = (is_of_class & ~itself).to(similarities.dtype)
        # Class sizes with centres; that of the sample's own class without the sample.
        sizes = vectors.new_zeros(classes).index_add_(0, labels, vectors.new_ones(len(labels)))
        averaged = sizes[labels] - is_of_class.to(similarities.dtype)
        terms = similarities - averaged.clamp(min=1).log()
        denominators = terms.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
        log_probabilities = similarities - denominators
        return -((positives * log_probabilities).sum(dim=1) / positives.sum(dim=1)).mean()


class ContrastiveBranch(nn.Module):
    """The balanced contrastive loss of a network's features, seen through a projection D → 512 →
    128 that trains with the network. The class centres are the classifier's weights, seen through
    the same projection.

    Args:
        num_features: D.
        temperature: of the loss.

    Shapes: features of the views ``[M, D]``, targets ``[M]``, classifier weights ``[K, D]``; a
    scalar, in float32 under autocast too.
    """

    def __init__(self, num_features: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(num_features, 512), nn.ReLU(inplace=True), nn.Linear(512, 128)
        )
        self.loss = BalancedContrastiveLoss(temperature)

    def forward(self, features: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
        return self.loss(self.projection(features), targets, self.projection(class_weights))
