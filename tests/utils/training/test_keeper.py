"""Which checkpoints are written after which epochs. A thread writes them, and none is lost."""

import errno
import os
import threading

import pytest
import torch

from tests.support.helpers import load
from utils.options.parse import parse_options
from utils.runs.run_folder import RunFolder
from utils.training.keeper import Keeper

SECONDS = 30
BEST, LAST = "ckpt.best.pth.tar", "ckpt.pth.tar"


def keeper_in(folder, *flags):
    return Keeper(RunFolder(folder, folder), parse_options(list(flags)))


@pytest.fixture
def keeper(tmp_path):
    made = keeper_in(tmp_path)
    yield made
    made.close()


def keep(keeper, epoch):
    """Writes the best and the last checkpoint of an epoch."""
    content = {"epoch": epoch, "state_dict": {"w": torch.full((3,), float(epoch))}}
    keeper.keep(content, ["test"], content, is_due=True)


def watch(monkeypatch, before=lambda: None):
    """Calls `before` before each file is replaced, and returns the list of the epochs and names."""
    replace, written = os.replace, []

    def watched(temporary, path):
        before()
        written.append((load(temporary)["epoch"], path.name))
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", watched)
    return written


def test_checkpoints_are_written_after_every_so_many_epochs_and_when_they_are_due(
    tmp_path, monkeypatch
):
    """The best checkpoint, of epoch 2, is written together with the next one."""
    written = watch(monkeypatch)
    keeper = keeper_in(tmp_path, "--checkpoint_every", "3")
    for epoch in range(1, 6):
        chosen_by = ["test"] if epoch == 2 else []
        keeper.keep({"epoch": epoch}, chosen_by, {"epoch": epoch}, is_due=epoch == 5)
    keeper.close()
    assert written == [(2, BEST), (3, LAST), (5, LAST)]


def test_keeping_does_not_wait_for_the_disk_and_waiting_does(keeper, tmp_path, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert may_go_on.wait(SECONDS)

    watch(monkeypatch, slow)
    keep(keeper, 1)
    assert begun.wait(SECONDS)
    assert not (tmp_path / BEST).exists()
    may_go_on.set()
    keeper.wait()
    assert load(tmp_path / LAST)["epoch"] == 1


def test_files_are_replaced_in_the_order_of_the_epochs(keeper, tmp_path, monkeypatch):
    written = watch(monkeypatch)
    for epoch in (1, 2, 3):
        keep(keeper, epoch)
    keeper.wait()
    assert written == [(epoch, name) for epoch in (1, 2, 3) for name in (BEST, LAST)]
    assert load(tmp_path / LAST)["epoch"] == 3


def test_the_best_features_stay_when_the_classifier_phase_replaces_the_best_checkpoint(
    keeper, tmp_path
):
    keep(keeper, 1)
    found, path = keeper.best_features()
    keep(keeper, 2)
    again, _ = keeper.best_features()
    assert (found["epoch"], again["epoch"], load(path)["epoch"]) == (1, 1, 1)
    assert load(tmp_path / BEST)["epoch"] == 2


@pytest.mark.parametrize("call", ["keep", "wait", "close"])
def test_an_error_of_the_disk_is_raised_by_the_next_call_and_once(tmp_path, call, monkeypatch):
    keeper = keeper_in(tmp_path)
    monkeypatch.setattr(RunFolder, "last_checkpoint", tmp_path / "missing" / LAST)
    keep(keeper, 1)
    with pytest.raises(OSError) as error:
        keep(keeper, 2) if call == "keep" else getattr(keeper, call)()
    assert error.value.errno == errno.ENOENT
    keeper.close()


def test_a_disk_that_the_second_file_fills_leaves_both_files_of_the_epoch_before(
    keeper, tmp_path, monkeypatch
):
    keep(keeper, 1)
    keeper.wait()
    fsync, calls = os.fsync, []

    def fill(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    keep(keeper, 2)
    with pytest.raises(OSError, match="No space left"):
        keeper.wait()
    assert [load(tmp_path / name)["epoch"] for name in (BEST, LAST)] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, LAST]


def test_closing_waits_for_the_last_file_and_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    keeper = keeper_in(tmp_path)
    keep(keeper, 1)
    keeper.close()
    assert load(tmp_path / LAST)["epoch"] == 1
    assert set(threading.enumerate()) <= before
    keeper.close()
