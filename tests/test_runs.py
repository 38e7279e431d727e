"""Whole runs on tiny data: what they write, and what they train."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.faults import interrupted_at_check
from tests.helpers import (
    CLASS_COUNTS,
    CLASSIFIER_ONLY,
    FEATURES_ONLY,
    NOTHING,
    STAGE_1_NAME,
    call,
    common,
    differences,
    differences_of_runs,
    features_of,
    head_of,
    load,
    read_csv,
    read_records,
    read_summary,
    snapshot,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from utils.command_line import parse_options
from utils.folders import run_folder

pytestmark = pytest.mark.usefixtures("no_figures")
RESULTS = {"top1", "top5", "many", "medium", "few", "per_class"}


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
    flags = ("--epochs", 5, "--feat_lr", 1.0, "--temperature", 0.2)
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
