"""Runs that fail lose nothing and say why."""

import errno

import pytest
import torch

from tests.support.faults import assert_failed, disk_full_for, disk_full_for_appending
from tests.support.helpers import (
    CLASS_COUNTS,
    HAS_TENSORBOARD,
    STAGE_1_NAME,
    call,
    differences,
    differences_of_runs,
    fill_disk_of_events,
    fork,
    load,
    read_csv,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from tests.support.own_images import write_npz
from utils.runs.epoch_log import EpochLog

pytestmark = pytest.mark.usefixtures("no_figures")


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


CPU_SHORTAGE = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 99999999999 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the docs"),
        RuntimeError(CPU_SHORTAGE),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=["CUDA", "CPU", "driver", "cuDNN", "Python", "system"],
)
def test_memory_that_runs_out_is_one_line_that_says_what_helps(error, tree, tmp_path, monkeypatch):
    from utils.training.trainer import Trainer

    def centroids(self, phase, epoch):
        raise error

    monkeypatch.setattr(Trainer, "_centroids", centroids)
    outcome = call(stage_1(tree, tmp_path))
    assert_failed(outcome, "out of memory in epoch 1 on cpu", "-b", "--accumulate", "no checkpoint")


@pytest.mark.parametrize("place", ["numpy.load", "datasets.splits.Split.from_arrays"])
@pytest.mark.parametrize("error", [MemoryError("1.14 GiB"), OSError(12, "Cannot allocate memory")])
def test_images_beyond_memory_are_no_bad_input(place, error, tmp_path, monkeypatch):
    def allocate(*_, **__):
        raise error

    write_npz(tmp_path / "own.npz")
    monkeypatch.setattr(place, allocate)
    roots = ("--root_log", tmp_path / "r", "--root_model", tmp_path / "r")
    outcome = call(["--dataset", "npz", "--data_root", tmp_path / "own.npz", *roots])
    assert_failed(outcome, f"--data_root {tmp_path}/own.npz: the images do not fit into memory")
    assert "--accumulate" not in outcome.err and not (tmp_path / "r").exists()


def test_memory_that_runs_out_while_a_run_is_taken_up_is_no_fault_of_its_checkpoint(
    tree, tmp_path, monkeypatch
):
    def shortage(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    argv = stage_1(tree, tmp_path, "--schedule", "absolute", "--epochs")
    succeed([*argv, 1])
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.sgd.Sgd.load_state_dict", shortage)
        outcome = call([*argv, 2, "--resume", "True"])
    assert_failed(outcome, "out of memory")
    succeed([*argv, 2, "--resume", "True"])


def test_another_error_of_torch_is_no_shortage_of_memory():
    from utils.errors import is_out_of_memory

    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(OSError("out of memory"))


@pytest.mark.parametrize("batch", [32, 200], ids=["several steps", "one step"])
def test_a_diverging_run_fails_and_keeps_no_checkpoint_that_is_not_finite(batch, tree, tmp_path):
    outcome = call(stage_1(tree, tmp_path, "--lr", 1e30, "-b", batch, "--epochs", 3))
    assert_failed(outcome, "not finite", "epoch", "CE")
    kept = [*tmp_path.rglob("ckpt*.pth.tar")]
    assert bool(kept) == (batch == 200)  # several steps diverge within the first epoch
    for path in kept:
        weights = weights_of(path.parent, path.name)
        assert all(torch.isfinite(weight).all() for weight in weights.values()), path.name
    assert not (tmp_path / STAGE_1_NAME / "summary.json").exists()


@pytest.mark.parametrize("epochs", [1, 2], ids=["the run", "an epoch"])
def test_a_diverging_last_update_fails_before_its_weights_are_kept(epochs, tree, tmp_path):
    # Its one step an epoch has a finite loss, and takes the weights beyond float32.
    far = ["--lr", 1e35, "--wd", 1e10]
    outcome = call(stage_1(tree, tmp_path, *far, "-b", 1000, "--epochs", epochs))
    assert_failed(outcome, "a weight is not finite after epoch 1 (pretraining)", "no checkpoint")
    folder = stage_1_folder(tmp_path)
    assert not [*folder.glob("ckpt*"), *folder.glob("summary.json")] and not read_csv(folder)


def test_a_rate_beyond_float32_is_refused(tree, tmp_path):
    outcome = call(stage_1(tree, tmp_path, "--lr", 1e300))
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "--lr/--learning-rate: '1e+300' is not a finite number >= 0" in outcome.errors[0]


def test_a_batch_larger_than_any_set_is_the_whole_set(tree, tmp_path):
    for name, batch in (("a", 10**20), ("b", sum(CLASS_COUNTS))):
        succeed(stage_1(tree, tmp_path / name, "--epochs", 1, "-b", batch))
    ours, expected = (weights_of(stage_1_folder(tmp_path / name)) for name in "ab")
    assert not differences(ours, expected)


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


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="no tensorboardX")
def test_a_full_disk_under_the_tensorboard_events_ends_the_run_and_loses_nothing(
    tree, finished, tmp_path
):
    argv = stage_1(tree, tmp_path / "root")
    process = fork(argv, tmp_path / "output", before=fill_disk_of_events)
    process.join(300)
    was_hanging = process.is_alive()
    process.kill()
    assert not was_hanging, "the run hangs for ever"
    written = (tmp_path / "output").read_text()
    assert process.exitcode == 1
    assert "Traceback" not in written
    assert "No space left on device" in written.splitlines()[-1]
    succeed([*argv, "--resume", "True"])
    folder = tmp_path / "root" / STAGE_1_NAME
    assert not differences_of_runs(folder, finished / STAGE_1_NAME)


@pytest.mark.parametrize("loss", ["it has gone", "it became read-only"])
def test_a_run_that_loses_its_folder_fails_and_says_what_is_left(loss, tree, tmp_path, monkeypatch):
    folder, add = tmp_path / STAGE_1_NAME, EpochLog.add

    def lose_folder(self, record):
        if record["epoch"] == 2 and loss == "it has gone":
            folder.rename(tmp_path / "elsewhere")
        elif record["epoch"] == 2:  # root may write everywhere
            raise PermissionError(errno.EACCES, "Permission denied", str(self.jsonl))
        add(self, record)

    monkeypatch.setattr(EpochLog, "add", lose_folder)
    outcome = call(stage_1(tree, tmp_path))
    if loss == "it has gone":
        assert_failed(outcome, f"cannot write {folder}", "No such file", "its folder has gone")
    else:
        assert_failed(outcome, f"cannot write {folder}", "Permission denied", "is intact")
        assert load(folder / "ckpt.pth.tar")["epoch"] == 1


def test_an_evaluation_on_a_full_disk_fails_clearly(tree, both):
    with disk_full_for("outputs_test.npz"):
        outcome = call(stage_1(tree, both, "--evaluation", "True"))
    assert_failed(outcome, "No space left on device", str(both / STAGE_1_NAME))
