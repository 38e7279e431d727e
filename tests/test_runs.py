"""Whole runs on tiny data: what they write, what they train, and that nothing is ever lost."""

import contextlib
import errno
import fcntl
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.helpers import (
    CLASS_COUNTS,
    REPOSITORY,
    STAGE_1_NAME,
    call,
    common,
    differences,
    differences_of_runs,
    fork,
    load,
    make_data,
    read_csv,
    read_records,
    read_summary,
    snapshot,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
)
from utils.command_line import parse_options
from utils.folders import run_folder

RESULTS = {"top1", "top5", "many", "medium", "few", "per_class"}
CLASSIFIER_ONLY = ("--epochs", 1, "--balanced_clf_nepochs", 1)
FEATURES_ONLY = ("--epochs", 1, "--balanced_clf_nepochs", 0)
NOTHING = ("--epochs", 0, "--balanced_clf_nepochs", 0)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tree, tmp_path_factory) -> Path:
    """A root with a finished stage 1 of two epochs and in it a finished stage 2 of three; for
    reading."""
    root = tmp_path_factory.mktemp("finished")
    succeed(stage_1(tree, root))
    succeed(stage_2(tree, root))
    return root


@pytest.fixture(scope="module")
def six_epochs(tree, tmp_path_factory) -> Path:
    """The folder of an uninterrupted stage 1 of six epochs."""
    root = tmp_path_factory.mktemp("six")
    succeed(stage_1(tree, root, "--epochs", 6))
    return root / STAGE_1_NAME


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    """Drawing takes as long as training here; the module's own fixtures do draw."""

    def savefig(self, file, **_: object) -> None:
        Image.new("RGB", (1, 1)).save(file, "png")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)


@pytest.fixture
def pretrained(finished, tmp_path) -> Path:
    """A root of the test's own with the finished stage 1 alone."""
    root = tmp_path / "root"
    ignored = shutil.ignore_patterns("robust_*", "report.png", "events.*")
    shutil.copytree(finished, root, ignore=ignored)
    return root


@pytest.fixture
def both(finished, tmp_path) -> Path:
    """A root of the test's own with both finished stages."""
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    return root


def features_of(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if not name.startswith("linear.")}


def head_of(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if name.startswith("linear.")}


def weights_of(folder: Path, name: str = "ckpt.pth.tar") -> dict:
    return load(folder / name)["state_dict"]


# What a run leaves.


def test_the_folders_of_the_papers_commands_have_the_released_names():
    shared = "--gpu 1 --dataset cifar100 --imb_type exp --imb_factor 0.01"
    first = f"{shared} --loss_type CE --train_rule None"
    second = (
        f"{shared} --resume True --epochs 100 --pretrained cifar100_resnet32_CE_None_exp_0.01_0 "
        "--feat_sampler resample,4 --feat_lr 0.005 --feat_loss ce_lt,robust_loss "
        "--cls_sampler none --cls_lr 0.01 --cls_loss ce --temperature 1 -b 128 --margin 1 "
        "--margin_type learned"
    )
    stage_1_folder = "checkpoint/cifar100_resnet32_CE_None_exp_0.01_0"
    assert str(run_folder(parse_options(first.split())).models) == stage_1_folder
    assert str(run_folder(parse_options(second.split())).models) == (
        f"{stage_1_folder}/robust_nepochs=100_bs=128_temp=1.0_margin=1.0_type=learned"
        "_feat-ce_lt,robust_loss-resample,4-0.005_cls-ce-none-0.01"
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--augment", "none"),
        ("--select_on", "last"),
        ("--robust_weight", "0.5"),
        ("--as_released", "True"),
        ("--precision", "bf16"),
    ],
    ids=lambda flags: flags[0],
)
def test_our_own_flags_away_from_their_default_give_a_stage_2_folder_of_its_own(flags):
    plain = stage_2("data", "root")[:-2]
    names = [str(run_folder(parse_options([*map(str, plain), *f])).models) for f in ((), flags)]
    assert names[1].startswith(names[0])
    assert flags[0].strip("-") in names[1].removeprefix(names[0])


def test_each_folder_holds_the_files_of_the_interface(finished):
    for folder in (finished / STAGE_1_NAME, stage_2_folder(finished)):
        names = {path.name for path in folder.iterdir()}
        assert {
            *("args.json", "log.csv", "ckpt.pth.tar", "ckpt.best.pth.tar"),
            *("summary.json", "report.png"),
        } <= names
        assert any(name.startswith("events.out.tfevents.") for name in names)
        assert not any(name.endswith(".tmp") for name in names)
    assert (finished / STAGE_1_NAME / "report.png").read_bytes().startswith(b"\x89PNG")


def test_records_and_checkpoints_go_below_their_own_roots(tree, tmp_path):
    models, records = tmp_path / "models", tmp_path / "records"
    succeed(stage_1(tree, models, "--root_log", records, "--epochs", 1))
    in_models = {path.name for path in (models / STAGE_1_NAME).iterdir()}
    in_records = {path.name for path in (records / STAGE_1_NAME).iterdir()}
    assert in_models == {"ckpt.pth.tar", "ckpt.best.pth.tar", "ckpt.best_heldout.pth.tar"}
    assert {"args.json", "log.csv", "summary.json", "report.png"} <= in_records
    assert not in_models & in_records


@pytest.mark.parametrize("stage", [1, 2])
def test_the_summary_has_the_keys_and_types_of_the_interface(stage, finished):
    folder = finished / STAGE_1_NAME if stage == 1 else stage_2_folder(finished)
    summary = read_summary(folder)
    assert list(summary) == [
        *("dataset", "arch", "stage", "selected_on", "epochs", "seconds", "seed"),
        *("class_counts", "test", "heldout"),
    ]
    expected = {"dataset": "cifar10", "arch": "resnet20", "stage": stage, "selected_on": "test"}
    expected |= {"epochs": 1 + stage, "seed": 3, "class_counts": CLASS_COUNTS}
    assert {key: summary[key] for key in expected} == expected
    assert isinstance(summary["seconds"], float)
    for split in ("test", "heldout"):
        for which in ("selected", "last"):
            result = summary[split][which]
            assert isinstance(result["epoch"], int)
            for reading in ("linear", "ncm"):
                assert set(result[reading]) >= RESULTS
                assert 0 <= result[reading]["top1"] <= result[reading]["top5"] <= 100
                assert len(result[reading]["per_class"]) == 10
    assert summary["test"]["last"]["epoch"] == 1 + stage
    assert summary["test"]["last"]["linear"]["many"] is None
    assert summary["heldout"]["images"] == sum(min(20, 24 - n) for n in CLASS_COUNTS)
    assert summary["heldout"]["classes"] == 9
    assert summary["heldout"]["last"]["linear"]["per_class"][0] is None


@pytest.mark.parametrize("name", ["ckpt.pth.tar", "ckpt.best.pth.tar"])
def test_a_checkpoint_has_the_released_keys_and_names_its_subset(name, finished):
    for folder, arch in ((finished / STAGE_1_NAME, "resnet20"), (stage_2_folder(finished),) * 2):
        checkpoint = load(folder / name)
        assert {"epoch", "arch", "state_dict", "best_acc1"} <= set(checkpoint)
        assert checkpoint["arch"] == "resnet20", arch
        assert type(checkpoint["epoch"]) is int
        assert type(checkpoint["best_acc1"]) is float
        assert 0 <= checkpoint["best_acc1"] <= 100
        assert checkpoint["class_counts"] == CLASS_COUNTS
        assert isinstance(checkpoint["fingerprint"], str)
        assert "conv1.weight" in checkpoint["state_dict"]
        assert "layer3.2.bn2.running_var" in checkpoint["state_dict"]
        assert checkpoint["state_dict"]["linear.weight"].shape == (10, 64)


def test_best_acc1_is_the_accuracy_of_the_best_epoch_in_percent(finished):
    summary = read_summary(finished / STAGE_1_NAME)
    best = load(finished / STAGE_1_NAME / "ckpt.best.pth.tar")
    assert best["best_acc1"] == summary["test"]["selected"]["linear"]["top1"]
    assert best["epoch"] == summary["test"]["selected"]["epoch"]


def test_the_log_has_one_row_an_epoch(finished):
    rows = read_csv(finished / STAGE_1_NAME)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    rows = read_csv(stage_2_folder(finished))
    assert [(row["epoch"], row["phase"]) for row in rows] == [
        *(("1", "features"), ("2", "features"), ("3", "classifier"))
    ]
    assert float(rows[0]["train_robust_loss"]) > 0
    assert rows[2]["train_robust_loss"] == ""


def test_the_arguments_are_recorded_with_a_drawn_seed(tree, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", 0)
    at = argv.index("--seed")
    del argv[at : at + 2]
    seeds = []
    for name in ("a", "b"):
        succeed([*argv, "--exp_str", name])
        folder = tmp_path / f"{STAGE_1_NAME[:-1]}{name}"
        recorded = json.loads((folder / "args.json").read_text())
        assert recorded["imb_factor"] == 0.2
        assert recorded["exp_str"] == name
        assert recorded["seed"] == read_summary(folder)["seed"]
        seeds.append(recorded["seed"])
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    assert seeds[0] != seeds[1]


def test_a_drawn_seed_is_taken_up_again_by_a_resume(tree, tmp_path):
    argv = stage_1(tree, tmp_path, "--resume", "True")
    at = argv.index("--seed")
    del argv[at : at + 2]
    with interrupted_at_check(9):
        assert call(argv).status == 143
    folder = tmp_path / STAGE_1_NAME
    seed = json.loads((folder / "args.json").read_text())["seed"]
    succeed(argv)
    assert read_summary(folder)["seed"] == seed
    succeed([*argv, "--seed", seed, "--exp_str", "again"])
    assert not differences_of_runs(folder, tmp_path / f"{STAGE_1_NAME[:-1]}again")


# Stage 1.


@pytest.mark.parametrize("loss_type", ["CE", "Focal", "LDAM"])
def test_stage_1_trains_every_loss_with_every_rule(loss_type, tree, tmp_path):
    def folder(rule: str, epochs: int) -> Path:
        flags = ("--loss_type", loss_type, "--train_rule", rule, "--epochs", epochs)
        succeed(stage_1(tree, tmp_path, *flags))
        return tmp_path / STAGE_1_NAME.replace("CE_None", f"{loss_type}_{rule}")

    plain, resampled, reweighted = folder("None", 3), folder("Resample", 1), folder("Reweight", 1)
    deferred = folder("DRW", 3)

    losses = {f: [row[f"train_{loss_type}"] for row in read_csv(f)] for f in tmp_path.iterdir()}
    assert all(math.isfinite(float(value)) for values in losses.values() for value in values)
    assert len({losses[plain][0], losses[resampled][0], losses[reweighted][0]}) == 3
    # Scaled to 3 epochs, DRW's weights come after round(160 * 3 / 200) = 2 of them.
    assert losses[deferred][:2] == losses[plain][:2]
    assert losses[deferred][2] != losses[plain][2]
    head = head_of(weights_of(plain))
    if loss_type == "LDAM":
        assert {name: list(w.shape) for name, w in head.items()} == {"linear.weight": [64, 10]}
    else:
        assert set(head) == {"linear.weight", "linear.bias"}


def test_the_absolute_schedule_warns_where_the_epochs_end_before_its_steps(tree, tmp_path):
    outcome = succeed(stage_1(tree, tmp_path, "--epochs", 1, "--schedule", "absolute"))
    (warning,) = outcome.warnings
    assert "--epochs 1" in warning
    assert "160" in warning
    assert "180" in warning
    assert [row["lr"] for row in read_csv(tmp_path / STAGE_1_NAME)] == ["0.02"]


def test_a_later_start_leaves_out_the_epochs_before_it(tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--start-epoch", 1))
    assert [row["epoch"] for row in read_csv(tmp_path / STAGE_1_NAME)] == ["2"]


def test_without_cuda_a_gpu_number_warns_and_runs_on_the_cpu(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = succeed(stage_1(tree, tmp_path, "--epochs", 0, "--gpu", 1))
    assert [w for w in outcome.warnings if "--gpu 1" in w and "CPU" in w]


# Stage 2.


def margins_expected(margin_type: str) -> list[float]:
    if margin_type == "sample_count":
        return [0.5 / math.sqrt(n) for n in CLASS_COUNTS]
    return [0.5] * 10


@pytest.mark.parametrize("margin_type", ["learned", "shared", "sample_count"])
def test_only_learned_margins_train(margin_type, tree, pretrained):
    flags = ("--margin_type", margin_type, "--margin", 0.5)
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2, "--balanced_clf_nepochs", 0))
    folder = stage_2_folder(pretrained)
    start = torch.tensor(margins_expected(margin_type))
    logged = [torch.tensor(record["margins"]) for record in read_records(folder)]
    saved = load(folder / "ckpt.pth.tar")["epsilons"]
    if margin_type == "learned":
        # The loss grows with every margin, so that training lowers them all.
        assert (logged[0] < start).all()
        assert (logged[1] < logged[0]).all()
    else:
        for margins in (*logged, saved):
            torch.testing.assert_close(margins, start, rtol=1e-6, atol=0)


def test_the_parts_of_the_loss_are_summed_without_weights(tree, pretrained):
    flags = ("--feat_loss", "ce_bal,robust_loss_bal", "--cls_loss", "ce_bal,ce_lt")
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2))
    features, classifier = read_csv(stage_2_folder(pretrained))
    for row, names in (
        (features, ("ce_bal", "robust_loss_bal")),
        (classifier, ("ce_bal", "ce_lt")),
    ):
        parts = [float(row[f"train_{name}"]) for name in names]
        assert float(row["train_loss"]) == pytest.approx(sum(parts), rel=1e-5)


def test_the_class_weights_of_the_robust_loss_matter(tree, pretrained):
    losses = set()
    for name in ("robust_loss", "robust_loss_lt", "robust_loss_bal"):
        succeed(stage_2(tree, pretrained, *FEATURES_ONLY, "--feat_loss", name))
        (folder,) = pretrained.glob(f"*/robust_*feat-{name}-*")
        losses.add(read_csv(folder)[0][f"train_{name}"])
    assert len(losses) == 3


def test_robust_weight_weighs_cross_entropy_against_the_robust_loss(tree, pretrained):
    succeed(stage_2(tree, pretrained, *FEATURES_ONLY, "--robust_weight", 0.25))
    row = read_csv(stage_2_folder(pretrained))[0]
    expected = 0.75 * float(row["train_ce_lt"]) + 0.25 * float(row["train_robust_loss"])
    assert float(row["train_loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_margin_starts_at_the_flag_and_at_one_as_released(tree, pretrained):
    flags = (*FEATURES_ONLY, "--margin", 0.5, "--margin_type", "shared")
    succeed(stage_2(tree, pretrained, *flags))
    succeed(stage_2(tree, pretrained, *flags, "--as_released", "True"))
    (released,) = pretrained.glob("*/robust_*as_released*")
    (ours,) = set(pretrained.glob("*/robust_*")) - {released}
    assert read_records(ours)[0]["margins"] == [0.5] * 10
    assert read_records(released)[0]["margins"] == [1.0] * 10
    assert "margin=0.5" in released.name


def test_released_margins_go_to_other_samples_than_ours(tree, pretrained):
    """With margins that differ from class to class."""
    losses = []
    for flag in ("False", "True"):
        flags = (*FEATURES_ONLY, "--margin_type", "sample_count", "--margin", 1)
        succeed(stage_2(tree, pretrained, *flags, "--as_released", flag))
    for folder in pretrained.glob("*/robust_*"):
        losses.append(read_csv(folder)[0]["train_robust_loss"])
    assert len(set(losses)) == 2


def test_no_classifier_sampler_means_the_samplers_of_the_features(tree, pretrained):
    found = {}
    for name in ("none", "resample,4", "resample,2", "instance"):
        succeed(stage_2(tree, pretrained, *CLASSIFIER_ONLY, "--cls_sampler", name))
        (folder,) = pretrained.glob(f"*/robust_*cls-ce-{name}-*")
        found[name] = weights_of(folder)["linear.weight"]
    assert torch.equal(found["none"], found["resample,4"])
    assert not torch.equal(found["none"], found["resample,2"])
    assert not torch.equal(found["none"], found["instance"])


def test_the_feature_sampler_none_is_plain_shuffling(tree, pretrained):
    found = {}
    for name in ("none", "instance", "resample,4"):
        succeed(stage_2(tree, pretrained, *FEATURES_ONLY, "--feat_sampler", name))
        (folder,) = pretrained.glob(f"*/robust_*robust_loss-{name}-*")
        found[name] = weights_of(folder)
    assert not differences(found["none"], found["instance"])
    assert differences(found["none"], found["resample,4"])


def test_the_feature_phase_leaves_the_classifier_as_it_was(tree, finished):
    before = weights_of(finished / STAGE_1_NAME, "ckpt.best.pth.tar")
    after = weights_of(stage_2_folder(finished), "ckpt.best_features.pth.tar")
    assert not differences(head_of(before), head_of(after))
    unchanged = [name for name, w in features_of(before).items() if torch.equal(w, after[name])]
    assert unchanged == []


def test_the_classifier_phase_leaves_features_and_batch_norm_as_they_were(tree, finished):
    before = load(stage_2_folder(finished) / "ckpt.best_features.pth.tar")
    after = load(stage_2_folder(finished) / "ckpt.pth.tar")
    assert not differences(features_of(before["state_dict"]), features_of(after["state_dict"]))
    assert torch.equal(before["epsilons"], after["epsilons"])
    for name, weight in head_of(before["state_dict"]).items():
        assert not torch.equal(weight, after["state_dict"][name])


def test_without_classifier_epochs_the_best_features_are_the_result(tree, pretrained):
    succeed(stage_2(tree, pretrained, "--epochs", 2, "--balanced_clf_nepochs", 0))
    folder = stage_2_folder(pretrained)
    assert [row["phase"] for row in read_csv(folder)] == ["features", "features"]
    before = weights_of(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    assert not differences(head_of(before), head_of(weights_of(folder)))


def test_classifier_epochs_alone_start_from_the_stage_1_checkpoint(tree, pretrained):
    flags = ("--epochs", 2, "--balanced_clf_nepochs", 2)
    succeed(stage_2(tree, pretrained, *flags))
    folder = stage_2_folder(pretrained)
    assert [row["phase"] for row in read_csv(folder)] == ["classifier", "classifier"]
    before = weights_of(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    assert not differences(features_of(before), features_of(weights_of(folder)))
    assert differences(head_of(before), head_of(weights_of(folder)))


def test_a_classifier_alone_needs_no_feature_loss(tree, pretrained):
    argv = [*common(tree, pretrained), "--pretrained", STAGE_1_NAME, *CLASSIFIER_ONLY]
    succeed([*argv, "--cls_loss", "ce"])
    assert [row["phase"] for row in read_csv(stage_2_folder(pretrained))] == ["classifier"]


def test_the_best_features_and_their_margins_are_loaded_before_the_classifier_phase(
    tree, pretrained
):
    # A rate at which the features get worse again.
    flags = ("--epochs", 5, "--feat_lr", 0.3, "--temperature", 0.2)
    succeed(stage_2(tree, pretrained, *flags))
    folder = stage_2_folder(pretrained)
    records = read_records(folder)[:4]
    accuracies = [record["results"]["test"]["ncm"]["top1"] for record in records]
    best = accuracies.index(max(accuracies)) + 1
    assert best < 4, "the best features are the last ones: this run shows nothing"
    kept, final = load(folder / "ckpt.best_features.pth.tar"), load(folder / "ckpt.pth.tar")
    assert kept["epoch"] == best
    assert kept["best_acc1"] == max(accuracies)
    assert not differences(features_of(kept["state_dict"]), features_of(final["state_dict"]))
    assert final["epsilons"].tolist() == records[best - 1]["margins"] != records[-1]["margins"]


def test_selection_by_the_last_epoch_loads_nothing_back(tree, pretrained):
    flags = ("--feat_lr", 0.3, "--temperature", 0.2, "--select_on", "last")
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2, "--balanced_clf_nepochs", 0))
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 3, "--balanced_clf_nepochs", 1))
    (features,) = pretrained.glob("*/robust_nepochs=2*")
    (whole,) = pretrained.glob("*/robust_nepochs=3*")
    assert not differences(features_of(weights_of(features)), features_of(weights_of(whole)))


def test_stage_2_from_ldam_keeps_its_cosine_head_and_scales_it_by_30(tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--loss_type", "LDAM", "--epochs", 1))
    name = STAGE_1_NAME.replace("CE", "LDAM")
    argv = stage_2(tree, tmp_path, "--pretrained", name, "--loss_type", "LDAM", *CLASSIFIER_ONLY)
    succeed(argv)
    succeed([*argv, "--evaluation", "True"])
    folder = stage_2_folder(tmp_path)
    weight = weights_of(folder, "ckpt.best.pth.tar")["linear.weight"]
    assert weight.shape == (64, 10)
    with np.load(folder / "outputs_test.npz") as outputs:
        features, labels = torch.from_numpy(outputs["feats"]), torch.from_numpy(outputs["labels"])
    logits = 30 * F.normalize(features, dim=1) @ F.normalize(weight, dim=0)
    recorded = read_records(folder)[0]["results"]["test"]["linear"]["loss"]
    assert recorded == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)


def test_a_checkpoint_in_the_released_form_starts_the_same_stage_2(tree, pretrained, tmp_path):
    succeed(stage_2(tree, pretrained, *CLASSIFIER_ONLY))
    original = load(pretrained / STAGE_1_NAME / "ckpt.best.pth.tar")
    for prefix in ("", "module."):
        weights = {prefix + name: weight for name, weight in original["state_dict"].items()}
        released = {"epoch": original["epoch"], "arch": "resnet20", "state_dict": weights}
        released["best_acc1"] = torch.tensor([original["best_acc1"]])
        root = tmp_path / f"released{prefix}"
        (root / STAGE_1_NAME).mkdir(parents=True)
        torch.save(released, root / STAGE_1_NAME / "ckpt.best.pth.tar")
        outcome = succeed(stage_2(tree, root, *CLASSIFIER_ONLY))
        assert outcome.warnings == []
        assert not differences_of_runs(stage_2_folder(root), stage_2_folder(pretrained))


@pytest.mark.parametrize(
    "given",
    [
        "{root}/{name}",
        "{root}/{name}/ckpt.best.pth.tar",
        "{root}/{name}/ckpt.pth.tar",
        "{root}/{name}/ckpt.best_heldout.pth.tar",
        "{name}",
        "{name}/ckpt.best.pth.tar",
        "local/{name}",
        "here_{name}",
        "there_{name}",
        ".",
        "..",
    ],
)
def test_the_stage_1_checkpoint_is_found_where_the_interface_says(
    given, tree, pretrained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = pretrained / STAGE_1_NAME
    name = STAGE_1_NAME
    if given.startswith("local"):
        shutil.copytree(source, tmp_path / "local" / STAGE_1_NAME)
    elif given.startswith("here"):
        name = f"here_{STAGE_1_NAME}"
        shutil.copytree(source, tmp_path / name)
    elif given.startswith("there"):
        name = f"there_{STAGE_1_NAME}"
        shutil.copytree(source, tmp_path / "pretrained" / name)
    elif given == ".":
        monkeypatch.chdir(source)
    elif given == "..":
        (source / "inner").mkdir()
        monkeypatch.chdir(source / "inner")
    text = given.format(root=pretrained, name=STAGE_1_NAME)

    succeed(stage_2(tree, pretrained, "--pretrained", text, *NOTHING))

    (summary,) = tmp_path.rglob("robust_*/summary.json")
    assert summary.parent.parent == pretrained / name


# Selection.


def score(split: str, record: dict, reading: str) -> float:
    """What selection compares: top-1 on test, the mean over the classes that have any on held-out
    images."""
    result = record["results"][split][reading]
    known = [accuracy for accuracy in result["per_class"] if accuracy is not None]
    return result["top1"] if split == "test" else sum(known) / len(known)


@pytest.mark.parametrize("protocol", ["test", "heldout", "last"])
def test_a_protocol_chooses_every_link_of_the_chain(protocol, tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--epochs", 3, "--select_on", protocol))
    flags = ("--select_on", protocol, "--epochs", 4, "--balanced_clf_nepochs", 2)
    outcome = succeed(stage_2(tree, tmp_path, *flags))
    assert outcome.warnings == []

    def chosen(records: list[dict], reading: str) -> dict:
        if protocol == "last":
            return records[-1]
        return max(records, key=lambda record: score(protocol, record, reading))

    links = []
    folders = (tmp_path / STAGE_1_NAME, stage_2_folder(tmp_path))
    for folder in folders:
        records = [r for r in read_records(folder) if r["phase"] != "features"]
        summary, best = read_summary(folder), chosen(records, "linear")
        assert summary["selected_on"] == protocol
        for split in ("test", "heldout"):
            selected, last = summary[split]["selected"], summary[split]["last"]
            assert selected["epoch"] == best["epoch"]
            assert selected["linear"] == best["results"][split]["linear"]
            assert selected["ncm"] == best["results"][split]["ncm"]
            assert last["epoch"] == records[-1]["epoch"]
            assert last["linear"] == records[-1]["results"][split]["linear"]
        kept = load(folder / "ckpt.best.pth.tar")
        assert kept["epoch"] == best["epoch"]
        assert kept["selected_on"] == protocol
        links.append(kept)
    if protocol != "last":
        features = [r for r in read_records(folders[1]) if r["phase"] == "features"]
        kept = load(folders[1] / "ckpt.best_features.pth.tar")
        assert kept["epoch"] == chosen(features, "ncm")["epoch"]
        # Its frozen classifier is that of the chosen stage-1 epoch.
        assert not differences(head_of(kept["state_dict"]), head_of(links[0]["state_dict"]))


@pytest.mark.parametrize("protocol", ["test", "heldout", "last"])
def test_a_stage_1_selected_on_test_starts_the_chain_of_any_protocol(
    protocol, tree, six_epochs, tmp_path
):
    folder = tmp_path / STAGE_1_NAME
    shutil.copytree(six_epochs, folder)
    records = read_records(folder)
    epoch = 6
    if protocol != "last":
        epoch = max(records, key=lambda record: score(protocol, record, "linear"))["epoch"]
    name = {"test": "ckpt.best.pth.tar", "heldout": "ckpt.best_heldout.pth.tar"}
    link = load(folder / name.get(protocol, "ckpt.pth.tar"))
    assert link["epoch"] == epoch

    outcome = succeed(stage_2(tree, tmp_path, "--select_on", protocol, *CLASSIFIER_ONLY))

    started = weights_of(stage_2_folder(tmp_path))
    assert not differences(features_of(started), features_of(link["state_dict"]))
    assert outcome.warnings == [], "every link is the protocol's own"


# Repetition, resuming, replacing.


def test_two_runs_of_one_seed_are_equal_to_the_last_bit(tree, finished, tmp_path):
    succeed(stage_1(tree, tmp_path))
    succeed(stage_2(tree, tmp_path))
    assert not differences_of_runs(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME)
    assert not differences_of_runs(stage_2_folder(finished), stage_2_folder(tmp_path))


def test_another_seed_gives_other_weights(tree, finished, tmp_path):
    succeed(stage_1(tree, tmp_path, "--seed", 4))
    assert differences(weights_of(finished / STAGE_1_NAME), weights_of(tmp_path / STAGE_1_NAME))


def test_resume_starts_a_run_that_is_not_there(tree, finished, tmp_path):
    succeed(stage_1(tree, tmp_path, "--resume", "True"))
    assert not differences_of_runs(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME)


@pytest.mark.parametrize("make", [stage_1, stage_2])
def test_resume_leaves_a_finished_run_as_it_is(make, tree, both):
    before = snapshot(both)
    outcome = succeed(make(tree, both, "--resume", "True"))
    assert "finished" in outcome.out
    assert snapshot(both) == before


@contextlib.contextmanager
def interrupted_at_check(number: int, signal_number: int = signal.SIGTERM):
    """Delivers the signal before the n-th time that training looks for one."""
    from utils import signals

    original, count = signals.check, 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal_number)
        original()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "check", check)
        yield lambda: count


@pytest.fixture(scope="module")
def checks(tree, finished, tmp_path_factory) -> dict[int, int]:
    """How often each stage looks for signals."""
    root = tmp_path_factory.mktemp("counted")
    counts = {}
    for stage, make in ((1, stage_1), (2, stage_2)):
        with interrupted_at_check(-1) as count:
            succeed(make(tree, root))
        counts[stage] = count()
    return counts


@pytest.mark.parametrize("at", [0.0, 0.3, 0.55, 0.85, 1.0])
@pytest.mark.parametrize("stage", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    stage, at, tree, finished, pretrained, tmp_path, checks
):
    root = tmp_path / "fresh" if stage == 1 else pretrained
    make = stage_1 if stage == 1 else stage_2
    with interrupted_at_check(1 + round(at * (checks[stage] - 1))):
        outcome = call(make(tree, root))
    assert outcome.status == 143
    folder = root / STAGE_1_NAME if stage == 1 else stage_2_folder(root)
    assert not (folder / "summary.json").exists()
    rows = read_csv(folder)
    if rows:
        assert load(folder / "ckpt.pth.tar")["epoch"] == len(rows)

    succeed(make(tree, root, "--resume", "True"))

    reference = finished / STAGE_1_NAME if stage == 1 else stage_2_folder(finished)
    assert not differences_of_runs(folder, reference)


@pytest.mark.parametrize("extra", [(), ("--checkpoint_every", 2)], ids=["every", "every second"])
def test_a_run_interrupted_again_and_again_goes_on_to_the_same_bits(extra, tree, tmp_path):
    succeed(stage_1(tree, tmp_path / "a", "--epochs", 4))
    argv = stage_1(tree, tmp_path / "b", "--epochs", 4, "--resume", "True", *extra)
    statuses = []
    for number in (5, 11, 17, 18, 19, 20, 1000):
        with interrupted_at_check(number):
            statuses.append(call(argv).status)
        if statuses[-1] == 0:
            break
    assert statuses[-1] == 0
    assert set(statuses[:-1]) == {143}
    assert len(statuses) >= 4
    assert not differences_of_runs(tmp_path / "a" / STAGE_1_NAME, tmp_path / "b" / STAGE_1_NAME)


@pytest.mark.parametrize("moment", ["before the reload", "after the reload"])
def test_a_run_interrupted_between_its_phases_goes_on_to_the_same_bits(
    moment, tree, finished, pretrained
):
    from utils.errors import Interrupted
    from utils.training import Trainer

    original = Trainer._enter

    def enter(self, phase):
        if moment == "after the reload":
            original(self, phase)
        raise Interrupted(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_enter", enter)
        assert call(stage_2(tree, pretrained)).status == 143
    succeed(stage_2(tree, pretrained, "--resume", "True"))
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(finished))


def test_overwriting_a_stage_1_replaces_it_alone(tree, both, tmp_path):
    folder, inner = both / STAGE_1_NAME, stage_2_folder(both)
    before = snapshot(inner)
    succeed(stage_1(tree, both, "--overwrite", "True", "--seed", 5))
    succeed(stage_1(tree, tmp_path / "fresh", "--seed", 5))
    assert snapshot(inner) == before
    assert not differences_of_runs(folder, tmp_path / "fresh" / STAGE_1_NAME)


def test_overwriting_a_stage_2_gives_what_a_fresh_run_gives(tree, both, pretrained_copy):
    succeed(stage_2(tree, both, "--overwrite", "True", "--seed", 5))
    succeed(stage_2(tree, pretrained_copy, "--seed", 5))
    assert not differences_of_runs(stage_2_folder(both), stage_2_folder(pretrained_copy))
    assert len(list(stage_2_folder(both).glob("events.*"))) == 1


@pytest.fixture
def pretrained_copy(finished, tmp_path) -> Path:
    root = tmp_path / "copy"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("robust_*"))
    return root


@pytest.mark.parametrize("stage", [1, 2])
def test_an_overwriting_run_that_is_interrupted_at_once_never_takes_up_the_replaced_one(
    stage, tree, both, pretrained_copy
):
    make = stage_1 if stage == 1 else stage_2
    with interrupted_at_check(2):
        assert call(make(tree, both, "--overwrite", "True", "--seed", 5)).status == 143
    succeed(make(tree, both, "--resume", "True", "--seed", 5))
    if stage == 1:
        fresh = pretrained_copy / "fresh"
        succeed(stage_1(tree, fresh, "--seed", 5))
        assert not differences_of_runs(both / STAGE_1_NAME, fresh / STAGE_1_NAME)
    else:
        succeed(stage_2(tree, pretrained_copy, "--seed", 5))
        assert not differences_of_runs(stage_2_folder(both), stage_2_folder(pretrained_copy))


def test_a_run_may_be_resumed_under_another_spelling_of_its_checkpoint(tree, pretrained):
    with interrupted_at_check(20):
        assert call(stage_2(tree, pretrained)).status == 143
    path = pretrained / STAGE_1_NAME
    succeed(stage_2(tree, pretrained, "--resume", "True", "--pretrained", path))


def test_a_second_run_in_one_folder_is_refused_while_the_first_is_at_work(tree, tmp_path):
    folder = tmp_path / STAGE_1_NAME
    folder.mkdir()
    with open(folder / ".lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = snapshot(tmp_path)
        outcome = call(stage_1(tree, tmp_path))
        assert outcome.status == 2
        (line,) = outcome.errors
        assert line.startswith("main.py: error: another run")
        assert str(folder) in line
        assert snapshot(tmp_path) == before


def test_the_lock_of_a_dead_process_holds_nobody(tree, finished, tmp_path):
    (tmp_path / STAGE_1_NAME).mkdir()
    (tmp_path / STAGE_1_NAME / ".lock").write_text("99999\n")
    succeed(stage_1(tree, tmp_path))
    assert not differences_of_runs(tmp_path / STAGE_1_NAME, finished / STAGE_1_NAME)


# Real processes, real signals.


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def epochs_in_log(folder: Path) -> int:
    path = folder / "log.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_sigterm_ends_a_real_process_with_143_and_resume_goes_on(tree, six_epochs, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", 6, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    command = [sys.executable, REPOSITORY / "main.py", *map(str, argv)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        wait_for(lambda: epochs_in_log(folder) >= 1)
        second = call(argv)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert second.status == 2
    assert "another run is at work" in second.err
    done = epochs_in_log(folder)
    assert 1 <= load(folder / "ckpt.pth.tar")["epoch"] == done < 6
    succeed(argv)
    assert not differences_of_runs(folder, six_epochs)


def test_sigint_ends_a_process_with_130_and_resume_goes_on(tree, six_epochs, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", 6, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    process = fork(argv, tmp_path / "output")
    wait_for(lambda: epochs_in_log(folder) >= 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert "Traceback" not in (tmp_path / "output").read_text()
    succeed(argv)
    assert not differences_of_runs(folder, six_epochs)


def kill_twice_and_finish(argv: list, folder: Path, seconds: float, seed: int) -> None:
    """Kills the run at two random instants, looks at its files, and finishes it."""
    instants = random.Random(seed)
    for _ in range(2):
        process = fork([*argv, "--resume", "True"])
        wait_for(lambda: (folder / "args.json").exists())
        time.sleep(instants.uniform(0, 0.4 * seconds))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        for path in folder.glob("ckpt*.pth.tar"):
            assert torch.isfinite(load(path)["state_dict"]["linear.weight"]).all()
    done = epochs_in_log(folder)
    kept = load(folder / "ckpt.pth.tar")["epoch"] if (folder / "ckpt.pth.tar").exists() else 0
    assert done - 1 <= kept <= done, "more than the unfinished epoch is lost"
    process = fork([*argv, "--resume", "True"])
    process.join(120)
    assert process.exitcode == 0


def test_a_stage_1_killed_at_random_instants_ends_with_the_same_bits(tree, six_epochs, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", 6)
    seconds = read_summary(six_epochs)["seconds"]
    kill_twice_and_finish(argv, tmp_path / STAGE_1_NAME, seconds, seed=1)
    assert not differences_of_runs(tmp_path / STAGE_1_NAME, six_epochs)


def test_a_stage_2_killed_at_random_instants_ends_with_the_same_bits(tree, finished, pretrained):
    argv = stage_2(tree, pretrained)
    name = stage_2_folder(finished).name
    seconds = read_summary(stage_2_folder(finished))["seconds"]
    kill_twice_and_finish(argv, pretrained / STAGE_1_NAME / name, seconds, seed=2)
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(finished))


# Failures of the run itself.


def assert_failed(outcome, *says: str) -> None:
    assert outcome.status == 1, outcome.err
    (line,) = outcome.errors
    assert line.startswith("main.py: error: ")
    for fragment in says:
        assert fragment in line
    assert "Traceback" not in outcome.out + outcome.err


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_parts(
    tree, finished, pretrained, monkeypatch
):
    from losses.dro import DROLoss

    original, calls = DROLoss.to_centroids, 0

    def to_centroids(self, features, targets, centroids):
        nonlocal calls
        calls += 1
        loss = original(self, features, targets, centroids)
        return loss * float("nan") if calls == 11 else loss

    with monkeypatch.context() as patch:
        patch.setattr(DROLoss, "to_centroids", to_centroids)
        outcome = call(stage_2(tree, pretrained))
    folder = stage_2_folder(pretrained)
    # Eight steps an epoch: 240 images in batches of 32.
    kept = folder / "ckpt.pth.tar"
    parts = ("ce_lt ", "robust_loss nan")
    assert_failed(outcome, "step 3 of epoch 2", "not finite", *parts, str(kept))
    assert load(kept)["epoch"] == 1
    assert [row["epoch"] for row in read_csv(folder)] == ["1"]
    succeed(stage_2(tree, pretrained, "--resume", "True"))
    assert not differences_of_runs(folder, stage_2_folder(finished))


@pytest.mark.parametrize("batch", [32, 200], ids=["several steps", "one step"])
def test_a_diverging_run_fails_and_keeps_no_checkpoint_that_is_not_finite(batch, tree, tmp_path):
    outcome = call(stage_1(tree, tmp_path, "--lr", 1e30, "-b", batch, "--epochs", 3))
    assert_failed(outcome, "not finite", "epoch", "CE")
    for path in tmp_path.rglob("ckpt*.pth.tar"):
        weights = weights_of(path.parent, path.name)
        assert all(torch.isfinite(weight).all() for weight in weights.values()), path.name
    assert not (tmp_path / STAGE_1_NAME / "summary.json").exists()


def test_a_rate_beyond_float32_ends_without_a_traceback(tree, tmp_path):
    outcome = call(stage_1(tree, tmp_path, "--lr", 1e300))
    assert outcome.status in (1, 2)
    assert len(outcome.errors) == 1


def test_a_batch_larger_than_any_set_is_the_whole_set(tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--epochs", 1, "-b", 10**20))


@contextlib.contextmanager
def disk_full_for(name: str, nth: int = 1):
    """The n-th time that a file of this name is to be made durable, the disk is full."""
    original, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.startswith(f".{name}."):
            count += 1
            if count == nth:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield lambda: count >= nth


class FullDisk:
    """A file on which half of what is written arrives before the disk is full."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def disk_full_for_appending(name: str, nth: int):
    """The n-th time that a line is appended to the file of this name, the disk is full."""
    count = 0

    def opening(path, mode="r", *arguments, **settings):
        nonlocal count
        file = open(path, mode, *arguments, **settings)  # noqa: SIM115
        if mode == "a" and Path(path).name == name:
            count += 1
            if count == nth:
                return FullDisk(file)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.runlog.open", opening, raising=False)
        yield lambda: count >= nth


FULL = [
    *[(disk_full_for, name, 1) for name in ("args.json", "log.jsonl")],
    *[(disk_full_for, "ckpt.pth.tar", nth) for nth in (1, 2)],
    *[(disk_full_for, name, 1) for name in ("ckpt.best.pth.tar", "ckpt.best_features.pth.tar")],
    *[(disk_full_for, name, 1) for name in ("predictions.npz", "report.png", "summary.json")],
    *[(disk_full_for_appending, name, 2) for name in ("log.jsonl", "log.csv")],
]


@pytest.mark.parametrize(
    ("fill", "name", "nth"),
    FULL,
    ids=[f"{name} {'line' if f is disk_full_for_appending else ''}{n}" for f, name, n in FULL],
)
def test_a_full_disk_is_a_clear_failure_that_loses_nothing(
    fill, name, nth, tree, finished, pretrained, tmp_path
):
    if "features" in name:
        argv, reference = stage_2(tree, pretrained), stage_2_folder(finished)
        folder = pretrained / STAGE_1_NAME / reference.name
    else:
        argv, reference = stage_1(tree, tmp_path / "fresh"), finished / STAGE_1_NAME
        folder = tmp_path / "fresh" / STAGE_1_NAME
    with fill(name, nth) as happened:
        outcome = call(argv)
    assert happened(), "the run never wrote this file"
    assert not (folder / "summary.json").exists()
    assert not list(folder.glob(".*.tmp"))
    for path in folder.glob("ckpt*.pth.tar"):
        load(path)
    if (name, nth) == ("ckpt.pth.tar", 2):
        assert load(folder / "ckpt.pth.tar")["epoch"] == 1

    succeed([*argv, "--resume", "True"])

    assert not differences_of_runs(folder, reference)
    assert_failed(outcome, "No space left on device", str(folder))


# Evaluation.


def accuracy(preds: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((preds == labels).mean())


@pytest.mark.parametrize("stage", [1, 2])
def test_evaluation_writes_outputs_that_give_the_accuracies_of_the_summary(stage, tree, both):
    make, folder = (stage_1, both / STAGE_1_NAME) if stage == 1 else (stage_2, stage_2_folder(both))
    before = snapshot(both)

    outcome = succeed(make(tree, both, "--evaluation", "True"))

    written = {f"{folder.relative_to(both)}/outputs_{split}.npz" for split in ("train", "test")}
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
    (linear,) = [row for row in outcome.out.splitlines() if row.startswith("test, linear")]
    (ncm,) = [row for row in outcome.out.splitlines() if row.startswith("test, NCM")]
    for row, reading in ((linear, "linear"), (ncm, "ncm")):
        shown = row.split(",")[1].split()[1:]
        names = ("top1", "top5", "many", "medium", "few")
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


def test_evaluation_shows_the_size_of_every_group(tree, both):
    outcome = succeed(stage_1(tree, both, "-e"))
    assert "many (0)" in outcome.out
    assert "medium (2)" in outcome.out
    assert "few (8)" in outcome.out


def test_an_evaluation_on_a_full_disk_fails_clearly(tree, both):
    with disk_full_for("outputs_test.npz"):
        outcome = call(stage_1(tree, both, "--evaluation", "True"))
    assert_failed(outcome, "No space left on device", str(both / STAGE_1_NAME))


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
