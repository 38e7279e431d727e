"""Classifiers fitted on the features of a network.

The paper says that its loss "can be combined with various classifier balancing techniques"; most
of these are such. Each is fitted only on the features of the training images. A value that must be
tuned is tuned on held-out images, never on the test set.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import class_means
from models import NormedLinear
from utils.errors import warn
from utils.evaluation.classifiers import Classifier
from utils.evaluation.metrics import accuracy_record
from utils.evaluation.parts import in_parts, sum_of_parts

TAUS = tuple(round(0.1 * step, 1) for step in range(21))
WEIGHT_DECAY = 5e-4
FITTING_ITERATIONS = 200
LOG_TEMPERATURES = (math.log(0.01), math.log(100))


@dataclass(frozen=True)
class FeatureBank:
    """Features of a network, and its head.

    Args:
        features, labels: features ``[M, D]`` and labels ``[M]`` of the training images, without
            augmentation.
        head: the network's last layer.
        class_counts: training images of each class ``[K]``.
        heldout: features and labels of held-out images, or None.
    """

    features: Tensor
    labels: Tensor
    head: nn.Linear | NormedLinear
    class_counts: Sequence[int]
    heldout: tuple[Tensor, Tensor] | None = None

    @property
    def centroids(self) -> Tensor:
        """The mean features μ_c of each class ``[K, D]``."""
        return class_means(self.features, self.labels, len(self.class_counts))


def linear(bank: FeatureBank) -> Classifier:
    """Returns the network's own classifier: w_c · f + b_c, or s · cos(f, w_c) with a cosine
    head."""
    head = bank.head
    if isinstance(head, NormedLinear):
        directions = F.normalize(head.weight.detach(), dim=0).T.contiguous()
        return Classifier("cosine", head.scale * directions)
    return Classifier("linear", head.weight.detach(), head.bias.detach())


def ncm_cosine(bank: FeatureBank) -> Classifier:
    """Returns the nearest class mean by cosine, cos(f, μ_c), as in the released code."""
    return Classifier("cosine", F.normalize(bank.centroids, dim=1))


def ncm_euclidean(bank: FeatureBank) -> Classifier:
    """Returns the nearest class mean by −‖f − μ_c‖, the distance of the robust loss."""
    return Classifier("distance", bank.centroids)


def ncm_centred(bank: FeatureBank) -> Classifier:
    """Returns the nearest class mean of centred features, cos(f − μ, μ'_c). μ is the mean of all
    training features, and μ'_c are the class means of the centred, normalised features.

    Source: Kang et al., ICLR 2020, section 4.1, for the normalised nearest class mean.
    """
    mean = bank.features.mean(dim=0)
    centred = F.normalize(bank.features - mean, dim=1)
    centroids = class_means(centred, bank.labels, len(bank.class_counts))
    return Classifier("cosine", F.normalize(centroids, dim=1), shift=mean)


def tau_norm(bank: FeatureBank, tau: float = 1.0) -> Classifier:
    """Returns the τ-normalised classifier w_c · f / ‖w_c‖^τ, without bias.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
    ICLR 2020, section 4.2.
    """
    own = linear(bank)
    return Classifier(own.kind, own.weight / own.weight.norm(dim=1, keepdim=True) ** tau)


def tau_norm_tuned(bank: FeatureBank) -> Classifier | None:
    """Returns `tau_norm` with the τ of 0, 0.1, ..., 2 that has the best balanced accuracy on
    held-out images. If several are equally good, the smallest is taken. None without held-out
    images."""
    if bank.heldout is None:
        return None
    features, labels = bank.heldout
    num_classes = len(bank.class_counts)

    def score(tau: float) -> float:
        parts = in_parts(tau_norm(bank, tau), num_classes, features, labels)
        return accuracy_record(parts, bank.class_counts)["balanced"]

    best = max(TAUS, key=score)
    return replace(tau_norm(bank, best), tuned={"tau": best})


def temperature_scaling(bank: FeatureBank) -> Classifier | None:
    """Returns the network's own classifier with its logits divided by a temperature T: the same
    predictions with other confidences. T minimises the mean cross-entropy of the held-out images.
    If all of them are classified right, it has no minimum: T is far too small, and a warning says
    so. None without held-out images.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # a third of a second to import

    if bank.heldout is None:
        return None
    features, labels = bank.heldout
    own = linear(bank)
    parts = partial(in_parts, own, len(bank.class_counts), features, labels)
    if all(bool((logits.argmax(dim=1) == targets).all()) for logits, targets in parts()):
        warn(
            f"temperature_scaling: all {len(labels)} held-out images are classified right, so the "
            "smallest temperature fits them best: nearly every confidence becomes 1, also that of "
            "a wrong prediction; train with more held-out images"
        )

    def loss(log_temperature: float) -> float:
        def of_part(logits: Tensor, targets: Tensor) -> Tensor:
            scaled = logits.double() / math.exp(log_temperature)
            return F.cross_entropy(scaled, targets) * (len(targets) / len(labels))

        return sum_of_parts(of_part, parts()).item()

    # The loss is convex in 1 / T, so it has one minimum unless all images are classified right.
    found: Any = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded")
    temperature = math.exp(found.x)
    bias = None if own.bias is None else own.bias / temperature
    tuned = {"temperature": round(temperature, 4)}
    return replace(own, weight=own.weight / temperature, bias=bias, tuned=tuned)


def lws(bank: FeatureBank) -> Classifier:
    """Returns the classifier of learnable weight scaling, s_c · (w_c · f + b_c). The scales s are
    fitted with equal weight for each class (`fit_balanced`).

    If scales exist with which all training images are classified right, the loss has no minimum.
    Then the limit of iterations decides how large the scales get, and confidences are too high.

    Source: Kang et al., ICLR 2020, section 4.2.
    """
    own = linear(bank)
    scales = torch.ones(len(own.weight), device=own.weight.device, requires_grad=True)
    fit_balanced([scales], lambda features: scales * own(features), bank)
    learned = scales.detach()
    bias = None if own.bias is None else learned * own.bias
    return Classifier(own.kind, learned.unsqueeze(1) * own.weight, bias)


def crt(bank: FeatureBank) -> Classifier:
    """Returns a re-trained classifier (cRT): a class-balanced logistic regression (`fit_balanced`)
    on the features, or on the normalised features if the network has a cosine head.

    Source: Kang et al., ICLR 2020, section 4.2.
    """
    own = linear(bank)
    weight = torch.zeros(own.weight.shape, device=own.weight.device, requires_grad=True)
    bias = torch.zeros(len(weight), device=weight.device, requires_grad=True)
    fit_balanced([weight, bias], Classifier(own.kind, weight, bias), bank, decayed=weight)
    return Classifier(own.kind, weight.detach(), bias.detach())


def fit_balanced(
    parameters: list[Tensor],
    classify: Callable[[Tensor], Tensor],
    bank: FeatureBank,
    decayed: Tensor | None = None,
) -> None:
    """Fits the parameters in place, with L-BFGS on all training images at once.

    It minimises (1/K) Σ_c ℓ_c + ½ · 5e-4 · ‖decayed‖², where ℓ_c is the mean cross-entropy of the
    images of class c. The first term is the expected loss under class-balanced sampling.

    Args:
        parameters: the tensors to fit.
        classify: returns the logits ``[n, K]`` of features ``[n, D]``, by the parameters.
        bank: gives features, labels and class counts.
        decayed: the parameter with weight decay, or None.
    """
    counts = torch.tensor(bank.class_counts, device=bank.labels.device)
    weights = 1.0 / (counts[bank.labels] * len(counts))
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=FITTING_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def terms() -> Iterator[Tensor]:
        parts = in_parts(classify, len(counts), bank.features, bank.labels, weights)
        for logits, labels, own_weights in parts:
            yield (own_weights * F.cross_entropy(logits, labels, reduction="none")).sum()
        if decayed is not None:
            yield 0.5 * WEIGHT_DECAY * decayed.square().sum()

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=weights.device)
        for term in terms():
            term.backward()  # term by term, so that only one part's logits are kept for it
            total = total + term.detach()
        return total

    with torch.enable_grad():
        optimizer.step(loss)


def logit_adjustment(bank: FeatureBank) -> Classifier:
    """Returns the logit-adjusted classifier w_c · f + b_c − log π_c, where π_c is the share of
    class c in the training images.

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, section 4.1.
    """
    own = linear(bank)
    counts = torch.tensor(bank.class_counts, dtype=torch.float32, device=bank.features.device)
    offsets = -torch.log(counts / counts.sum())
    return replace(own, bias=offsets if own.bias is None else own.bias + offsets)


FITTERS: dict[str, Callable[[FeatureBank], Classifier | None]] = {
    "linear": linear,
    "ncm_cosine": ncm_cosine,
    "ncm_euclidean": ncm_euclidean,
    "ncm_centred": ncm_centred,
    "tau_norm": tau_norm,
    "tau_norm_tuned": tau_norm_tuned,
    "temperature_scaling": temperature_scaling,
    "lws": lws,
    "crt": crt,
    "logit_adjustment": logit_adjustment,
}
TUNED = ("tau_norm_tuned", "temperature_scaling")
"""Classifiers that need held-out images."""
TRAINED = ("lws", "crt")
"""Classifiers that their authors train on augmented images; here the images are not augmented."""


def fit(names: Sequence[str], bank: FeatureBank) -> dict[str, Classifier]:
    """Returns the named classifiers, fitted. A classifier that needs held-out images is left out if
    there are none.

    Args:
        names: keys of `FITTERS`.
        bank: features, labels and head of the network.
    """
    fitted = {name: FITTERS[name](bank) for name in names}
    return {name: classifier for name, classifier in fitted.items() if classifier is not None}
