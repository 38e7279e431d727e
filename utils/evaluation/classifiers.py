"""A classifier on fixed features: its scores, its saved form, and its accuracies.
`utils.evaluation.fitting` fits several."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.evaluation.calibration import expected_calibration_error
from utils.evaluation.metrics import accuracy_record, percent
from utils.evaluation.parts import in_parts

KINDS = ("linear", "cosine", "distance")


@dataclass(frozen=True)
class Classifier:
    """A function from features f ``[N, D]`` to scores ``[N, K]``.

    With x = f − shift, the scores of each kind are:

    - `linear`: W x + b;
    - `cosine`: W x/‖x‖ + b;
    - `distance`: −‖x − w_c‖.

    Args:
        kind: one of `KINDS`.
        weight: W with rows w_c, ``[K, D]``.
        bias: b ``[K]``, or None for zeros.
        shift: ``[D]``, or None for zeros.
        tuned: the value that was tuned on held-out images, by its name; empty if there is none.

    Raises:
        ValueError: the kind is unknown.
    """

    kind: str
    weight: Tensor
    bias: Tensor | None = None
    shift: Tensor | None = None
    tuned: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")

    def __call__(self, features: Tensor) -> Tensor:
        if self.shift is not None:
            features = features - self.shift
        if self.kind == "distance":
            return -torch.cdist(features, self.weight)
        if self.kind == "cosine":
            features = F.normalize(features, dim=1)
        return F.linear(features, self.weight, self.bias)

    def saved(self) -> dict[str, Any]:
        """Returns what `apply_classifier` takes: the kind and the tensors, on the CPU."""
        tensors = {"weight": self.weight, "bias": self.bias, "shift": self.shift}
        known = {name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None}
        return {"kind": self.kind, **known}


def apply_classifier(saved: Mapping[str, Any], features: Tensor) -> Tensor:
    """Returns the scores ``[N, K]`` of features ``[N, D]``, on their device.

    Scores are logits, except for the nearest class means (`has_confidence`).

    Args:
        saved: ``{"kind", "weight"}`` and, if they are not zero, ``"bias"`` and ``"shift"``, as
            `Classifier.saved` returns them and `classifiers.pth` has them.
        features: features of the network that the classifier was fitted on.
    """
    tensors = {name: value.to(features) for name, value in saved.items() if name != "kind"}
    return Classifier(saved["kind"], **tensors)(features)


class SavedClassifier(nn.Module):
    """`apply_classifier` as the head of a network: from features ``[N, D]`` to scores ``[N, K]``.

    Args:
        saved: as for `apply_classifier`.
    """

    def __init__(self, saved: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind = saved["kind"]
        for name, value in saved.items():
            if name != "kind":
                self.register_buffer(name, value)

    def forward(self, features: Tensor) -> Tensor:
        return apply_classifier({"kind": self.kind, **dict(self.named_buffers())}, features)


def has_confidence(name: str) -> bool:
    """Returns True if a softmax of the named classifier's scores is a confidence. It is not for a
    nearest class mean, whose scores are cosines or distances."""
    return not name.startswith("ncm")


def calibration_error(parts: Iterable[tuple[Tensor, ...]]) -> float:
    """Returns the expected calibration error of logits, in [0, 1]. The confidence of an image is
    its largest softmax probability.

    Args:
        parts: logits ``[n, K]`` and true labels ``[n]`` of all images, in one part or several.
    """

    def of_part(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        confidence, preds = torch.softmax(logits.double(), dim=1).max(dim=1)
        return confidence, preds == targets

    confidence, correct = map(torch.cat, zip(*starmap(of_part, parts), strict=True))
    return expected_calibration_error(confidence.cpu().numpy(), correct.cpu().numpy())


@torch.no_grad()
def accuracies(
    classifiers: Mapping[str, Classifier],
    features: Tensor,
    targets: Tensor,
    class_counts: Sequence[int],
) -> dict[str, dict]:
    """Returns the accuracies of each classifier on one split, in percent.

    Each is a record of `accuracy_record` with more keys: ``worst``, the accuracy of the worst
    class; ``ece``, the expected calibration error (None for a nearest class mean); and the value
    that was tuned, ``tau`` or ``temperature``.

    Args:
        classifiers: the fitted classifiers, by name.
        features: features of the split's images ``[N, D]``.
        targets: their labels ``[N]``.
        class_counts: training images of each class ``[K]``.
    """
    records = {}
    for name, classifier in classifiers.items():
        parts = partial(in_parts, classifier, len(class_counts), features, targets)
        record = accuracy_record(parts(), class_counts)
        error = percent(calibration_error(parts())) if has_confidence(name) else None
        worst = min(accuracy for accuracy in record["per_class"] if accuracy is not None)
        records[name] = record | {"worst": worst, "ece": error, **classifier.tuned}
    return records
