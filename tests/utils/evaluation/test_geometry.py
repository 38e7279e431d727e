"""The geometry of features: lengths, distances to centroids, errors of centroids."""

import numpy as np
import pytest
import torch

from losses.dro import euclidean_distances
from tests.support.helpers import seeded
from utils.evaluation.geometry import geometry_line, geometry_record, measure_geometry

COUNTS = [500, 150, 50, 20, 3]


def geometry_of(features, targets, centroids, class_counts):
    return geometry_record(measure_geometry(features, targets, centroids).numpy(), class_counts)


def by_numpy(features, targets, centroids):
    """Returns the record, computed class by class in float64; a class without images is left
    out."""
    z, mu, y = (t.double().numpy() for t in (features, centroids, targets))
    within, error = [], {}
    for label in range(len(mu)):
        own = z[y == label]
        if len(own):
            within.append(np.mean([np.sqrt(((row - mu[label]) ** 2).sum()) for row in own]))
            error[label] = np.sqrt(((own.mean(axis=0) - mu[label]) ** 2).sum())
    nearest = [
        min(np.linalg.norm(mu[b] - mu[c]) for b in range(len(mu)) if b != c) for c in range(len(mu))
    ]
    groups = {"many": (0, 1), "medium": (2, 3), "few": (4,)}
    known = {
        group: [error[label] for label in labels if label in error]
        for group, labels in groups.items()
    }
    return {
        "length": np.mean([np.linalg.norm(row) for row in z]),
        "within": np.mean(within),
        "between": np.mean(nearest),
        "centroid_error": {"mean": np.mean(list(error.values()))}
        | {group: np.mean(values) if values else None for group, values in known.items()},
    }


@pytest.mark.parametrize("present", [[0, 1, 2, 3, 4], [0, 2, 3], [4]])
@pytest.mark.parametrize("far", [1.0, 100.0])
def test_the_record_is_that_of_the_definitions(present, far):
    features = far * torch.randn(60, 7, generator=seeded(1))
    targets = torch.tensor(present).repeat(60)[:60]
    centroids = far * torch.randn(5, 7, generator=seeded(2))
    found = geometry_of(features, targets, centroids, COUNTS)
    expected = by_numpy(features, targets, centroids)
    for name in ("length", "within", "between"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for group, value in expected["centroid_error"].items():
        wanted = None if value is None else pytest.approx(value, rel=1e-4)
        assert found["centroid_error"][group] == wanted


def test_the_own_features_of_the_centroids_have_no_error():
    features = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 5.0]])
    targets = torch.tensor([0, 0, 1])
    found = geometry_of(features, targets, features[[0, 2]], [150, 5])
    between = round(10**0.5, 4)
    none = {"mean": 0.0, "many": 0.0, "medium": None, "few": 0.0}
    assert found == {"length": 5.0, "within": 0.0, "between": between, "centroid_error": none}


def test_shorter_features_are_nearer_by_the_same_factor():
    features, targets = torch.randn(40, 6, generator=seeded(3)), torch.arange(40) % 5
    centroids = torch.randn(5, 6, generator=seeded(4))
    whole = geometry_of(features, targets, centroids, COUNTS)
    half = geometry_of(features / 2, targets, centroids / 2, COUNTS)
    for name in ("length", "within", "between"):
        assert half[name] == pytest.approx(whole[name] / 2, abs=1e-4)
    assert half["centroid_error"]["few"] == pytest.approx(
        whole["centroid_error"]["few"] / 2, abs=1e-4
    )


def test_the_nearest_other_centroid_does_not_depend_on_parts(monkeypatch):
    features, centroids = (torch.randn(5, 7, generator=seeded(seed)) for seed in (1, 2))
    whole = measure_geometry(features, torch.arange(5), centroids)
    sizes = []

    def distances(part, features):
        sizes.append(len(part))
        return euclidean_distances(part, features)

    monkeypatch.setattr("utils.evaluation.parts.VALUES_AT_ONCE", 10)
    monkeypatch.setattr("utils.evaluation.geometry.euclidean_distances", distances)
    assert torch.equal(measure_geometry(features, torch.arange(5), centroids), whole)
    assert sizes == [2, 2, 1]


def test_a_line_says_what_is_known():
    error = {"mean": 1.0, "many": 0.5, "medium": None, "few": 2.0}
    geometry = {"length": 7.4, "within": 4.25, "between": 3.0, "centroid_error": error}
    line = geometry_line("test", geometry)
    assert line.startswith("test features: length 7.40, 4.25 from the centroid of their class")
    assert line.endswith("1.00 from the training centroids (0.50 / n/a / 2.00 many / medium / few)")
