"""Whole runs on ImageNet-LT by its lists."""

import json

import numpy as np
import pytest

from tests.support.helpers import load, read_records, read_summary, succeed
from tests.support.streamed_sets import (
    CLASSES,
    SIDE,
    data_of,
    records_of,
    stage_1,
    stage_2,
    training_counts,
    write_imagenet_lt,
)
from utils.evaluation.evaluator import PIXELS_A_PASS
from utils.evaluation.features import extract_features


@pytest.fixture
def three_classes(tmp_path):
    return write_imagenet_lt(tmp_path / "images", classes=3)


def test_both_stages_and_the_evaluation_of_a_listed_set(tmp_path, no_figures):
    imagenet = write_imagenet_lt(tmp_path / "imagenet")
    succeed(stage_1(imagenet, tmp_path))
    second = stage_2(imagenet, tmp_path)
    succeed(second)
    succeed([*second, "--evaluation", "True"])
    first, last = read_records(records_of(stage_1(imagenet, tmp_path)))
    assert (first["lr"], last["lr"]) == pytest.approx((0.05, 0.025))
    assert last["train_loss"] < first["train_loss"]
    records = records_of(second)
    assert records.parent.name.startswith("imagenet_lt_resnet10_CE_None_natural_0.01_0-")
    assert json.loads((records / "args.json").read_text())["image_size"] == SIDE
    summary = read_summary(records)
    assert summary["class_counts"] == training_counts(CLASSES)
    assert summary["heldout"]["images"] == CLASSES
    for reading in ("linear", "ncm"):
        groups = summary["test"]["last"][reading]
        # All classes have fewer than 20 images.
        assert groups["many"] is groups["medium"] is None and groups["few"] is not None
    with np.load(records / "outputs_train.npz") as outputs:
        assert outputs["feats"].shape == (sum(training_counts(CLASSES)), 512)
        assert np.bincount(outputs["labels"]).tolist() == training_counts(CLASSES)


@pytest.mark.parametrize(
    ("stream", "at_once", "expected"),
    [("True", 2**28, [16, 16, 4]), ("False", 36 * 512, [36]), ("False", 36 * 512 - 1, [16, 16, 4])],
)
def test_the_classifier_phase_holds_the_features_of_a_part_of_a_streamed_or_a_large_epoch(
    three_classes, tmp_path, monkeypatch, no_figures, stream, at_once, expected
):
    """A visit takes 12 images of each of three classes, and a batch has 4: nine batches in an
    epoch. A feature has 512 values."""
    data = data_of(three_classes, "--stream", stream)
    sizes = []

    def extract(model, batches, machine):
        features, targets = extract_features(model, batches, machine)
        sizes.append(len(targets))
        return features, targets

    flags = ["-b", "4", "--stream", stream, "--epochs", "1", "--balanced_clf_nepochs", "1"]
    succeed(stage_1(three_classes, tmp_path, "--epochs", 0))
    monkeypatch.setattr("utils.training.training_pass.extract_features", extract)
    monkeypatch.setitem(PIXELS_A_PASS, "cpu", 9 * SIDE**2)
    monkeypatch.setattr("utils.training.training_pass.BATCHES_A_PASS", 2)
    monkeypatch.setattr("utils.training.training_pass.VALUES_AT_ONCE", at_once)
    succeed([*stage_2(three_classes, tmp_path), *flags])
    assert data.class_counts[0] == 12
    assert sizes == expected


def test_a_network_for_large_images_takes_a_cosine_head_from_ldam(
    three_classes, tmp_path, no_figures
):
    extra = ("--loss_type", "LDAM", "--train_rule", "DRW")
    first = stage_1(three_classes, tmp_path, *extra)
    succeed(first)
    pretrained = records_of(first).name
    second = stage_2(three_classes, tmp_path, "--pretrained", pretrained)
    succeed(second)
    weights = load(records_of(second) / "ckpt.pth.tar")["state_dict"]
    assert weights["linear.weight"].shape == (512, 3) and "linear.bias" not in weights
