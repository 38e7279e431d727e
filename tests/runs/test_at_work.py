"""Runs that are started in the folder of a run that is at work, or has been since."""

import errno
import fcntl
import os
import shutil

import pytest

from datasets import load_data
from tests.support.faults import interrupted_at_check
from tests.support.helpers import (
    STAGE_1_NAME,
    call,
    differences_of_runs,
    snapshot,
    stage_1,
    succeed,
)

pytestmark = pytest.mark.usefixtures("no_figures")


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


@pytest.mark.parametrize("which", ["models", "records"])
def test_runs_do_not_share_checkpoints_or_records_at_work(which, tree, tmp_path):
    shared = tmp_path / which / STAGE_1_NAME
    shared.mkdir(parents=True)
    with open(shared / ".lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = call(stage_1(tree, tmp_path / "models", "--root_log", tmp_path / "records"))
    assert outcome.status == 2
    (line,) = outcome.errors
    assert f"another run is at work in {shared}" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [shared / ".lock"]
    assert which == "records" or not (tmp_path / "records").exists()


def test_one_folder_under_two_names_is_locked_once(tree, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    succeed(stage_1(tree, tmp_path, "--root_log", tmp_path / "link", "--epochs", 1))


@pytest.mark.parametrize("flags", [(), ("--resume", "True")])
def test_a_run_that_began_and_ended_while_another_loaded_its_data_is_kept(
    flags, tree, finished, tmp_path, monkeypatch
):
    def load_slowly(*arguments):
        data = load_data(*arguments)
        shutil.copytree(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME)
        return data

    monkeypatch.setattr("utils.commands.train.load_data", load_slowly)
    outcome = call(stage_1(tree, tmp_path, *flags))
    assert outcome.status == 2
    (line,) = outcome.errors
    assert "another run has begun" in line and str(tmp_path / STAGE_1_NAME) in line
    assert not differences_of_runs(tmp_path / STAGE_1_NAME, finished / STAGE_1_NAME)


def test_a_run_that_went_on_while_another_loaded_its_data_is_kept(
    tree, finished, tmp_path, monkeypatch
):
    with interrupted_at_check(12):
        assert call(stage_1(tree, tmp_path)).status == 143

    def load_slowly(*arguments):
        data = load_data(*arguments)
        shutil.copytree(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME, dirs_exist_ok=True)
        return data

    monkeypatch.setattr("utils.commands.train.load_data", load_slowly)
    outcome = call(stage_1(tree, tmp_path, "--resume", "True"))
    assert outcome.status == 2
    assert "another run has gone on" in outcome.errors[0] and len(outcome.errors) == 1
    assert not differences_of_runs(tmp_path / STAGE_1_NAME, finished / STAGE_1_NAME)


def test_a_file_system_without_locks_holds_nobody(tree, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    succeed(stage_1(tree, tmp_path, "--epochs", 1))


def test_the_lock_of_a_dead_process_holds_nobody(tree, finished, tmp_path):
    (tmp_path / STAGE_1_NAME).mkdir()
    (tmp_path / STAGE_1_NAME / ".lock").write_text("99999\n")
    succeed(stage_1(tree, tmp_path))
    assert not differences_of_runs(tmp_path / STAGE_1_NAME, finished / STAGE_1_NAME)
