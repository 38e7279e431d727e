"""Accuracies against the released code's golden vectors, scikit-learn, and hand-made cases."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from utils.evaluation.metrics import (
    accuracy_record,
    cosine_similarities,
    group_of_counts,
    mean_over_classes,
    percent,
)
from utils.metrics import nearest_centroid_accuracy, shot_accuracy  # the public names

# 101, 100, 20 and 19 training images: one many-shot, two medium-shot and one few-shot class.
COUNTS = [101, 100, 20, 19]
TRAIN_LABELS = np.repeat(np.arange(4), COUNTS)


@pytest.fixture(params=["arrays", "tensors", "tensors on cuda"])
def convert(request):
    """Gives a function that converts the inputs of a metric."""
    if request.param == "arrays":
        return np.array
    where = request.getfixturevalue("cuda") if request.param == "tensors on cuda" else "cpu"
    return lambda array: torch.tensor(array, device=where)


def assert_golden(arrays, prefix, result):
    names = ("many", "medium", "few", "per_class", "mean")[: len(result)]
    for name, value in zip(names, result, strict=True):
        expected = arrays[prefix + name]
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6, err_msg=name)


def test_shot_accuracy_equals_the_golden_vectors(golden, convert):
    arrays = golden("metrics")
    result = shot_accuracy(*(convert(arrays[n]) for n in ("preds", "targets", "train_labels")))
    assert len(result) == 4
    assert_golden(arrays, "", result)


def test_nearest_centroid_accuracy_equals_the_golden_vectors(golden, convert):
    arrays = golden("metrics")
    names = ("train_feats", "train_labels", "val_feats", "targets")
    result = nearest_centroid_accuracy(*(convert(arrays[name]) for name in names))
    assert len(result) == 5
    assert_golden(arrays, "ncm_", result)


def test_medium_is_20_to_100_training_images_inclusive():
    groups = group_of_counts([0, 1, 19, 20, 21, 99, 100, 101, 5000])
    assert groups.tolist() == ["few"] * 3 + ["medium"] * 4 + ["many"] * 2


def test_group_accuracies_are_means_over_classes_not_over_images(convert):
    # Class 1 has four test images, one right; class 2 one, right.
    targets = np.array([0, 0, 1, 1, 1, 1, 2, 3])
    preds = np.array([0, 1, 1, 0, 0, 0, 2, 0])
    many, medium, few, per_class = shot_accuracy(*map(convert, (preds, targets, TRAIN_LABELS)))
    assert (many, medium, few) == (0.5, (0.25 + 1) / 2, 0.0)
    assert isinstance(per_class, np.ndarray) and per_class.tolist() == [0.5, 0.25, 1.0, 0.0]


def test_an_empty_group_is_nan(convert):
    train_labels = np.repeat([0, 1], [500, 101])
    targets = np.array([0, 1])
    many, medium, few, _ = shot_accuracy(*map(convert, (targets, targets, train_labels)))
    assert many == 1.0 and math.isnan(medium) and math.isnan(few)


def test_a_class_without_test_images_is_nan_and_left_out_of_its_group(convert):
    targets, preds = np.array([0, 1, 1, 3]), np.array([0, 1, 2, 3])
    many, medium, few, per_class = shot_accuracy(*map(convert, (preds, targets, TRAIN_LABELS)))
    assert (many, medium, few) == (1.0, 0.5, 1.0)
    np.testing.assert_array_equal(per_class, [1.0, 0.5, np.nan, 1.0])


def test_a_group_whose_classes_have_no_test_images_is_nan(convert):
    targets = np.array([0, 1, 2])
    *_, few, per_class = shot_accuracy(*map(convert, (targets, targets, TRAIN_LABELS)))
    assert math.isnan(few)
    np.testing.assert_array_equal(per_class, [1.0, 1.0, 1.0, np.nan])


def test_arrays_and_tensors_may_be_mixed():
    targets = np.array([0, 1, 2, 3])
    result = shot_accuracy(torch.tensor([0, 1, 2, 0]), targets, TRAIN_LABELS.tolist())
    assert result[:3] == (1.0, 1.0, 0.0)


def test_the_mean_over_classes_leaves_nan_out():
    assert mean_over_classes(np.array([0.5, np.nan, 1.0])) == 0.75
    assert math.isnan(mean_over_classes(np.array([np.nan])))
    assert math.isnan(mean_over_classes(np.array([])))


def random_problem(seed):
    """Returns features of 6 overlapping classes; training and test sets are far from balanced."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 8)) + 1
    train_labels = np.repeat(np.arange(6), [150, 101, 60, 20, 10, 3])
    targets = rng.permutation(np.repeat(np.arange(6), [40, 7, 25, 11, 3, 19]))

    def features(labels):
        spread = rng.normal(size=(len(labels), 8)) * rng.uniform(0.5, 3, size=(len(labels), 1))
        return (centres[labels] + spread).astype(np.float32)

    return features(train_labels), train_labels, features(targets), targets


@pytest.mark.parametrize("seed", range(3))
def test_per_class_accuracies_are_the_diagonal_of_the_confusion_matrix(seed, device):
    rng = np.random.default_rng(seed)
    *_, targets = random_problem(seed)
    preds = np.where(rng.random(len(targets)) < 0.6, targets, rng.integers(0, 6, len(targets)))
    expected = confusion_matrix(targets, preds, normalize="true").diagonal()
    preds, targets = (torch.tensor(array, device=device) for array in (preds, targets))
    *_, per_class = shot_accuracy(preds, targets, np.arange(6))
    np.testing.assert_allclose(per_class, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_nearest_centroid_accuracy_agrees_with_scikit_learn(seed, convert):
    train_features, train_labels, features, targets = random_problem(seed)
    centroids = NearestCentroid().fit(train_features, train_labels).centroids_
    nearest = KNeighborsClassifier(1, metric="cosine").fit(centroids, np.arange(6))
    preds = nearest.predict(features)
    expected = confusion_matrix(targets, preds, normalize="true").diagonal()
    many, medium, few, per_class, mean = nearest_centroid_accuracy(
        *map(convert, (train_features, train_labels, features, targets))
    )
    np.testing.assert_allclose(per_class, expected, rtol=1e-12)
    assert many == pytest.approx(expected[:2].mean())
    assert medium == pytest.approx(expected[2:4].mean())
    assert few == pytest.approx(expected[4:].mean())
    # Over classes, which here is not the share of images.
    assert mean == pytest.approx(expected.mean())
    assert abs(mean - (preds == targets).mean()) > 1e-3


def test_nearest_centroids_are_by_cosine_not_by_distance(convert):
    train_features = np.array([[10.0, 0.0], [0.0, 1.0]])
    features = np.array([[1.0, 0.2], [0.2, 100.0]])  # the first is nearer to the second mean
    labels = np.array([0, 1])
    per_class = nearest_centroid_accuracy(
        *map(convert, (train_features, labels, features, labels))
    )[3]
    assert per_class.tolist() == [1.0, 1.0]


def test_cosine_similarities_are_cosines(device):
    features = torch.tensor([[3.0, 4.0], [0.0, 2.0]], device=device)
    centroids = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, -4.0]], device=device)
    expected = torch.tensor([[0.6, 0.8, -1.0], [0.0, 1.0, -0.8]])
    torch.testing.assert_close(cosine_similarities(features, centroids).cpu(), expected)


# Rows are images; ranks of the true class: 1st, 2nd, 1st, 6th, 5th.
SCORES = [
    [9.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    [8.0, 9.0, 1.0, 2.0, 3.0, 4.0],
    [1.0, 9.0, 2.0, 3.0, 4.0, 5.0],
    [5.0, 4.0, 1.0, 2.0, 3.0, 9.0],
    [9.0, 8.0, 7.0, 2.0, 1.0, 6.0],
]
TARGETS = [0, 0, 1, 2, 3]
RECORD_COUNTS = [200, 150, 50, 30, 10, 5]


def test_a_record_by_hand(device):
    part = torch.tensor(SCORES, device=device), torch.tensor(TARGETS, device=device)
    record = accuracy_record([part], RECORD_COUNTS)
    assert record == {
        "top1": 40.0,  # images 0 and 2 of 5
        "top5": 80.0,  # all but image 3
        "balanced": 37.5,  # mean of 1/2, 1, 0, 0
        # Predictions are 0, 1, 1, 5, 0: F1 is 1/2, 2/3 and 0 for classes 2, 3 and 5.
        "macro_f1": pytest.approx(100 * (1 / 2 + 2 / 3) / 5, abs=1e-4),
        "many": 75.0,  # classes 0 (half) and 1 (all)
        "medium": 0.0,  # classes 2 and 3
        "few": None,  # no images
        "per_class": [50.0, 100.0, 0.0, 0.0, None, None],
        "precision": [50.0, 50.0, None, None, None, 0.0],
        "recall": [50.0, 100.0, 0.0, 0.0, None, None],
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_record_of_an_unbalanced_set_agrees_with_scikit_learn(seed, device):
    rng = np.random.default_rng(seed)
    *_, targets = random_problem(seed)
    targets = targets[targets != 4]  # a class without test images, which is predicted
    scores = rng.normal(size=(len(targets), 6)) + 1.5 * np.eye(6)[targets]
    preds = scores.argmax(axis=1)
    assert 4 in preds
    part = torch.tensor(scores, device=device), torch.tensor(targets, device=device)
    record = accuracy_record([part], [30] * 6)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(targets, preds)
    expected = {
        "top1": accuracy_score(targets, preds),
        "top5": top_k_accuracy_score(targets, scores, k=5, labels=np.arange(6)),
        "balanced": balanced,
        "macro_f1": f1_score(targets, preds, average="macro", zero_division=0),
    }
    for name, value in expected.items():
        assert record[name] == pytest.approx(100 * value, abs=1e-4), name
    assert len({record[name] for name in expected}) == 4
    for name, score in (("precision", precision_score), ("recall", recall_score)):
        values = score(targets, preds, labels=np.arange(6), average=None, zero_division=np.nan)
        shown = [None if np.isnan(v) else pytest.approx(100 * v, abs=1e-4) for v in values]
        assert record[name] == shown, name
    assert record["recall"] == record["per_class"] and record["recall"][4] is None


@pytest.mark.parametrize(("num_classes", "per_class"), [(10, 60), (100, 100), (10, 1000), (7, 9)])
def test_on_a_balanced_set_top_1_is_the_balanced_accuracy(num_classes, per_class):
    """Therefore published numbers are the same by either name."""
    generator = torch.Generator().manual_seed(per_class)
    for _ in range(5):
        scores = torch.randn(num_classes * per_class, num_classes, generator=generator)
        targets = torch.arange(num_classes).repeat(per_class)
        record = accuracy_record([(scores, targets)], [30] * num_classes)
        assert record["top1"] == record["balanced"]


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5])
def test_top_5_of_at_most_five_classes_is_always_right(num_classes):
    scores = torch.randn(20, num_classes, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % num_classes
    record = accuracy_record([(scores, targets)], [30] * num_classes)
    expected = 100 * (scores.argmax(dim=1) == targets).double().mean().item()
    assert record["top5"] == 100.0 and record["top1"] == pytest.approx(expected, abs=1e-4)


def test_top_1_and_top_5_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(300, 20)), rng.integers(0, 20, 300)
    record = accuracy_record([(torch.tensor(scores), torch.tensor(targets))], [30] * 20)
    for k in (1, 5):
        expected = top_k_accuracy_score(targets, scores, k=k, labels=np.arange(20))
        assert record[f"top{k}"] == pytest.approx(100 * expected, abs=1e-4)


def test_percent_has_four_decimals_and_none_for_nan():
    assert percent(1 / 3) == 33.3333 and percent(float("nan")) is None


def test_a_label_that_the_training_set_lacks_is_never_right(convert):
    """It may be the largest one, so that the training labels do not say how many classes exist."""
    train, targets = convert(np.array([0, 0, 1])), convert(np.array([0, 1, 2, 2]))
    many, medium, few, per_class = shot_accuracy(convert(np.array([0, 1, 1, 0])), targets, train)
    assert per_class.tolist() == [1.0, 1.0, 0.0]
    assert math.isnan(many) and math.isnan(medium) and few == pytest.approx(2 / 3)
    train_feats = convert(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    feats = convert(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    *_, per_class, mean = nearest_centroid_accuracy(train_feats, train, feats, targets)
    assert per_class.tolist() == [1.0, 1.0, 0.0] and mean == pytest.approx(2 / 3)
