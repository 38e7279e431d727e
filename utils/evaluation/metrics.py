"""Accuracies: over images, over classes, and over the many-, medium- and few-shot classes.

`top1` and `top5` are always shares of the images. `balanced` is the mean of the per-class
accuracies. On a balanced test set `top1` and `balanced` are equal.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from losses import class_means
from utils.evaluation.parts import sum_of_parts
from utils.evaluation.shot_groups import GROUPS, group_of_counts


def mean_over_classes(per_class: np.ndarray) -> float:
    """Returns the mean of the values ``[K]`` that are not NaN, or NaN if there are none."""
    known = per_class[~np.isnan(per_class)]
    return float(known.mean()) if len(known) else float("nan")


def group_means(per_class: np.ndarray, class_counts: ArrayLike) -> dict[str, float]:
    """Returns the mean over the `many`-, the `medium`- and the `few`-shot classes; NaN for a group
    without classes.

    Args:
        per_class: values ``[K]``; classes with NaN are left out.
        class_counts: training images of each class ``[K]``.
    """
    groups = group_of_counts(class_counts)
    return {group: mean_over_classes(per_class[groups == group]) for group in GROUPS}


def shot_accuracy(
    preds: ArrayLike, targets: ArrayLike, train_labels: ArrayLike
) -> tuple[float, float, float, np.ndarray]:
    """Returns ``(many, medium, few, per_class)`` in [0, 1]: the mean per-class accuracy of each
    group, NaN for a group without classes, and the per-class accuracies ``[K]``.

    Source: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019, section
    5.1.

    Args:
        preds, targets: predicted and true labels ``[N]``, arrays or tensors.
        train_labels: labels of the training set ``[M]``; their counts decide the groups.
    """
    preds, targets, train_labels = (
        torch.as_tensor(labels).long().cpu().numpy() for labels in (preds, targets, train_labels)
    )
    class_counts = np.bincount(train_labels, minlength=targets.max(initial=-1) + 1)
    counted = (targets[preds == targets], targets)
    hits, totals = (np.bincount(labels, minlength=len(class_counts)) for labels in counted)
    with np.errstate(invalid="ignore"):
        per_class = hits / totals
    means = group_means(per_class, class_counts)
    return means["many"], means["medium"], means["few"], per_class


def nearest_centroid_accuracy(
    train_feats: ArrayLike, train_labels: ArrayLike, feats: ArrayLike, targets: ArrayLike
) -> tuple[float, float, float, np.ndarray, float]:
    """Returns the accuracies of the nearest class mean (NCM) by cosine similarity, ``(many, medium,
    few, per_class, mean)`` in [0, 1]; `mean` is over the classes.

    Args:
        train_feats, train_labels: features ``[M, D]`` and labels ``[M]`` of the training set; their
            class means are the centroids.
        feats, targets: features ``[N, D]`` to classify, and their true labels ``[N]``.
    """
    train_feats, feats = (torch.as_tensor(f).float() for f in (train_feats, feats))
    train_labels = torch.as_tensor(train_labels).long()
    centroids = class_means(train_feats, train_labels, int(train_labels.max()) + 1)
    # A label that the training set lacks has no centroid, so its similarity must be the lowest.
    similarities = cosine_similarities(feats, centroids).nan_to_num(nan=-2.0)
    preds = similarities.argmax(dim=1)
    many, medium, few, per_class = shot_accuracy(preds, targets, train_labels)
    return many, medium, few, per_class, mean_over_classes(per_class)


def cosine_similarities(features: Tensor, centroids: Tensor) -> Tensor:
    """Returns cos(f_i, μ_c) of features ``[N, D]`` and centroids ``[K, D]``, as ``[N, K]``."""
    return F.normalize(features, dim=1) @ F.normalize(centroids, dim=1).T


def accuracy_record(parts: Iterable[tuple[Tensor, ...]], class_counts: Sequence[int]) -> dict:
    """Returns the accuracies of one classifier on one split, in percent, as `summary.json` has
    them.

    Args:
        parts: logits or similarities ``[n, K]`` and true labels ``[n]`` of all images, in one part
            or several (`in_parts`).
        class_counts: training images of each class ``[K]``.

    Returns:
        - ``top1``, ``top5``: shares of the images; top-K if there are only K < 5 classes;
        - ``balanced``: mean of the per-class accuracies over the classes that have images
          (scikit-learn's `balanced_accuracy_score`);
        - ``macro_f1``: scikit-learn's `f1_score` with ``average="macro"``;
        - ``many``, ``medium``, ``few``: mean of the per-class accuracies of the group;
        - ``per_class``, ``precision``, ``recall``: lists ``[K]``; recall is the per-class accuracy.

        A value is None if nothing is counted in it: a group or a class without images, or the
        precision of a class that is never predicted.
    """
    return record_of(sum_of_parts(tally, parts).cpu().numpy(), class_counts)


def tally(scores: Tensor, targets: Tensor) -> Tensor:
    """Returns the counts that `record_of` takes, float64 ``[3 K + 1]``, on the device of the scores
    and without waiting for it.

    The first three K numbers count for each class the images that are predicted right, all its
    images, and the images that are predicted as this class. The last number counts the images whose
    class is among the five with the best scores.

    Args:
        scores: logits or similarities ``[N, K]``.
        targets: true labels ``[N]``.
    """
    num_classes = scores.shape[1]
    ranked = scores.topk(min(5, num_classes), dim=1).indices
    hits = (ranked == targets.unsqueeze(1)).double()
    in_top1, ones = hits[:, 0], hits.new_ones(len(hits))
    # `bincount` would make the host wait for the device.
    counts = hits.new_zeros(3, num_classes)
    counts[0].index_add_(0, targets, in_top1)
    counts[1].index_add_(0, targets, ones)
    counts[2].index_add_(0, ranked[:, 0], ones)
    return torch.cat([counts.flatten(), hits.sum().view(1)])


def record_of(counts: np.ndarray, class_counts: Sequence[int]) -> dict:
    """Returns the record that `accuracy_record` describes.

    The formulas are those of scikit-learn. Its own functions are not used, because they take 1.5
    seconds to import and several milliseconds for a call.

    Args:
        counts: what `tally` returned, ``[3 K + 1]``.
        class_counts: training images of each class ``[K]``.
    """
    right, true, predicted = counts[:-1].reshape(3, -1)
    images, in_top5 = true.sum(), counts[-1]
    with np.errstate(invalid="ignore"):
        recall, precision, f1 = right / true, right / predicted, 2 * right / (true + predicted)
        top1, top5 = right.sum() / images, in_top5 / images
    groups = group_means(recall, class_counts)
    return {
        "top1": percent(top1),
        "top5": percent(top5),
        "balanced": percent(mean_over_classes(recall)),
        "macro_f1": percent(mean_over_classes(f1)),
        **{group: percent(accuracy) for group, accuracy in groups.items()},
        "per_class": [percent(accuracy) for accuracy in recall],
        "precision": [percent(share) for share in precision],
        "recall": [percent(share) for share in recall],
    }


def percent(share: float) -> float | None:
    """Returns a share in percent, rounded to four decimals, or None for NaN."""
    return None if np.isnan(share) else round(100 * float(share), 4)
