"""Evaluation of finished runs: what it writes, prints and warns of."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import Network, resnet8
from tests.support.helpers import (
    CLASS_COUNTS,
    NOTHING,
    STAGE_1_NAME,
    call,
    load,
    read_summary,
    snapshot,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from tests.support.own_images import write_folder
from tests.support.pictures import noise, save
from utils.commands.evaluate import _epoch_of
from utils.errors import UserError
from utils.evaluation.classifiers import apply_classifier
from utils.evaluation.fitting import FeatureBank
from utils.options.parse import parse_options
from utils.runs.classifier_files import load_classifier
from utils.runs.folders import run_folder
from utils.runs.run_folder import RunFolder
from utils.training import selection

CLASSES = [f"class_{k}" for k in range(10)]
pytestmark = pytest.mark.usefixtures("no_figures")


def accuracy(preds: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((preds == labels).mean())


@pytest.mark.parametrize("stage", [1, 2])
def test_evaluation_writes_outputs_that_give_the_accuracies_of_the_summary(stage, tree, both):
    make, folder = (stage_1, both / STAGE_1_NAME) if stage == 1 else (stage_2, stage_2_folder(both))
    before = snapshot(both)

    outcome = succeed(make(tree, both, "--evaluation", "True"))

    names = ("outputs_train.npz", "outputs_test.npz", "geometry.json")
    written = {f"{folder.relative_to(both)}/{name}" for name in names}
    after = snapshot(both)
    assert set(after) - set(before) == written
    assert {path: after[path] for path in before} == before
    selected = read_summary(folder)["test"]["selected"]
    arrays = {}
    for split in ("train", "test"):
        with np.load(folder / f"outputs_{split}.npz", allow_pickle=False) as outputs:
            assert {"feats", "labels", "preds"} <= set(outputs.files)
            arrays[split] = {name: outputs[name] for name in outputs.files}
    assert np.bincount(arrays["train"]["labels"]).tolist() == CLASS_COUNTS
    assert arrays["test"]["feats"].shape == (40, 64)
    test = arrays["test"]
    top1 = accuracy(test["preds"], test["labels"])
    assert top1 == pytest.approx(selected["linear"]["top1"], abs=1e-3)
    for label, recorded in enumerate(selected["linear"]["per_class"]):
        members = test["labels"] == label
        assert accuracy(test["preds"][members], label) == pytest.approx(recorded, abs=1e-3)
        cells = [recorded, selected["ncm"]["per_class"][label]]
        row = [CLASSES[label], str(CLASS_COUNTS[label]), *(f"{cell:.1f}" for cell in cells)]
        assert row in [line.split()[:4] for line in outcome.out.splitlines()]
    (linear,) = [row for row in outcome.out.splitlines() if row.startswith("test, linear")]
    (ncm,) = [row for row in outcome.out.splitlines() if row.startswith("test, NCM")]
    for row, reading in ((linear, "linear"), (ncm, "ncm")):
        shown = row.split(",")[1].split()[1:]
        names = ("top1", "top5", "balanced", "macro_f1", "many", "medium", "few")
        values = [selected[reading][name] for name in names]
        assert shown == ["n/a" if value is None else f"{value:.2f}" for value in values]
    centroids = [
        arrays["train"]["feats"][arrays["train"]["labels"] == c].mean(0) for c in range(10)
    ]
    directions = F.normalize(torch.tensor(np.stack(centroids)), dim=1)
    nearest = (F.normalize(torch.tensor(test["feats"]), dim=1) @ directions.T).argmax(1).numpy()
    assert accuracy(nearest, test["labels"]) == pytest.approx(selected["ncm"]["top1"], abs=1e-3)
    assert np.array_equal(
        test["preds"],
        load(folder / "ckpt.best.pth.tar")["state_dict"]["linear.bias"]
        .add(
            torch.tensor(test["feats"]) @ weights_of(folder, "ckpt.best.pth.tar")["linear.weight"].T
        )
        .argmax(1)
        .numpy(),
    )


def test_an_evaluation_with_records_elsewhere_writes_nothing_beside_the_checkpoint(
    tree, both, tmp_path
):
    (both / STAGE_1_NAME / ".lock").unlink()
    before = snapshot(both)
    succeed(stage_1(tree, both, "--evaluation", "True", "--root_log", tmp_path / "records"))
    assert snapshot(both) == before


def test_a_run_of_another_person_is_evaluated_into_a_folder_of_ones_own(tree, both, monkeypatch):
    before = snapshot(both)
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: both not in Path(path).parents)

    outcome = call(stage_1(tree, both, "--evaluation", "True"))

    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "is not a writable folder; --root_log FOLDER writes elsewhere" in outcome.errors[0]
    assert snapshot(both) == before


def test_outputs_name_every_image_and_the_classes(tree, both):
    succeed(stage_1(tree, both, "-e"))
    for split, count in (("train", sum(CLASS_COUNTS)), ("test", 40)):
        with np.load(both / STAGE_1_NAME / f"outputs_{split}.npz", allow_pickle=False) as outputs:
            files, labels = outputs["files"], outputs["labels"]
            assert len(set(files.tolist())) == len(labels) == count
            assert outputs["class_names"].tolist() == CLASSES


def test_the_geometry_is_that_of_the_outputs(skewed):
    """Some test classes have two images, so means over classes and over images differ."""
    said = succeed([*skewed, "--evaluation", "True"])
    folder = run_folder(parse_options(skewed)).records
    (found,) = json.loads((folder / "geometry.json").read_text()).values()
    by_class = {}
    for split in ("train", "test"):
        with np.load(folder / f"outputs_{split}.npz") as outputs:
            feats, labels = outputs["feats"], outputs["labels"]
            by_class[split] = [feats[labels == c] for c in range(3)]
    own = list(zip(by_class["test"], by_class["train"], strict=True))
    norms = [np.linalg.norm(test - train.mean(axis=0), axis=1).mean() for test, train in own]
    errors = [np.linalg.norm(test.mean(axis=0) - train.mean(axis=0)) for test, train in own]
    lengths = np.linalg.norm(np.concatenate(by_class["test"]), axis=1)
    assert found["length"] == pytest.approx(lengths.mean(), abs=1e-3)
    assert found["within"] == pytest.approx(np.mean(norms), abs=1e-3)
    assert found["centroid_error"]["few"] == pytest.approx(np.mean(errors), abs=1e-3)
    assert found["centroid_error"]["many"] is None
    assert f"test features: length {found['length']:.2f}" in said.out


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """Gives the flags of a trained stage 1 on own images. One class has 30 test images and the
    others have two each, so accuracies over images and over classes differ widely."""
    tmp_path = tmp_path_factory.mktemp("skewed")
    tree = write_folder(tmp_path / "skewed", counts=(6, 6, 6))
    for i in range(2, 30):
        save(tree / "test" / "ant" / f"{i:02}.png", noise(32, 32, 3, seed=i))
    flags = [
        *("--dataset", "folder", "--data_root", tree, "-a", "resnet8", "--epochs", 1, "-b", 8),
        *("--augment", "none", "--seed", 0, "--root_log", tmp_path, "--root_model", tmp_path),
    ]
    argv = [str(flag) for flag in flags]
    succeed(argv)
    return argv


def test_both_classifiers_of_an_unbalanced_test_set_mean_the_same_by_a_word(skewed):
    succeed([*skewed, "--evaluation", "True", "--readings", "linear,ncm_cosine"])
    folder = run_folder(parse_options(skewed)).records
    with np.load(folder / "outputs_test.npz") as outputs:
        labels, preds = outputs["labels"], outputs["preds"]
        assert outputs["files"][0].endswith("test/ant/00.png")
        assert outputs["class_names"].tolist() == ["ant", "bee", "cat"]
    readings = json.loads((folder / "readings.json").read_text())
    selected = read_summary(folder)["test"]["selected"]
    assert np.bincount(labels).tolist() == [30, 2, 2]
    assert readings["linear"]["top1"] == pytest.approx(accuracy(preds, labels), abs=1e-4)
    for reading, classifier in (("linear", "linear"), ("ncm_cosine", "ncm")):
        record = readings[reading]
        by_class = record["per_class"]
        assert record["balanced"] == pytest.approx(np.mean(by_class), abs=1e-3)
        share = (30 * by_class[0] + 2 * by_class[1] + 2 * by_class[2]) / 34
        assert record["top1"] == pytest.approx(share, abs=1e-3)
        for name in ("top1", "balanced", "macro_f1", "per_class", "precision"):
            assert selected[classifier][name] == record[name], (reading, name)
    assert any(r["top1"] != r["balanced"] for r in readings.values())


def test_a_set_with_other_classes_is_refused_and_overwrites_nothing(skewed, tmp_path):
    succeed([*skewed, "--evaluation", "True"])
    folder = run_folder(parse_options(skewed)).records
    before = snapshot(folder)
    tree = write_folder(tmp_path / "other", counts=(6, 6, 6))
    for split in ("train", "test"):
        (tree / split / "bee").rename(tree / split / "wasp")
    where = skewed.index("--data_root") + 1
    argv = [*skewed[:where], str(tree), *skewed[where + 1 :]]
    outcome = call([*argv, "--evaluation", "True"])
    assert outcome.status == 2 and len(outcome.err.splitlines()) == 1
    assert "wasp" in outcome.err and "bee" in outcome.err
    assert snapshot(folder) == before


def test_evaluation_saves_the_classifiers_that_it_fits(tree, both):
    outcome = succeed(stage_1(tree, both, "-e", "--readings", "lws,crt,ncm_centred"))
    folder = both / STAGE_1_NAME
    assert "lws and crt: fitted on the features of training images without augm" in outcome.out
    assert "NCM has no calibration error" in outcome.out
    (row,) = [row for row in outcome.out.splitlines() if row.startswith("ncm_centred")]
    assert row.split()[-1] == "n/a"
    chosen = load(folder / "ckpt.best.pth.tar")
    model = resnet8(10)
    model.load_state_dict(chosen["state_dict"])
    readings = json.loads((folder / "readings.json").read_text())
    with np.load(folder / "outputs_test.npz") as outputs:
        features, labels = torch.tensor(outputs["feats"]), outputs["labels"]
    for name in ("lws", "crt", "ncm_centred"):
        saved = load_classifier(folder / "classifiers.pth", name, model)
        preds = apply_classifier(saved, features).argmax(dim=1).numpy()
        assert accuracy(preds, labels) == pytest.approx(readings[name]["top1"], abs=1e-3)
    content = torch.load(folder / "classifiers.pth", weights_only=True)
    assert content["epoch"] == chosen["epoch"] and content["class_names"] == CLASSES
    # `--overwrite True` replaces the run with all that was made of it.
    (folder / "model.onnx").touch()
    argv = [str(flag) for flag in stage_1(tree, both)]
    found = run_folder(parse_options(argv)).own_files()
    assert {folder / "classifiers.pth", folder / "model.onnx"} <= set(found)


def test_a_fit_that_fails_loses_only_itself(tree, both, monkeypatch):
    """Accuracies of an earlier evaluation do not stay beside outputs that may be of others. No
    other run may have the folder while classifiers are fitted."""
    folder, argv = both / STAGE_1_NAME, stage_1(tree, both, "-e", "--readings", "linear")
    succeed(argv)
    written = [folder / name for name in ("outputs_train.npz", "outputs_test.npz", "geometry.json")]
    for path in written:
        path.unlink()

    def fails(*_):
        refused = pytest.raises(UserError, match="another run is at work")
        with refused, RunFolder(folder, folder).locked():
            pass
        raise MemoryError

    monkeypatch.setattr("utils.commands.evaluate.fit", fails)
    assert call(argv).status == 1
    assert all(path.exists() for path in written) and not list(folder.glob("readings.*"))


def test_predictions_and_outputs_are_computed_in_parts(tree, tmp_path, monkeypatch):
    """A part has at most seven images: 70 scores of ten classes."""
    sizes, classify = [], Network.classify

    def counted(network, features):
        sizes.append(len(features))
        return classify(network, features)

    monkeypatch.setattr("utils.evaluation.parts.VALUES_AT_ONCE", 70)
    monkeypatch.setattr(Network, "classify", counted)
    argv = stage_1(tree, tmp_path, "--epochs", 0)
    succeed(argv)
    succeed([*argv, "-e"])
    assert max(sizes) == 7
    (folder,) = (path.parent for path in tmp_path.glob("*/outputs_test.npz"))
    weights = weights_of(folder, "ckpt.best.pth.tar")
    with np.load(folder / "outputs_test.npz") as outputs:
        logits = torch.tensor(outputs["feats"]) @ weights["linear.weight"].T
        confs, preds = (logits + weights["linear.bias"]).softmax(dim=1).max(dim=1)
        assert np.array_equal(outputs["preds"], preds)
        np.testing.assert_allclose(outputs["confs"], confs, rtol=1e-5)
    with np.load(folder / "predictions.npz") as kept:
        assert np.array_equal(kept["preds"], preds) and np.array_equal(kept["last_preds"], preds)


def test_an_evaluation_without_readings_removes_those_of_an_earlier_one(tree, both):
    """They may be of other images; the classifiers are of the network. What a killed evaluation has
    left of a file is removed too."""
    folder, argv = both / STAGE_1_NAME, stage_1(tree, both, "-e")
    left = folder / ".outputs_train.npz.0123abcd.tmp"
    left.write_bytes(b"half")
    succeed([*argv, "--readings", "linear"])
    assert not left.exists()
    assert "removed" not in succeed([*argv, "--readings", "linear"]).out  # they are replaced
    said = "removed the accuracies of an earlier evaluation: readings.csv, readings.json"
    assert said in succeed(argv).out.splitlines()
    assert not list(folder.glob("readings.*")) and (folder / "classifiers.pth").exists()
    assert "removed" not in succeed(argv).out


def test_classifiers_are_fitted_on_training_images_and_tuned_on_held_out_ones(
    tree, both, monkeypatch
):
    banks = []

    def bank_of(*parts):
        banks.append(FeatureBank(*parts))
        return banks[-1]

    monkeypatch.setattr("utils.commands.evaluate.FeatureBank", bank_of)
    succeed(stage_1(tree, both, "-e", "--readings", "logit_adjustment,temperature_scaling"))
    [bank] = banks
    folder = both / STAGE_1_NAME
    arrays = {}
    for split in ("train", "test"):
        with np.load(folder / f"outputs_{split}.npz") as outputs:
            arrays[split] = torch.tensor(outputs["feats"]), torch.tensor(outputs["labels"])
    assert bank.class_counts == CLASS_COUNTS
    assert torch.equal(bank.features, arrays["train"][0])
    assert torch.equal(bank.labels, arrays["train"][1])
    # The subset's rest, at most 20 of each class; the test set has 4 of each.
    heldout = torch.bincount(bank.heldout[1], minlength=10).tolist()
    assert heldout == [min(20, 24 - count) for count in CLASS_COUNTS]
    assert len(bank.heldout[0]) == sum(heldout)

    weights = weights_of(folder, "ckpt.best.pth.tar")
    features, labels = arrays["test"]
    logits = features @ weights["linear.weight"].T + weights["linear.bias"]
    prior = torch.tensor(CLASS_COUNTS) / sum(CLASS_COUNTS)
    preds = (logits - prior.log()).argmax(dim=1)
    readings = json.loads((folder / "readings.json").read_text())
    expected = accuracy(preds.numpy(), labels.numpy())
    assert readings["logit_adjustment"]["top1"] == pytest.approx(expected, abs=1e-3)


def own_run(tmp_path, *flags):
    """Returns the flags of a trained stage 1 on own images, without held-out ones of their own."""
    tree = write_folder(tmp_path / "own", counts=(12, 10, 4))
    argv = ["--dataset", "folder", "--data_root", tree, "-a", "resnet8", "--epochs", 1, "-b", 16]
    argv += ["--augment", "none", "--seed", 0, "--root_log", tmp_path, "--root_model", tmp_path]
    succeed([*argv, *flags])
    return [*argv, "--evaluation", "True"]


@pytest.mark.parametrize(
    ("trained", "refused", "allowed"), [(0, (0.25, 0.5), ()), (0.25, (0.5,), (0.1, 0.25))]
)
def test_images_that_were_trained_on_are_not_held_out(trained, refused, allowed, tmp_path):
    argv = own_run(tmp_path, "--heldout_fraction", trained)
    before = snapshot(tmp_path)
    for fraction in refused:
        flags = ("--heldout_fraction", fraction, "--readings", "temperature_scaling")
        outcome = call([*argv, *flags])
        assert outcome.status == 2 and len(outcome.errors) == 1
        assert f"--heldout_fraction {fraction}: " in outcome.err
        assert f"was trained with --heldout_fraction {trained:g}" in outcome.err
        assert snapshot(tmp_path) == before
    for fraction in allowed:
        flags = ("--heldout_fraction", fraction, "--readings", "temperature_scaling")
        assert "temperature_scaling" in succeed([*argv, *flags]).out


def test_a_stage_2_does_not_hold_out_images_that_its_stage_1_was_trained_on(tmp_path):
    argv = own_run(tmp_path)[:-2]
    [start] = tmp_path.glob("*/ckpt.best.pth.tar")
    argv += ["--pretrained", start.parent, "--epochs", 2, "--balanced_clf_nepochs", 1]
    argv += ["--feat_loss", "ce", "--cls_loss", "ce"]
    before = snapshot(tmp_path)
    outcome = call([*argv, "--heldout_fraction", 0.25, "--select_on", "heldout"])
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "was trained on images that this holds out" in outcome.err
    assert snapshot(tmp_path) == before
    succeed(argv)


def test_classifiers_that_need_held_out_images_say_how_to_get_them(tmp_path):
    argv = own_run(tmp_path)
    before = snapshot(tmp_path)
    outcome = call([*argv, "--readings", "temperature_scaling,tau_norm_tuned"])
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "--readings temperature_scaling,tau_norm_tuned: " in outcome.err
    assert "a run that was trained with --heldout_fraction 0.1" in outcome.err
    assert snapshot(tmp_path) == before
    told = succeed([*argv, "--readings", "linear,temperature_scaling"]).out
    assert "temperature_scaling is left out: it needs held-out images: a val split beside" in told


def test_new_images_are_tested_beside_a_link_to_the_training_images(tmp_path):
    argv = own_run(tmp_path)
    new = tmp_path / "new"
    for name, count in (("ant", 3), ("cat", 1)):
        for i in range(count):
            save(new / "test" / name / f"{i}.png", noise(32, 32, 3, seed=i))
    (new / "train").symlink_to(tmp_path / "own" / "train")
    outcome = succeed([*argv, "--data_root", new])
    assert not outcome.warnings
    (outputs,) = tmp_path.glob("*/outputs_test.npz")
    with np.load(outputs) as arrays:
        assert arrays["labels"].tolist() == [0, 0, 0, 2]
        assert arrays["files"][3] == "test/cat/0.png"


def test_the_predictions_of_a_run_are_those_of_its_selected_epoch(tree, tmp_path, monkeypatch):
    """The first of two epochs is made the best."""
    original = selection.score

    def score(protocol, epoch, phase, results):
        return -epoch if protocol == "test" else original(protocol, epoch, phase, results)

    monkeypatch.setattr(selection, "score", score)
    argv = stage_1(tree, tmp_path)
    succeed(argv)
    succeed([*argv, "--evaluation", "True"])
    folder = tmp_path / STAGE_1_NAME
    chosen, last = (read_summary(folder)["test"][which] for which in ("selected", "last"))
    assert (chosen["epoch"], last["epoch"]) == (1, 2)
    assert chosen["linear"]["per_class"] != last["linear"]["per_class"]
    with np.load(folder / "predictions.npz") as kept, np.load(folder / "outputs_test.npz") as best:
        assert np.array_equal(kept["preds"], best["preds"])
        assert np.array_equal(kept["labels"], best["labels"])
        assert kept["heldout_labels"].shape == kept["heldout_preds"].shape
    succeed([*argv, "--evaluation", "True", "--select_on", "last"])
    with np.load(folder / "predictions.npz") as kept, np.load(folder / "outputs_test.npz") as end:
        assert np.array_equal(kept["last_preds"], end["preds"])
        assert not np.array_equal(kept["last_preds"], kept["preds"])
    summary = read_summary(folder)
    with np.load(folder / "predictions.npz") as kept:
        for which, name in (("selected", "heldout_preds"), ("last", "heldout_last_preds")):
            top1 = 100 * (kept[name] == kept["heldout_labels"]).mean()
            assert top1 == pytest.approx(summary["heldout"][which]["linear"]["top1"], abs=1e-3)


def test_evaluation_shows_the_size_of_every_group(tree, both):
    outcome = succeed(stage_1(tree, both, "-e"))
    assert "many (0)" in outcome.out
    assert "medium (2)" in outcome.out
    assert "few (8)" in outcome.out


def test_control_characters_of_a_checkpoint_are_escaped(tree, both):
    path = both / STAGE_1_NAME / "ckpt.best.pth.tar"
    torch.save(load(path) | {"selected_on": "a\x1b[2J\nb"}, path)
    out = succeed(stage_1(tree, both, "--evaluation", "True")).out
    assert "selected on a\\x1b[2J\\nb\n" in out and "\x1b" not in out


@pytest.mark.parametrize(
    "flags", [("--rand_number", 1), ("--imb_factor", 0.3)], ids=["other images", "other counts"]
)
def test_a_checkpoint_of_another_subset_warns(flags, tree, both):
    def warned(outcome) -> list[str]:
        return [warning for warning in outcome.warnings if "another subset" in warning]

    path = both / STAGE_1_NAME
    outcome = succeed(stage_2(tree, both, *flags, "--pretrained", path, *NOTHING))
    assert len(warned(outcome)) == 1
    other = path.with_name(STAGE_1_NAME.replace("0.2", "0.3"))
    shutil.copytree(path, other, ignore=shutil.ignore_patterns("robust_*"))
    outcome = succeed(stage_1(tree, both, *flags, "--evaluation", "True"))
    assert len(warned(outcome)) == 1
    assert not warned(succeed(stage_1(tree, both, "--evaluation", "True")))


@pytest.mark.parametrize(
    ("header", "epoch"), [({"epoch": 7}, 7), ({}, 0), ({"epoch": None}, 0), ({"epoch": "last"}, 0)]
)
def test_a_checkpoint_of_another_program_may_have_no_epoch(header, epoch):
    assert _epoch_of(header) == epoch
