"""Whole runs on tiny data: their folders, files and records."""

import errno
import json
import re
from pathlib import Path

import pytest

from tests.support.faults import assert_failed, interrupted_at_check
from tests.support.helpers import (
    CLASS_COUNTS,
    HAS_TENSORBOARD,
    RELEASED_NAME,
    STAGE_1_NAME,
    call,
    differences_of_runs,
    load,
    read_csv,
    read_records,
    read_summary,
    stage_1,
    stage_2_folder,
    succeed,
    without,
)
from tests.test_project import PAPERS_COMMANDS
from utils.errors import RunError
from utils.options.data_paths import holds_outputs
from utils.options.parse import parse_options
from utils.runs.folders import run_folder
from utils.runs.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_figures")
RESULTS = {
    *("top1", "top5", "balanced", "macro_f1", "many", "medium", "few"),
    *("per_class", "precision", "recall"),
}


def test_finished_runs_among_photographs_are_told_from_classes(finished):
    """`holds_outputs` knows the names of the files that `run_folder` writes."""
    for folder in (finished, finished / STAGE_1_NAME, stage_2_folder(finished)):
        assert holds_outputs(folder)


def test_the_folders_of_the_papers_commands_have_the_released_names():
    first, second = PAPERS_COMMANDS
    stage_1_folder = "checkpoint/cifar100_resnet32_CE_None_exp_0.01_0"
    assert str(run_folder(parse_options(first.split())).models) == stage_1_folder
    assert str(run_folder(parse_options(second.split())).models) == (
        f"{stage_1_folder}/robust_nepochs=100_bs=128_temp=1.0_margin=1.0_type=learned"
        "_feat-ce_lt,robust_loss-resample,4-0.005_cls-ce-none-0.01"
    )


def test_a_root_that_is_not_writable_is_refused_and_stays_empty(tree, tmp_path, monkeypatch):
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != sealed)
    outcome = call(stage_1(tree, sealed / "root"))
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert f"cannot write into {sealed / 'root'}" in outcome.errors[0]
    assert f"{sealed} is not a writable folder" in outcome.errors[0]
    assert not list(sealed.iterdir())


def test_a_path_that_would_be_too_long_later_is_refused_at_the_start(tree, tmp_path, monkeypatch):
    touch = Path.touch

    def limited(path):
        if len(path.name) > len(".ckpt.best.pth.tar.00000000.tmp"):
            raise FileNotFoundError(2, "No such file or directory")
        touch(path)

    monkeypatch.setattr(Path, "touch", limited)
    outcome = call(stage_1(tree, tmp_path))
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "a path of" in outcome.errors[0] and "No such file" in outcome.errors[0]
    assert not [*tmp_path.iterdir()]


def full(path, *_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.parametrize("name", ["touch", "mkdir"])
def test_a_disk_that_is_full_at_the_start_is_no_bad_input(name, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, name, full)
    assert_failed(call(stage_1(tree, tmp_path)), "No space left on device", STAGE_1_NAME)
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_is_full_for_a_lock_is_no_bad_input(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunError, match="No space left"), RunFolder(tmp_path, tmp_path).locked():
        pass


def test_what_kills_left_of_files_is_deleted_in_both_folders(tmp_path):
    parts = [tmp_path / "models" / ".model.onnx.01.tmp", tmp_path / "records" / ".log.csv.01.tmp"]
    for part in parts:
        part.parent.mkdir()
        part.touch()
    RunFolder(*(part.parent for part in parts)).delete_parts()
    assert not any(part.exists() for part in parts)


def test_each_folder_holds_the_files_of_the_interface(finished):
    for folder in (finished / STAGE_1_NAME, stage_2_folder(finished)):
        names = {path.name for path in folder.iterdir()}
        assert {
            *("args.json", "log.csv", "ckpt.pth.tar", "ckpt.best.pth.tar"),
            *("summary.json", "report.png"),
        } <= names
        has_events = any(name.startswith("events.out.tfevents.") for name in names)
        assert has_events == HAS_TENSORBOARD
        assert not any(name.endswith(".tmp") for name in names)
    assert (finished / STAGE_1_NAME / "report.png").read_bytes().startswith(b"\x89PNG")


def test_records_and_checkpoints_go_below_their_own_roots(tree, tmp_path):
    models, records = tmp_path / "models", tmp_path / "records"
    succeed(stage_1(tree, models, "--root_log", records, "--epochs", 1))
    in_models = {path.name for path in (models / STAGE_1_NAME).iterdir()}
    in_records = {path.name for path in (records / STAGE_1_NAME).iterdir()}
    checkpoints = {"ckpt.pth.tar", "ckpt.best.pth.tar", "ckpt.best_heldout.pth.tar"}
    assert in_models == checkpoints | {".lock"}
    assert {"args.json", "log.csv", "summary.json", "report.png"} <= in_records
    assert in_models & in_records == {".lock"}
    outcome = call(stage_1(tree, models, "--root_log", tmp_path / "others", "--epochs", 1))
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert f"{models / STAGE_1_NAME} already holds a run" in outcome.errors[0]


@pytest.mark.parametrize("stage", [1, 2])
def test_the_summary_has_the_keys_and_types_of_the_interface(stage, finished):
    folder = finished / STAGE_1_NAME if stage == 1 else stage_2_folder(finished)
    summary = read_summary(folder)
    assert list(summary) == [
        *("dataset", "arch", "stage", "selected_on", "epochs", "seconds", "seed"),
        *("parameters", "images_seen", "class_counts", "test", "heldout"),
        *(["features"] if stage == 2 else []),
    ]
    expected = {"dataset": "cifar10", "arch": "resnet8", "stage": stage, "selected_on": "test"}
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
    if stage == 2:
        logged = read_records(folder)[1]["results"]["test"]
        assert summary["features"]["last"] == {"epoch": 2, **logged}
        assert summary["features"]["selected"]["epoch"] in (1, 2)
    assert summary["test"]["last"]["linear"]["many"] is None
    assert summary["heldout"]["images"] == sum(min(20, 24 - n) for n in CLASS_COUNTS)
    assert summary["heldout"]["classes"] == 9
    assert summary["heldout"]["last"]["linear"]["per_class"][0] is None


@pytest.mark.parametrize("name", ["ckpt.pth.tar", "ckpt.best.pth.tar"])
def test_a_checkpoint_has_the_released_keys_and_names_its_subset(name, finished):
    fingerprints = set()
    for folder in (finished / STAGE_1_NAME, stage_2_folder(finished)):
        checkpoint = load(folder / name)
        assert {"epoch", "arch", "state_dict", "best_acc1"} <= set(checkpoint)
        assert checkpoint["arch"] == "resnet8"
        assert type(checkpoint["epoch"]) is int
        assert type(checkpoint["best_acc1"]) is float
        assert 0 <= checkpoint["best_acc1"] <= 100
        assert checkpoint["class_counts"] == CLASS_COUNTS
        assert (checkpoint["heldout_fraction"], checkpoint["rand_number"]) == (0, 0)
        fingerprints.add(checkpoint["fingerprint"])
        assert "conv1.weight" in checkpoint["state_dict"]
        assert "layer3.0.bn2.running_var" in checkpoint["state_dict"]
        assert checkpoint["state_dict"]["linear.weight"].shape == (10, 64)
    (fingerprint,) = fingerprints
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)


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
    argv = without(stage_1(tree, tmp_path, "--epochs", 0), "--seed")
    seeds = []
    for name in ("a", "b"):
        succeed([*argv, "--exp_str", name])
        (folder,) = tmp_path.glob(f"{RELEASED_NAME[:-1]}{name}-*")
        recorded = json.loads((folder / "args.json").read_text())
        assert recorded["imb_factor"] == 0.2
        assert recorded["exp_str"] == name
        assert recorded["seed"] == read_summary(folder)["seed"]
        seeds.append(recorded["seed"])
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    assert seeds[0] != seeds[1]


def test_a_drawn_seed_is_taken_up_again_by_a_resume(tree, tmp_path):
    argv = without(stage_1(tree, tmp_path, "--resume", "True"), "--seed")
    with interrupted_at_check(9):
        assert call(argv).status == 143
    (folder,) = tmp_path.glob(f"{RELEASED_NAME}-*")
    seed = json.loads((folder / "args.json").read_text())["seed"]
    succeed(argv)
    assert read_summary(folder)["seed"] == seed
    succeed([*argv, "--seed", seed, "--exp_str", "again"])
    (again,) = tmp_path.glob(f"{RELEASED_NAME[:-1]}again-*")
    assert not differences_of_runs(folder, again)
