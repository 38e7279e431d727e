"""What the evaluator computes from a network: features, centroids, accuracies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from datasets.loading.loader import Normalise
from datasets.loading.resident import ResidentLoader
from datasets.normalisation import CIFAR
from datasets.splits import LongTailedData, Split
from tests.support.helpers import noise, seeded
from utils.evaluation.evaluator import Evaluator, equal_size
from utils.evaluation.features import class_centroids, extract_features
from utils.evaluation.geometry import geometry_record, measure_geometry
from utils.evaluation.metrics import (
    cosine_similarities,
    nearest_centroid_accuracy,
    shot_accuracy,
)
from utils.machine.device import Machine

CPU = Machine(torch.device("cpu"), "float32")


class TinyNetwork(nn.Module):
    """A small network with batch-norm and with a part that acts only in training mode."""

    def __init__(self, num_classes=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(8, num_classes)

    def features(self, images):
        return self.dropout(self.bn1(self.conv1(images))).mean(dim=(2, 3), dtype=torch.float32)

    def classify(self, features):
        return self.linear(features)


def tiny_data():
    """Returns five classes of 130 to 3 training images; class 3 has no test image."""
    counts = [130, 50, 20, 19, 3]
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    test_labels = torch.tensor([0, 1, 2, 4] * 9)
    return LongTailedData(
        name="tiny",
        train=Split(noise(len(labels), side=8, seed=1), labels),
        test=Split(noise(36, side=8, seed=2), test_labels),
        heldout=Split(noise(6, side=8, seed=3), torch.tensor([1, 1, 2, 2, 4, 4])),
        class_names=list("abcde"),
    )


def reference_features(model, split):
    """Returns the features, computed one image at a time in eval mode."""
    reference = TinyNetwork()
    reference.load_state_dict(model.state_dict())
    reference.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR.mean, CIFAR.std))
    with torch.no_grad():
        rows = [reference.features((i[None].float() / 255 - mean) / std) for i in split.images]
    return torch.cat(rows).numpy()


def trained_a_little(num_classes=5):
    """Returns a network whose batch-norm statistics are neither the initial ones nor those of its
    data."""
    model = TinyNetwork(num_classes)
    with torch.no_grad():
        model.train()
        model.features(torch.randn(16, 3, 8, 8, generator=seeded(4)))
    return model


def loader_for(split, batch_size=10):
    normalise = Normalise(CIFAR, torch.device("cpu"))
    return ResidentLoader(split, normalise, batch_size)


def test_features_are_those_of_single_images_in_eval_mode():
    model, split = trained_a_little(), tiny_data().test
    features, targets = extract_features(model, loader_for(split), CPU)
    assert features.dtype == torch.float32 and features.shape == (36, 8)
    assert_close(features.numpy(), reference_features(model, split), rtol=1e-5, atol=1e-6)
    assert torch.equal(targets, split.labels)


def test_centroids_are_the_class_means_of_the_features():
    model, split = trained_a_little(), tiny_data().train
    centroids = class_centroids(model, loader_for(split, 17), 5, CPU)
    features = reference_features(model, split).astype(np.float64)
    expected = [features[split.labels == label].mean(axis=0) for label in range(5)]
    assert centroids.dtype == torch.float32
    assert_close(centroids.numpy(), np.float32(expected), rtol=1e-5, atol=1e-6)


def test_centroids_do_not_lose_precision_far_from_the_origin():
    """Sums in float32 would: 2,000 features near 10,000 differ only in the third decimal."""

    class Far(nn.Module):
        def features(self, values):
            return values

    values = 1e4 + torch.rand(2000, 1, generator=seeded()) / 100
    batches = zip(values.split(7), torch.zeros(2000, dtype=torch.int64).split(7), strict=True)
    centroid = class_centroids(Far(), batches, 1, CPU)
    assert centroid.item() == np.float32(values.double().mean().item())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("what", ["features", "centroids", "evaluator"])
def test_an_evaluation_changes_no_mode_statistics_or_gradients(training, what):
    model, data = trained_a_little(), tiny_data()
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if what == "features":
        result = extract_features(model, loader_for(data.test), CPU)[0]
    elif what == "centroids":
        result = class_centroids(model, loader_for(data.train), 5, CPU)
    else:
        evaluator = Evaluator(data, CPU)
        evaluator.extract(model)
        evaluator.linear(model), evaluator.ncm()
        result = evaluator.features_of("test")[0]
    assert not result.requires_grad
    assert all(module.training == training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def in_percent(values):
    return [None if np.isnan(v) else pytest.approx(100 * v, abs=1e-4) for v in values]


@pytest.mark.parametrize("split", ["test", "heldout"])
def test_linear_readings_equal_the_public_metrics(split):
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    assert not evaluator.has_features
    evaluator.extract(model)
    assert evaluator.has_features
    images = data.evaluation_splits[split]
    logits = model.classify(torch.from_numpy(reference_features(model, images)))
    many, medium, few, per_class = shot_accuracy(
        logits.argmax(dim=1), images.labels, data.train.labels
    )
    record = evaluator.linear(model)[split]
    assert [record[g] for g in ("many", "medium", "few")] == in_percent([many, medium, few])
    assert record["per_class"] == in_percent(per_class)
    top1 = (logits.argmax(dim=1) == images.labels).double().mean().item()
    assert record["top1"] == pytest.approx(100 * top1, abs=1e-4)
    assert record["top5"] == 100  # of five classes
    assert record["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, images.labels).item(), rel=1e-5
    )
    if split == "heldout":
        assert record["many"] is None  # the only such class keeps all its images


@pytest.mark.parametrize("split", ["test", "heldout"])
def test_ncm_readings_equal_the_public_metrics(split):
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    evaluator.extract(model)
    images = data.evaluation_splits[split]
    many, medium, few, per_class, mean = nearest_centroid_accuracy(
        reference_features(model, data.train),
        data.train.labels,
        reference_features(model, images),
        images.labels,
    )
    record = evaluator.ncm()[split]
    assert [record[g] for g in ("many", "medium", "few")] == in_percent([many, medium, few])
    assert record["per_class"] == in_percent(per_class)
    assert record["balanced"] == pytest.approx(100 * mean, abs=1e-4)


def test_accuracies_do_not_depend_on_parts(monkeypatch):
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    evaluator.extract(model)
    linear, ncm = evaluator.linear(model), evaluator.ncm()
    classify, sizes = model.classify, []
    monkeypatch.setattr(model, "classify", lambda f: sizes.append(len(f)) or classify(f))
    monkeypatch.setattr("utils.evaluation.parts.VALUES_AT_ONCE", 39)  # seven rows of five scores
    in_parts = evaluator.linear(model)
    assert sizes == [7] * 5 + [1] + [6]  # of 36 test images and 6 held-out images
    for split in linear:
        loss = pytest.approx(linear[split]["loss"], rel=1e-6)
        assert in_parts[split] == linear[split] | {"loss": loss}
    monkeypatch.setattr(
        "utils.evaluation.evaluator.cosine_similarities",
        lambda features, centroids: cosine_similarities(of_a_part(features), centroids),
    )
    assert evaluator.ncm() == ncm


def of_a_part(features):
    assert len(features) <= 7
    return features


def test_top_1_is_a_share_of_the_images_and_balanced_a_mean_over_classes_for_both_classifiers():
    """The only image of class 0 is wrong, and all 27 images of the other classes are right (class 3
    has none)."""

    class Perfect(nn.Module):
        """A network whose feature is a point on a circle; the image's first value is its angle."""

        def features(self, images):
            value = (images[:, 0, 0, 0] * CIFAR.std[0] + CIFAR.mean[0]) * 255
            angle = value.round() * (2 * torch.pi / 5)
            return torch.stack([angle.cos(), angle.sin()], dim=1)

        def classify(self, features):
            angles = torch.arange(5) * (2 * torch.pi / 5)
            return features @ torch.stack([angles.cos(), angles.sin()])

    def split(labels, shown):
        shown = torch.tensor(shown, dtype=torch.uint8)
        images = shown.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
        return Split(images, torch.tensor(labels))

    labels = [0, 0] + [1] * 20 + [2] * 5 + [4]
    data = LongTailedData(
        name="perfect",
        train=split([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        test=split(labels, [1, *labels[1:]]),
        heldout=None,
        class_names=list("abcde"),
    )
    evaluator = Evaluator(data, CPU)
    evaluator.extract(Perfect())
    linear, ncm = evaluator.linear(Perfect()), evaluator.ncm()
    assert list(linear) == list(ncm) == ["test"]
    per_class = [50, 100, 100, None, 100]
    assert linear["test"]["per_class"] == ncm["test"]["per_class"] == per_class
    assert linear["test"]["top1"] == ncm["test"]["top1"] == pytest.approx(100 * 27 / 28, abs=1e-4)
    assert linear["test"]["balanced"] == ncm["test"]["balanced"] == pytest.approx(350 / 4)
    assert linear["test"]["few"] == ncm["test"]["few"] == pytest.approx(350 / 4)
    assert linear["test"]["many"] is linear["test"]["medium"] is None


def test_a_classifier_is_read_again_without_another_pass(monkeypatch):
    """Its features are frozen: they are kept, and only the classifier has changed."""
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    evaluator.extract(model)
    evaluator.ncm()

    def forbidden(*_):
        raise AssertionError("another pass")

    for name in ("extract_features", "class_centroids"):
        monkeypatch.setattr(f"utils.evaluation.evaluator.{name}", forbidden)
    before = evaluator.linear(model)["test"]["loss"]
    with torch.no_grad():
        model.linear.weight.mul_(2)
    assert evaluator.linear(model)["test"]["loss"] != before
    evaluator.ncm()
    evaluator.forget()
    assert not evaluator.has_features


def test_the_nearest_class_mean_and_the_geometry_are_added_to_the_accuracies():
    model, evaluator = trained_a_little(), Evaluator(tiny_data(), CPU)
    results = evaluator.accuracies(model)
    linear = evaluator.linear(model)
    assert results == {split: {"linear": r, "ncm": None} for split, r in linear.items()}
    evaluator.add_ncm(results)
    ncm, geometry = evaluator.ncm(), evaluator.geometry()
    for split in ("test", "heldout"):
        of_centroids = {"ncm": ncm[split], "geometry": geometry[split]}
        assert results[split] == {"linear": linear[split], **of_centroids}


def test_geometry_is_that_of_single_images_and_the_training_sets_centroids():
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    evaluator.extract(model)
    train = torch.from_numpy(reference_features(model, data.train))
    centroids = torch.stack([train[data.train.labels == c].mean(dim=0) for c in range(5)])
    features = torch.from_numpy(reference_features(model, data.test))
    found = evaluator.geometry()["test"]
    labels = data.test.labels
    values = measure_geometry(features, labels, centroids).numpy()
    expected = geometry_record(values, data.class_counts)
    assert found.pop("centroid_error") == pytest.approx(expected.pop("centroid_error"), abs=2e-4)
    assert found == pytest.approx(expected, abs=2e-4)


def test_frozen_features_are_computed_once(monkeypatch):
    model, data = trained_a_little(), tiny_data()
    evaluator, passes = Evaluator(data, CPU), []
    extract = Evaluator.extract
    monkeypatch.setattr(Evaluator, "extract", lambda *given: passes.append(1) or extract(*given))
    first = evaluator.accuracies(model, features_are_frozen=True)
    assert evaluator.accuracies(model, features_are_frozen=True) == first
    assert len(passes) == 1
    evaluator.accuracies(model)
    assert len(passes) == 2


def test_the_features_of_training_images_give_the_centroids_without_another_pass(monkeypatch):
    data, model = tiny_data(), trained_a_little()
    evaluator = Evaluator(data, CPU)
    evaluator.extract(model)
    expected = evaluator.centroids()
    evaluator.extract(model)
    features, targets = evaluator.training_features()
    assert torch.equal(targets, data.train.labels)
    monkeypatch.setattr("utils.evaluation.evaluator.class_centroids", None)
    assert torch.equal(evaluator.centroids(), expected)
    assert_close(torch.stack([features[targets == c].mean(dim=0) for c in range(5)]), expected)


def test_a_new_look_computes_new_centroids():
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    for seed in (0, 1):
        model.load_state_dict(TinyNetwork(seed=seed).state_dict())
        evaluator.extract(model)
        fresh = Evaluator(data, CPU)
        fresh.extract(model)
        assert evaluator.ncm() == fresh.ncm()
        assert evaluator.linear(model) == fresh.linear(model)


@pytest.mark.parametrize(("side", "expected"), [(32, 500), (64, 125), (2000, 1)])
def test_a_pass_takes_the_pixels_of_500_cifar_images(side, expected):
    split = Split(
        torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    )
    data = replace(tiny_data(), train=split, test=split)
    assert Evaluator(data, CPU).batch_size == expected


@pytest.mark.parametrize("count", [1, 2, 499, 500, 501, 1980, 10_000, 10_847, 50_000])
def test_equal_parts_are_as_few_as_possible_and_nearly_equal(count):
    size = equal_size(count, 500)
    parts = [len(part) for part in torch.arange(count).split(size)]
    assert sum(parts) == count and len(parts) == -(-count // 500) and size <= 500
    assert len(set(parts)) <= 2 and size - parts[-1] < len(parts)
