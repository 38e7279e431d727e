"""Balanced contrastive learning (Zhu et al., "Balanced Contrastive Learning for Long-Tailed Visual
Recognition", CVPR 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BalancedContrastiveLoss(nn.Module):
    r"""Supervised contrastive loss with class centres and class-averaged denominators.

    There are M unit vectors :math:`z_i` with labels :math:`y_i`, and after them K centres
    :math:`z_{M+c}` with labels c. :math:`B_c` is the set of vectors of class c, with its centre.
    With :math:`s_{ik} = z_i \cdot z_k / \tau`,

    .. math::
        L_i = -\frac{1}{|B_{y_i} \setminus i|} \sum_{p \in B_{y_i} \setminus i} \log
              \frac{\exp s_{ip}}
              {\sum_c \frac{1}{|B_c \setminus i|} \sum_{k \in B_c \setminus i} \exp s_{ik}}

    The loss is the mean of :math:`L_i` over the M vectors that are not centres (sections 3.2 and
    3.3). In the denominator a frequent class counts as much as a rare one, and every class is there
    because its centre is.

    `DROLoss` with the normalised distance is similar. Both have unit vectors, one point for each
    class, a softmax of similarities over a temperature, and a mean that treats all classes alike.
    They differ in two things. Here each *sample* has a softmax over the classes, and the centres
    are trained. There each *centroid* has a softmax over the samples of the batch, and the
    centroids are the class means of the epoch, with a margin for the error of the mean.

    Args:
        temperature: τ > 0.

    Shapes: embeddings ``[M, D]``, targets ``[M]``, centres ``[K, D]``, with vectors of any length
    > 0; returns a scalar.

    Raises:
        ValueError: the temperature is not positive.
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
        # Class sizes with centres, that of the sample's own class without the sample: at least 1.
        sizes = vectors.new_zeros(classes).index_add_(0, labels, vectors.new_ones(len(labels)))
        averaged = sizes[labels] - is_of_class.to(similarities.dtype)
        terms = similarities - averaged.log()
        denominators = terms.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
        log_probabilities = similarities - denominators
        return -((positives * log_probabilities).sum(dim=1) / positives.sum(dim=1)).mean()


class ContrastiveBranch(nn.Module):
    """The balanced contrastive loss of a network's projected features.

    A projection D → 512 → 128 maps the features, and trains with the network. It also maps the
    classifier's weights, and these are the class centres (Zhu et al., CVPR 2022, section 3.3).

    Args:
        num_features: D.

    Shapes: features of the views ``[M, D]``, targets ``[M]``, classifier weights ``[K, D]``;
    returns a scalar, in float32 under autocast too.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(num_features, 512), nn.ReLU(inplace=True), nn.Linear(512, 128)
        )
        self.loss = BalancedContrastiveLoss()

    def forward(self, features: Tensor, targets: Tensor, classifier_weights: Tensor) -> Tensor:
        return self.loss(self.projection(features), targets, self.projection(classifier_weights))
