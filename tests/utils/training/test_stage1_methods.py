"""Whole runs of stage 1 with the methods beside its classification losses."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from losses import Objective
from tests.support.faults import interrupted_at_check
from tests.support.helpers import (
    STAGE_1_NAME,
    call,
    differences_of_runs,
    load,
    read_csv,
    read_records,
    stage_1,
    succeed,
)
from tests.support.stages import make_stage, small_data
from utils.commands import train
from utils.machine.device import Machine

pytestmark = pytest.mark.usefixtures("no_figures")

JOINT = (
    *("--robust_weight", 0.5, "--robust_from", 2, "--robust_distance", "normalised"),
    *("--temperature", 0.1, "--margin", 0.1, "--loss_type", "BS"),
)


BCL = ("--contrastive", "bcl", "--head", "cosine", "--loss_type", "BS")


def only_folder(root):
    """Returns the folder of the only run below `root`."""
    (arguments,) = root.glob("*/args.json")
    return arguments.parent


@pytest.mark.parametrize(
    "flags",
    [("--mixup", 0.4, "--accumulate", 2), JOINT, ("--teacher",), BCL],
    ids=["mixup", "joint", "teacher", "bcl"],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(flags, tree, finished, tmp_path):
    if flags == ("--teacher",):
        flags = ("--teacher", finished / STAGE_1_NAME, "--head", "cosine", "--loss_type", "BS")
    flags = (*flags, "--resume", "True")
    succeed(stage_1(tree, tmp_path / "whole", *flags))
    with interrupted_at_check(12):  # in the second epoch
        assert call(stage_1(tree, tmp_path / "parts", *flags)).status == 143
    assert len(read_csv(only_folder(tmp_path / "parts"))) == 1
    succeed(stage_1(tree, tmp_path / "parts", *flags))
    whole, parts = (only_folder(tmp_path / name) for name in ("whole", "parts"))
    assert not differences_of_runs(whole, parts)
    rows = read_csv(whole)
    if "--robust_from" in flags:
        # The robust loss joins in the second epoch, and its margins move from then on.
        assert [bool(row["train_robust_loss"]) for row in rows] == [False, True]
        assert float(rows[0]["margin_min"]) == pytest.approx(0.1)
        assert float(rows[1]["margin_max"]) < 0.1
        assert load(whole / "ckpt.best.pth.tar")["epsilons"].shape == (10,)
    if "--contrastive" in flags:
        assert all(float(row["train_contrast"]) > 0 for row in rows)
        projection = load(whole / "ckpt.pth.tar")["contrast"]
        assert projection["projection.0.weight"].shape == (512, 64)
        assert "contrast" not in load(whole / "ckpt.best.pth.tar")
    if "--teacher" in flags:
        assert all(float(row["train_distillation"]) > 0 for row in rows)
        header = load(whole / "ckpt.best.pth.tar")
        assert header["loss_type"] == "BS" and header["prior_weight"] == 1.0


class OwnLoss(nn.Module):
    """A loss with a parameter and with a buffer that each step changes."""

    def __init__(self, num_classes):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("mean", torch.zeros(num_classes))

    def forward(self, logits, targets):
        self.mean.lerp_(logits.detach().mean(dim=0), 0.1)
        return nn.functional.cross_entropy(logits + self.bias - self.mean, targets)


def with_own_loss(stage, is_in_optimizer=True, is_beside=True, last_epoch=None):
    loss, phase = OwnLoss(10), stage.phases[0]
    objective, later = Objective({"own": loss}), phase.objective(1)
    if is_in_optimizer:
        phase.optimizer.add_param_group({"params": list(loss.parameters())})
    is_there = range(1, 1 + (last_epoch or phase.epochs[-1]))
    phase = replace(phase, objective=lambda epoch: objective if epoch in is_there else later)
    return replace(stage, phases=[phase], beside={"own": loss} if is_beside else {})


def test_a_loss_with_parameters_goes_on_to_the_same_bits(tree, tmp_path, monkeypatch):
    make = train.stage_1
    monkeypatch.setattr(train, "stage_1", lambda run: with_own_loss(make(run)))
    succeed(stage_1(tree, tmp_path / "whole", "--resume", "True"))
    with interrupted_at_check(12):  # in the second epoch
        assert call(stage_1(tree, tmp_path / "parts", "--resume", "True")).status == 143
    succeed(stage_1(tree, tmp_path / "parts", "--resume", "True"))
    whole, parts = (only_folder(tmp_path / name) for name in ("whole", "parts"))
    assert not differences_of_runs(whole, parts)
    kept = load(whole / "ckpt.pth.tar")["own"]
    assert kept.keys() == {"bias", "mean"} and all(map(torch.any, kept.values()))


def test_parameters_of_a_loss_that_are_not_finite_are_never_kept(tree, tmp_path, monkeypatch):
    make = train.stage_1

    def diverging(run):
        stage = with_own_loss(make(run))
        bias = stage.beside["own"].bias.data
        phase = replace(stage.phases[0], after_update=lambda: bias.fill_(torch.inf))
        return replace(stage, phases=[phase])

    monkeypatch.setattr(train, "stage_1", diverging)
    outcome = call(stage_1(tree, tmp_path, "-b", 1000))  # one step an epoch
    assert outcome.status == 1 and "a weight is not finite after epoch 1" in outcome.err
    assert not [*tmp_path.rglob("ckpt*.pth.tar")]


@pytest.mark.parametrize("last_epoch", [None, 1])
@pytest.mark.parametrize(
    ("forgotten", "says"),
    [("is_in_optimizer", "no optimiser has the parameters"), ("is_beside", "into Stage.beside")],
)
def test_a_loss_whose_parameters_would_not_train_or_be_kept_is_refused(forgotten, says, last_epoch):
    _, stage = make_stage("", Machine(torch.device("cpu"), "float32"), small_data())
    with pytest.raises(AssertionError, match=says):
        with_own_loss(stage, last_epoch=last_epoch, **{forgotten: False})


def test_the_losses_of_a_phase_are_those_of_all_its_epochs():
    _, stage = make_stage("", Machine(torch.device("cpu"), "float32"), small_data())
    losses = {1: ["ce"], 2: ["ce", "own"], 3: ["ce"]}
    of_epoch = {
        epoch: Objective({n: OwnLoss(10) for n in names}) for epoch, names in losses.items()
    }
    phase = replace(stage.phases[0], epochs=range(1, 4), objective=of_epoch.get)
    assert phase.loss_names == ["ce", "own"]


def test_a_robust_loss_that_joins_late_leaves_the_epochs_before_it_to_the_same_bits(tree, tmp_path):
    """So a run without the robust loss can be continued with it."""
    late = ("--robust_weight", 0.5, "--robust_from", 0.5, "--margin_type", "shared")
    late = ("--loss_type", "BS", *late, "--margin", 0.1, "--resume", "True")
    succeed(stage_1(tree, tmp_path / "whole", *late))
    with interrupted_at_check(12):  # in the second epoch
        assert call(stage_1(tree, tmp_path / "plain", "--loss_type", "BS")).status == 143
    whole, plain = (only_folder(tmp_path / name) for name in ("whole", "plain"))
    parts = tmp_path / "parts" / whole.name
    shutil.copytree(plain, parts)
    shutil.copy(whole / "args.json", parts)
    margins = torch.full((10,), 0.1)
    for path in parts.glob("ckpt*.pth.tar"):
        torch.save(load(path) | {"epsilons": margins}, path)
    [record] = read_records(parts)
    (parts / "log.jsonl").write_text(json.dumps(record | {"margins": margins.tolist()}) + "\n")

    succeed(stage_1(tree, tmp_path / "parts", *late))
    assert not differences_of_runs(whole, parts)
    assert [bool(row["train_robust_loss"]) for row in read_csv(whole)] == [False, True]

    longer = call(stage_1(tree, tmp_path / "whole", *late, "--epochs", 4))
    assert longer.status == 2 and "--robust_from 0.5" in longer.err
