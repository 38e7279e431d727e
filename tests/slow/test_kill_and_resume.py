"""Training that is killed at random instants (SIGKILL) and resumed ends with the bits of a run that
nothing disturbed.

    KILLS=25 python -m pytest tests/slow/test_kill_and_resume.py

A kill hits anywhere: in a step, between phases, in the middle of a write. After each, every file of
the folder can be read, and no finished epoch is lost.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.helpers import (
    STAGE_1_NAME,
    differences_of_runs,
    fork,
    load,
    read_summary,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
)

KILLS = int(os.environ.get("KILLS", "8"))  # of each stage
EPOCHS = 24


@pytest.fixture(scope="module")
def calm(tree, tmp_path_factory) -> Path:
    """Gives a root with both stages, which nothing has interrupted."""
    root = tmp_path_factory.mktemp("calm")
    succeed(stage_1(tree, root, "--epochs", EPOCHS))
    succeed(stage_2(tree, root, *STAGE_2_LENGTH))
    return root


STAGE_2_LENGTH = ("--epochs", EPOCHS, "--balanced_clf_nepochs", EPOCHS // 2)


def finished_epochs(folder: Path) -> int:
    """Returns the epochs in the last checkpoint; all checkpoints must be readable."""
    for path in folder.glob("ckpt*.pth.tar"):
        load(path)
    last = folder / "ckpt.pth.tar"
    return load(last)["epoch"] if last.exists() else 0


def kill(argv: list, folder: Path, seconds: float) -> bool:
    """Starts or resumes the run and kills it some seconds after its start. Returns True if it was
    still running then."""
    before = finished_epochs(folder)
    process = fork([*argv, "--resume", "True"])
    while not (folder / "args.json").exists() and process.is_alive():
        time.sleep(0.01)
    process.join(seconds)
    was_running = process.is_alive()
    if was_running:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert was_running or process.exitcode == 0
    assert finished_epochs(folder) >= before, "a finished epoch is lost"
    return was_running


def disturb(argv: list, folder: Path, reference: Path, instants: random.Random) -> None:
    """Kills runs as often as asked, finishes each, and compares it."""
    seconds = read_summary(reference)["seconds"]
    kills = 0
    while kills < KILLS:
        shutil.rmtree(folder, ignore_errors=True)
        while kills < KILLS and kill(argv, folder, instants.uniform(0, 0.5 * seconds)):
            kills += 1
        succeed([*argv, "--resume", "True"])
        assert not differences_of_runs(folder, reference)


def test_stage_1(tree, calm, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", EPOCHS)
    disturb(argv, tmp_path / STAGE_1_NAME, calm / STAGE_1_NAME, random.Random(0))


def test_stage_2(tree, calm, tmp_path):
    ignored = shutil.ignore_patterns("robust_*")
    shutil.copytree(calm / STAGE_1_NAME, tmp_path / STAGE_1_NAME, ignore=ignored)
    reference = stage_2_folder(calm)
    folder = tmp_path / reference.relative_to(calm)
    disturb(stage_2(tree, tmp_path, *STAGE_2_LENGTH), folder, reference, random.Random(1))
