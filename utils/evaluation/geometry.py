"""The geometry of a network's features: their length, their distance to the centroids, and how far
the training centroids are from the true ones."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from losses import class_means
from losses.dro import euclidean_distances
from utils.evaluation.metrics import group_means, mean_over_classes
from utils.evaluation.parts import in_parts
from utils.evaluation.shot_groups import GROUPS


@torch.no_grad()
def measure_geometry(features: Tensor, targets: Tensor, centroids: Tensor) -> Tensor:
    """Returns the values that `geometry_record` takes, float64 ``[2 + 2 K]``, without waiting for
    the device.

    They are ``length`` and ``between``, then for each class the mean distance of its features to
    its centroid, then for each class the error of its centroid.

    Args:
        features: features of the split ``[N, D]``.
        targets: their labels ``[N]``.
        centroids: μ of the training images, ``[K, D]``.
    """
    num_classes = len(centroids)
    to_own = torch.linalg.vector_norm(features - centroids[targets], dim=1)
    within = class_means(to_own.unsqueeze(1), targets, num_classes)
    classes = torch.arange(num_classes, device=centroids.device).unsqueeze(1)
    to_all = partial(euclidean_distances, features=centroids)
    nearest = [
        distances.scatter_(1, own_class, float("inf")).amin(dim=1)  # of another class
        for distances, own_class in in_parts(to_all, num_classes, centroids, classes)
    ]
    own_means = class_means(features, targets, num_classes)
    error = torch.linalg.vector_norm(own_means - centroids, dim=1)
    length = torch.linalg.vector_norm(features, dim=1).mean()
    between = torch.cat(nearest).mean()
    return torch.cat([torch.stack([length, between]), within[:, 0], error]).double()


def geometry_record(values: np.ndarray, class_counts: Sequence[int]) -> dict:
    r"""Returns lengths and distances of a split's features. They tell how far the assumption of the
    robust loss holds: the true centroid of class c is at most a radius away from :math:`\mu_c`, the
    mean of its training features (Samuel and Chechik, ICCV 2021, section 4). The margin
    :math:`\varepsilon_c` is twice this radius, see `losses.DROLoss`.

    :math:`z_i` are the features of the split, and :math:`m_c` is the mean of those of class c.
    Means over classes c are over the classes that the split has.

    - ``length``: :math:`\operatorname{mean}_i \lVert z_i \rVert`;
    - ``within``: :math:`\operatorname{mean}_c \operatorname{mean}_{i: y_i = c}
      \lVert z_i - \mu_c \rVert`, the distance to the centroid of the class;
    - ``between``: :math:`\operatorname{mean}_c \min_{b \neq c} \lVert \mu_b - \mu_c \rVert`, the
      distance from a centroid to the nearest other one, over all K classes;
    - ``centroid_error``: :math:`\lVert m_c - \mu_c \rVert`, as the ``mean`` over all classes and
      over the ``many``, ``medium`` and ``few`` classes. It is larger than the distance to the true
      centroid, because the mean of n features of the split is itself off by about ``within`` / √n.

    All values are in the unit of the features, rounded to four decimals. A mean over no class is
    None.

    Args:
        values: what `measure_geometry` returned, ``[2 + 2 K]``.
        class_counts: training images of each class ``[K]``.
    """
    length, between = values[:2].tolist()
    within, error = values[2:].reshape(2, -1)
    of_group = {group: _rounded(mean) for group, mean in group_means(error, class_counts).items()}
    return {
        "length": _rounded(length),
        "within": _rounded(mean_over_classes(within)),
        "between": _rounded(between),
        "centroid_error": {"mean": _rounded(mean_over_classes(error)), **of_group},
    }


def geometry_line(split: str, geometry: dict) -> str:
    """Returns a record of `geometry_record` as one line of text."""
    error = geometry["centroid_error"]
    by_group = " / ".join(_shown(error[group]) for group in GROUPS)
    return (
        f"{split} features: length {_shown(geometry['length'])}, {_shown(geometry['within'])} from "
        f"the centroid of their class, centroids {_shown(geometry['between'])} from the nearest "
        f"other; class means {_shown(error['mean'])} from the training centroids "
        f"({by_group} many / medium / few)"
    )


def _rounded(value: float) -> float | None:
    return round(value, 4) if abs(value) < float("inf") else None


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
