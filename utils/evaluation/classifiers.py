"""What one feature extractor is worth, read by several classifiers.

The paper combines its loss "with various classifier balancing techniques": each reading here is one
of them, fitted on cached training features alone. A value that has to be tuned is tuned on held-out
images, never on the test set.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import class_means
from models import NormedLinear
from utils.evaluation.calibration import BINS, expected_calibration_error
from utils.evaluation.metrics import accuracy_record, cosine_similarities, percent
from utils.files import atomic_write, write_json

Classifier = Callable[[Tensor], Tensor]
"""Features ``[N, D]`` to scores ``[N, K]``."""

TAUS = tuple(round(0.1 * step, 1) for step in range(21))
WEIGHT_DECAY = 5e-4
FITTING_ITERATIONS = 200


@dataclass(frozen=True)
class FeatureBank:
    """Cached features of a network, and its classifier.

    Args:
        features, labels: of the un-augmented training set, ``[M, D]`` and ``[M]``.
        head: the network's last layer.
        class_counts: training images per class ``[K]``.
        heldout: features and labels of held-out images, or None.
    """

    features: Tensor
    labels: Tensor
    head: nn.Module
    class_counts: Sequence[int]
    heldout: tuple[Tensor, Tensor] | None = None

    @property
    def centroids(self) -> Tensor:
        return class_means(self.features, self.labels, len(self.class_counts))

    @property
    def weight(self) -> Tensor:
        """w_c as rows ``[K, D]``."""
        if isinstance(self.head, NormedLinear):
            weight = F.normalize(self.head.weight.detach(), dim=0).T
            return (self.head.scale * weight).contiguous()  # as L-BFGS wants it
        return self.head.weight.detach()

    def inputs(self, features: Tensor) -> Tensor:
        """What the last layer multiplies by its weights: a cosine head normalises first."""
        is_cosine = isinstance(self.head, NormedLinear)
        return F.normalize(features, dim=1) if is_cosine else features

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return self.head(features)


def linear(bank: FeatureBank) -> Classifier:
    """The network's own classifier: w_c · f + b_c."""
    return bank.logits


def ncm_cosine(bank: FeatureBank) -> Classifier:
    """cos(f, μ_c), the released code's nearest class mean."""
    centroids = bank.centroids
    return lambda features: cosine_similarities(features, centroids)


def ncm_euclidean(bank: FeatureBank) -> Classifier:
    """−‖f − μ_c‖, the distance that the robust loss uses."""
    centroids = bank.centroids
    return lambda features: -torch.cdist(features, centroids)


def ncm_centred(bank: FeatureBank) -> Classifier:
    """cos(f − μ, μ'_c) with the mean μ of all training features taken off and the class means
    μ'_c of the centred, normalised features (Kang et al., ICLR 2020, section 4.1, for the
    normalised nearest class mean)."""
    mean = bank.features.mean(dim=0)
    centred = F.normalize(bank.features - mean, dim=1)
    centroids = class_means(centred, bank.labels, len(bank.class_counts))
    return lambda features: cosine_similarities(features - mean, centroids)


def tau_norm(bank: FeatureBank, tau: float = 1.0) -> Classifier:
    """w_c · f / ‖w_c‖^τ, without the bias (Kang et al., "Decoupling Representation and Classifier
    for Long-Tailed Recognition", ICLR 2020, section 4.2)."""
    weight = bank.weight / bank.weight.norm(dim=1, keepdim=True) ** tau
    return lambda features: bank.inputs(features) @ weight.T


def tau_norm_tuned(bank: FeatureBank) -> Classifier | None:
    """`tau_norm` with the τ of 0, 0.1, ..., 2 that has the best balanced accuracy on held-out
    images; None where there are none."""
    if bank.heldout is None:
        return None
    return tau_norm(bank, best_tau(bank))


def best_tau(bank: FeatureBank) -> float:
    """The τ that `tau_norm_tuned` takes; the smallest of equally good ones."""
    features, labels = bank.heldout

    def score(tau: float) -> float:
        return accuracy_record(tau_norm(bank, tau)(features), labels, bank.class_counts)["balanced"]

    return max(TAUS, key=score)


def lws(bank: FeatureBank) -> Classifier:
    """Learnable weight scaling: s_c · (w_c · f + b_c), the scales s learned with every class
    weighing the same (Kang et al., ICLR 2020, section 4.2)."""
    logits = bank.logits(bank.features)
    scales = torch.ones(logits.shape[1], device=logits.device, requires_grad=True)
    fit_balanced([scales], lambda: scales * logits, bank)
    learned = scales.detach()
    return lambda features: learned * bank.logits(features)


def crt(bank: FeatureBank) -> Classifier:
    """Classifier re-training: a new linear layer with every class weighing the same (Kang et al.,
    ICLR 2020, section 4.2): a class-balanced logistic regression."""
    inputs = bank.inputs(bank.features)
    weight = torch.zeros_like(bank.weight, requires_grad=True)
    bias = torch.zeros(len(weight), device=weight.device, requires_grad=True)
    fit_balanced([weight, bias], lambda: F.linear(inputs, weight, bias), bank, decayed=weight)
    learned, offset = weight.detach(), bias.detach()
    return lambda features: F.linear(bank.inputs(features), learned, offset)


def fit_balanced(
    parameters: list[Tensor],
    logits: Callable[[], Tensor],
    bank: FeatureBank,
    decayed: Tensor | None = None,
) -> None:
    """Minimises over the parameters the mean over classes of the mean cross-entropy of a class's
    training images (the expectation under class-balanced sampling) plus ½ · 5e-4 · ‖decayed‖², with
    L-BFGS on all images at once."""
    counts = torch.tensor(bank.class_counts, device=bank.labels.device)
    weights = 1.0 / (counts[bank.labels] * len(counts))
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=FITTING_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (weights * F.cross_entropy(logits(), bank.labels, reduction="none")).sum()
        if decayed is not None:
            value = value + 0.5 * WEIGHT_DECAY * decayed.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)


def logit_adjustment(bank: FeatureBank, tau: float = 1.0) -> Classifier:
    """w_c · f + b_c − τ log π_c with the training proportions π (Menon et al., "Long-Tail Learning
    via Logit Adjustment", ICLR 2021, section 4.1)."""
    counts = torch.tensor(bank.class_counts, dtype=torch.float32, device=bank.features.device)
    offsets = tau * torch.log(counts / counts.sum())
    return lambda features: bank.logits(features) - offsets


FITTERS: dict[str, Callable[[FeatureBank], Classifier | None]] = {
    "linear": linear,
    "ncm_cosine": ncm_cosine,
    "ncm_euclidean": ncm_euclidean,
    "ncm_centred": ncm_centred,
    "tau_norm": tau_norm,
    "tau_norm_tuned": tau_norm_tuned,
    "lws": lws,
    "crt": crt,
    "logit_adjustment": logit_adjustment,
}


def calibration_error(scores: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """`expected_calibration_error` of scores ``[N, K]`` for targets ``[N]``; a confidence is the
    largest softmax probability."""
    confidence, preds = torch.softmax(scores.double(), dim=1).max(dim=1)
    correct = preds == targets
    return expected_calibration_error(confidence.cpu().numpy(), correct.cpu().numpy(), bins)


def read(names: Sequence[str], bank: FeatureBank, features: Tensor, targets: Tensor) -> dict:
    """The named readings of a split: name to the record of `accuracy_record` with `worst` (the
    worst class) and `ece` beside it, in percent; readings that need held-out images are left out
    where there are none."""
    records = {}
    for name in names:
        classifier = FITTERS[name](bank)
        if classifier is None:
            continue
        scores = classifier(features)
        record = accuracy_record(scores, targets, bank.class_counts)
        known = [accuracy for accuracy in record["per_class"] if accuracy is not None]
        records[name] = record | {
            "worst": min(known),
            "ece": percent(calibration_error(scores, targets)),
        }
        if name == "tau_norm_tuned":
            records[name]["tau"] = best_tau(bank)
    return records


COLUMNS = ("top1", "top5", "balanced", "macro_f1", "many", "medium", "few", "worst", "ece")


def write_readings(folder: Path, records: dict[str, dict]) -> None:
    """`readings.json` with everything, `readings.csv` with a row a reading."""
    write_json(folder / "readings.json", records)
    with atomic_write(folder / "readings.csv") as binary:
        text = io.TextIOWrapper(binary, newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("reading", *COLUMNS))
        for name, record in records.items():
            writer.writerow((name, *(record[column] for column in COLUMNS)))
        text.detach()
