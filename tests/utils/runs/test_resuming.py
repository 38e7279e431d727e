"""Whether a run goes on in its folder. `tests/runs/test_resuming.py` has whole runs."""

import json

import pytest

from tests.support.named_runs import FLAGS, made, options_of
from utils.errors import UserError
from utils.runs.folders import run_folder
from utils.runs.resuming import prepare


def interrupted(*flags, done):
    """Makes the folder of a run that was killed after `done` epochs and has no last checkpoint."""
    folder = made(" ".join(flags))
    lines = [json.dumps({"epoch": epoch}) + "\n" for epoch in range(1, done + 1)]
    (folder / "log.jsonl").write_text("".join(lines))
    return folder


def prepared(*flags):
    options = options_of(*flags, "--resume True")
    return prepare(options, run_folder(options))


@pytest.mark.parametrize("epochs", [9, 12])
def test_a_run_whose_checkpoint_is_gone_is_not_begun_anew_at_any_length(
    epochs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    interrupted(FLAGS, "--epochs 9", done=3)
    with pytest.raises(UserError, match="has 3 finished epochs, but its checkpoint"):
        prepared(FLAGS, f"--epochs {epochs}")


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_without_checkpoint_every(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    interrupted(FLAGS, "--epochs 9 --checkpoint_every 5", done=4)
    assert prepared(FLAGS, "--epochs 9") == "continue"


@pytest.mark.parametrize("schedule", ["scaled", "cosine"])
def test_a_run_whose_rates_depend_on_its_length_keeps_it(schedule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = f"{FLAGS} --schedule {schedule}"
    (interrupted(flags, "--epochs 9", done=3) / "ckpt.pth.tar").touch()
    assert prepared(flags, "--epochs 9") == "continue"
    with pytest.raises(UserError, match=f"with --schedule {schedule} the 3 finished epochs"):
        prepared(flags, "--epochs 12")
