"""Whole runs of stage 1 on tiny data."""

import math
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support.helpers import (
    RELEASED_NAME,
    head_of,
    read_csv,
    stage_1,
    stage_1_folder,
    succeed,
    weights_of,
)
from utils.progress import Progress

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.mark.parametrize("loss_type", ["CE", "Focal", "LDAM", "BS"])
def test_stage_1_trains_every_loss_with_every_rule(loss_type, tree, tmp_path):
    def folder(rule: str, epochs: int) -> Path:
        flags = ("--loss_type", loss_type, "--train_rule", rule, "--epochs", epochs)
        succeed(stage_1(tree, tmp_path, *flags))
        name = RELEASED_NAME.replace("CE_None", f"{loss_type}_{rule}")
        (made,) = tmp_path.glob(f"{name}-*")
        return made

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
    assert [row["lr"] for row in read_csv(stage_1_folder(tmp_path))] == ["0.02"]


def test_balanced_softmax_warns_beside_another_remedy(tree, tmp_path):
    argv = stage_1(tree, tmp_path, "--loss_type", "BS", "--epochs", 0)
    assert succeed(argv).warnings == []
    (warning,) = succeed([*argv, "--train_rule", "Resample"]).warnings
    assert "--train_rule Resample" in warning and "--loss_type BS" in warning


def test_the_bar_moves_every_so_many_batches_as_the_flag_says(tree, tmp_path):
    with patch("utils.training.trainer.Progress", wraps=Progress) as bar:
        succeed(stage_1(tree, tmp_path, "--epochs", 1, "--print-freq", 3))
    assert bar.call_args.args == ("pretraining 1/1", 4, 3)  # 117 images in batches of 32


def test_a_later_start_leaves_out_the_epochs_before_it(tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--start-epoch", 1))
    assert [row["epoch"] for row in read_csv(stage_1_folder(tmp_path))] == ["2"]
