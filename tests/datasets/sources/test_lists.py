"""ImageNet-LT and iNaturalist 2018 by their lists: what is read, what is refused, whole runs."""

import json
import shutil

import numpy as np
import pytest
import torch

from datasets import load_data, normalisation
from datasets.sources.lists import _read_list
from tests.support.helpers import (
    call,
    load,
    read_records,
    read_summary,
    succeed,
)
from tests.support.streamed_sets import (
    CLASSES,
    SIDE,
    records_of,
    stage_1,
    stage_2,
    training_counts,
    write_imagenet_lt,
    write_inaturalist,
)
from utils.errors import UserError
from utils.evaluation.evaluator import extract_features
from utils.options.parse import parse_options


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return write_imagenet_lt(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def own(tmp_path):
    """Gives a small data set that the test may change."""
    return write_imagenet_lt(tmp_path / "own", classes=3)


def data_of(root, *flags, dataset="imagenet_lt"):
    flags = ("--dataset", dataset, "--data_root", root, "--image_size", 64, "-j", 0, *flags)
    return load_data(parse_options([str(flag) for flag in flags]))


def test_imagenet_lt_is_streamed_with_its_own_imbalance_and_its_validation_list_held_out(imagenet):
    data = data_of(imagenet)
    assert data.is_streamed and data.class_counts == training_counts(CLASSES)
    assert (len(data.test), len(data.heldout)) == (2 * CLASSES, CLASSES)
    assert data.class_names[:2] == ["n00000000", "n00000001"]
    assert (data.mean, data.std) == (normalisation.IMAGENET.mean, normalisation.IMAGENET.std)
    lines = (imagenet / "ImageNet_LT_train.txt").read_text().split("\n")[:-1]
    listed = dict(line.split() for line in lines)
    labels = dict(zip(data.train.names, data.train.labels.tolist(), strict=True))
    assert labels == {name: int(label) for name, label in listed.items()}


def test_inaturalists_validation_list_is_its_test_set(tmp_path):
    root = write_inaturalist(tmp_path / "images", tmp_path / "lists")
    data = data_of(root, "--list_root", tmp_path / "lists", dataset="inaturalist18")
    assert (data.class_counts, len(data.test), data.heldout) == ([4] * 5, 10, None)
    assert data.class_names == ["70", "71", "72", "73", "74"]
    with pytest.raises(UserError, match="give the lists' folder with --list_root"):
        data_of(root, dataset="inaturalist18")


def test_the_fingerprint_is_of_names_and_labels_and_not_of_the_place(own, tmp_path):
    before = data_of(own).fingerprint
    shutil.move(own, tmp_path / "moved")
    assert data_of(tmp_path / "moved").fingerprint == before
    assert data_of(tmp_path / "moved", "--rand_number", 1).fingerprint != before
    path = tmp_path / "moved" / "ImageNet_LT_train.txt"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first.replace(" 0", " 1"), *rest]))
    assert data_of(tmp_path / "moved").fingerprint != before


def test_streamed_and_resident_images_are_the_same(own):
    streamed, resident = data_of(own), data_of(own, "--stream", "False")
    assert not resident.is_streamed
    for split in ("train", "test", "heldout"):
        pixels = torch.cat(list(getattr(streamed, split).pixels()))
        assert torch.equal(pixels, getattr(resident, split).images)
        assert torch.equal(getattr(streamed, split).labels, getattr(resident, split).labels)


def test_exp_takes_a_part_of_a_listed_set(imagenet):
    data = data_of(imagenet, "--imb_type", "exp", "--imb_factor", 0.1)
    wanted = [int(12 * 0.1 ** (k / (CLASSES - 1))) for k in range(CLASSES)]
    assert data.class_counts == [
        min(*p) for p in zip(wanted, training_counts(CLASSES), strict=True)
    ]
    assert len(data.train.names) == sum(data.class_counts)
    assert len(data.heldout) == CLASSES


def change(path, text, addition):
    path.write_text(path.read_text().replace(*text) + addition)


@pytest.mark.parametrize(
    ("file", "text", "addition", "says"),
    [
        ("train", (" 0\n", " zero\n"), "", "ImageNet_LT_train.txt, line 1: "),
        ("train", ("", ""), "only_a_path.JPEG\n", "'only_a_path.JPEG' is not a path and a label"),
        ("train", ("", ""), "x.JPEG -1\n", "'x.JPEG -1' is not"),
        ("train", ("", ""), "nowhere/x.JPEG 1\n", "nowhere/x.JPEG: no such file"),
        ("train", (" 1\n", " 2\n"), "", "class 1 has no training images"),
        ("test", (" 1\n", " 7\n"), "", "ImageNet_LT_test.txt: class 7 has no training images"),
        ("test", ("", ""), "val/test_00_000.JPEG 0\n", "again in ImageNet_LT_test.txt"),
        ("val", ("", ""), "val/test_00_000.JPEG 0\n", "listed in ImageNet_LT_test.txt and again"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(own, file, text, addition, says):
    change(own / f"ImageNet_LT_{file}.txt", text, addition)
    with pytest.raises(UserError) as raised:
        data_of(own)
    assert says in str(raised.value)


def test_all_faults_of_lists_and_files_are_collected(own):
    change(own / "ImageNet_LT_train.txt", ("", ""), "no label\ntrain/gone.JPEG 0\n")
    (own / "val" / "test_00_000.JPEG").write_bytes(b"")
    (own / "val" / "val_01_000.JPEG").write_text("no image")
    with pytest.raises(UserError, match=r"4 faults: .*; .*; .* and 1 more"):
        data_of(own)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe binary 1\n"])
def test_a_list_that_is_none_is_named(own, content):
    (own / "ImageNet_LT_test.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"ImageNet_LT_test\.txt: (no images|not a text)"):
        data_of(own)


def test_a_missing_list_is_bad_input_and_nothing_is_written(own, tmp_path):
    (own / "ImageNet_LT_val.txt").unlink()
    root = tmp_path / "root"
    outcome = call(
        ["--dataset", "imagenet_lt", "--data_root", own, "--root_log", root, "--root_model", root]
    )
    assert outcome.status == 2 and len(outcome.errors) == 1 and not root.exists()
    assert str(own / "ImageNet_LT_val.txt") in outcome.err


def test_both_stages_and_the_evaluation_of_a_listed_set(imagenet, tmp_path, no_figures):
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


@pytest.mark.parametrize("stream", ["True", "False"])
def test_the_classifier_phase_holds_the_features_of_a_part_of_a_streamed_set(
    own, tmp_path, monkeypatch, no_figures, stream
):
    """A visit takes 12 images of each of three classes, and a batch has 4: nine batches in an
    epoch."""
    data = data_of(own, "--stream", stream)
    sizes = []

    def extract(model, batches, machine):
        features, targets = extract_features(model, batches, machine)
        sizes.append(len(targets))
        return features, targets

    flags = ["-b", "4", "--stream", stream, "--epochs", "1", "--balanced_clf_nepochs", "1"]
    succeed(stage_1(own, tmp_path, "--epochs", 0))
    monkeypatch.setattr("utils.training.training_pass.extract_features", extract)
    monkeypatch.setattr(
        "utils.evaluation.evaluator.PIXELS_A_PASS", {"cpu": 9 * SIDE**2, "cuda": 9 * SIDE**2}
    )
    monkeypatch.setattr("utils.training.training_pass.STREAMED_BATCHES_A_PASS", 1)
    succeed([*stage_2(own, tmp_path), *flags])
    assert data.class_counts[0] == 12
    assert sizes == ([16, 16, 4] if stream == "True" else [36])


def test_a_network_for_large_images_takes_a_cosine_head_from_ldam(own, tmp_path, no_figures):
    extra = ("--loss_type", "LDAM", "--train_rule", "DRW")
    first = stage_1(own, tmp_path, *extra)
    succeed(first)
    pretrained = records_of(first).name
    second = stage_2(own, tmp_path, "--pretrained", pretrained)
    succeed(second)
    weights = load(records_of(second) / "ckpt.pth.tar")["state_dict"]
    assert weights["linear.weight"].shape == (512, 3) and "linear.bias" not in weights


def test_lists_with_a_byte_order_mark_are_read(tmp_path):
    path, faults = tmp_path / "list.txt", []
    path.write_bytes("\ufefftrain/n0/a.jpg 0\ntrain/n1/b.jpg 1\n".encode())
    found = _read_list(path, tmp_path, faults)
    assert (found.names, found.labels, faults) == (["train/n0/a.jpg", "train/n1/b.jpg"], [0, 1], [])
