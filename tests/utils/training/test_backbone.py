"""Whole runs that start from public weights."""

import pytest
import torch
from torch import nn

from models import resnet8
from tests.support.faults import disk_full_for
from tests.support.helpers import (
    FEATURES_ONLY,
    RELEASED_NAME,
    STAGE_1_NAME,
    call,
    differences,
    features_of,
    load,
    read_csv,
    snapshot,
    stage_1,
    stage_2,
    succeed,
    weights_of,
    without,
)
from tests.support.pictures import options
from utils.options.parse import parse_stages
from utils.training.phase import RATE_FACTOR, Phase

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Gives weights of a ResNet-8 with the names that DataParallel gives them."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("public") / "resnet8.pth"
    torch.save(nn.DataParallel(resnet8(1000)).state_dict(), path)
    return path


def parameters(weights):
    """Returns the parameters of the features, without batch-norm's statistics."""
    ignored = ("running_mean", "running_var", "num_batches_tracked")
    return {n: w for n, w in features_of(weights).items() if not n.endswith(ignored)}


def run_folder(root):
    [folder] = root.glob(f"{RELEASED_NAME}*")
    return folder


def test_stage_1_starts_from_the_backbone(public, tree, tmp_path):
    flags = ("--epochs", 1, "--backbone", public, "--backbone_lr", 0)
    outcome = succeed(stage_1(tree, tmp_path, *flags))
    assert f"--backbone {public}: took" in outcome.out
    assert "left 2 (module.linear.weight, module.linear.bias)" in outcome.out
    ours = weights_of(run_folder(tmp_path))
    theirs = {n.removeprefix("module."): w for n, w in load(public).items()}
    # At the rate 0 the features stay the file's, while the head is trained and the statistics of
    # batch-norm follow the images.
    expected = parameters(theirs)
    assert all(torch.equal(w, expected[name]) for name, w in parameters(ours).items())
    assert not torch.equal(ours["bn1.running_mean"], theirs["bn1.running_mean"])
    assert ours["linear.weight"].shape == (10, 64)


def test_a_run_goes_on_without_the_file(public, tree, tmp_path):
    """A resumed run has its weights in the checkpoint."""
    path = tmp_path / "weights.pth"
    path.write_bytes(public.read_bytes())
    flags = ("--backbone", path, "--backbone_lr", 0.5)
    succeed(stage_1(tree, tmp_path / "a", *flags))
    argv = stage_1(tree, tmp_path / "b", *flags)
    with disk_full_for("ckpt.pth.tar", nth=2) as is_reached:
        assert call(argv).status == 1 and is_reached()
    path.unlink()
    outcome = succeed([*argv, "--resume", "True"])
    assert "took" not in outcome.out
    whole, resumed = (weights_of(run_folder(tmp_path / name)) for name in "ab")
    assert not differences(whole, resumed)


def test_stage_2_starts_from_the_backbone_with_the_checkpoints_head(
    public, tree, pretrained, tmp_path
):
    flags = (*FEATURES_ONLY, "--backbone", public, "--backbone_lr", 0)
    succeed(stage_2(tree, pretrained, *flags))
    [folder] = pretrained.glob("*/robust_*")
    theirs = {n.removeprefix("module."): w for n, w in load(public).items()}
    ours, start = weights_of(folder), weights_of(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    expected = parameters(theirs)
    assert all(torch.equal(w, expected[name]) for name, w in parameters(ours).items())
    assert torch.equal(ours["linear.weight"], start["linear.weight"])
    # The margins train at the phase's rate.
    assert float(read_csv(folder)[-1]["margin_max"]) != 1


def test_by_one_command_only_stage_1_starts_from_the_backbone(tree, tmp_path):
    flags = ("--backbone", "weights.pth", "--backbone_lr", 0.1, "--pretrain_epochs", 2)
    argv = without(stage_2(tree, tmp_path), "--pretrained")
    first, second = parse_stages([str(flag) for flag in (*argv, *flags)])
    assert (first.backbone, second.backbone) == ("weights.pth", None)
    assert first.backbone_lr == second.backbone_lr == 0.1


def test_a_backbone_that_does_not_fit_leaves_nothing_behind(tree, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.ones(16, 3, 3, 3)}, path)
    before = snapshot(tmp_path)
    outcome = call(stage_1(tree, tmp_path / "root", "--backbone", path))
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "tensors are missing (bn1.weight" in outcome.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "nothing: no such file"),
        ("run", "run is a folder; give a file, such as run/ckpt.best.pth.tar"),
    ],
)
def test_a_backbone_that_is_no_file_is_refused_before_the_data_are_read(
    name, says, tree, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()

    def load_data(*_):
        raise AssertionError("the data are read")

    monkeypatch.setattr("utils.commands.train.load_data", load_data)
    outcome = call(stage_1(tree, tmp_path / "root", "--backbone", name))
    assert (outcome.status, outcome.err) == (2, f"main.py: error: --backbone {says}\n")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("-a", "resnet18", "--backbone", "x.pth"), "imagenet"),
        (("-a", "resnet18", "--backbone", "x.pth", "--normalisation", "cifar"), "cifar"),
        (("-a", "resnet8", "--backbone", "x.pth"), "auto"),
        (("-a", "resnet18"), "auto"),
    ],
)
def test_imagenets_normalisation_goes_with_the_weights_of_its_networks(flags, expected):
    assert options("--dataset", "folder", *flags).normalisation == expected


def test_a_group_has_its_own_part_of_the_rate(device):
    first, second = (nn.Parameter(torch.zeros(2, device=device)) for _ in range(2))
    groups = [{"params": [first], RATE_FACTOR: 0.25}, {"params": [second]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    phase = Phase("pretraining", range(1), None, None, optimizer, lambda epoch: 0.5)
    assert phase.set_learning_rate(1) == 0.5
    (first.sum() + second.sum()).backward()
    optimizer.step()
    assert first.tolist() == [-0.125] * 2 and second.tolist() == [-0.5] * 2
