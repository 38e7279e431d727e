"""A stage 2 that starts from an unfinished run warns."""

from pathlib import Path

import pytest
import torch

from models import build_model
from tests.support.made_up_runs import write_run
from tests.support.stages import CLASSES, STAGE_2, small_data
from utils.machine.device import Machine
from utils.options.parse import parse_options
from utils.runs.folders import run_folder
from utils.training.setup import Run
from utils.training.stage2 import stage_2


@pytest.fixture
def warnings_of(capsys):
    """Gives `warnings_of(checkpoint, *flags)`, which starts a stage 2 there and returns its
    warnings."""

    def start(path: Path, *flags: object) -> list[str]:
        argv = ["--dataset", "digits", "-a", "resnet8", *STAGE_2.split(), *map(str, flags)]
        options = parse_options([*argv, "-b", "16"])
        machine = Machine(torch.device("cpu"), "float32")
        generator = torch.Generator().manual_seed(0)
        run = Run(options, run_folder(options), machine, small_data(), generator)
        weights = build_model("resnet8", CLASSES).state_dict()
        stage_2(run, {"state_dict": weights, "arch": "resnet8"}, path)
        return capsys.readouterr().err.splitlines()

    return start


@pytest.mark.parametrize("stage", [1, 2])
def test_an_unfinished_run_is_told_with_its_epochs(stage, tmp_path, warnings_of):
    run = write_run(tmp_path / "run", stage=stage, epochs=2, finished=False)
    path = run / "ckpt.best.pth.tar"
    (warning,) = warnings_of(path)
    assert warning == (
        f"main.py: warning: {path} is from a run that is not finished: 2 of 4 epochs are done"
    )


@pytest.mark.parametrize("place", ["logs", "models"])
def test_its_records_lie_below_root_log_or_beside_its_checkpoints(place, tmp_path, warnings_of):
    write_run(tmp_path / place / "run", epochs=1, finished=False)
    path = tmp_path / "models" / "run" / "ckpt.best.pth.tar"
    roots = ("--root_log", tmp_path / "logs", "--root_model", tmp_path / "models")
    (warning,) = warnings_of(path, *roots)
    assert "1 of 4 epochs" in warning


def test_a_finished_stage_1_is_not_warned_of(tmp_path, warnings_of):
    assert not warnings_of(write_run(tmp_path / "run") / "ckpt.best.pth.tar")


def test_a_checkpoint_without_records_is_not_warned_of(tmp_path, warnings_of):
    assert not warnings_of(tmp_path / "ckpt.best.pth.tar")
    unfinished = write_run(tmp_path / "run", epochs=2, finished=False)
    assert not warnings_of(unfinished / "weights_of_another.pth.tar")
