"""A cosine head with any loss, in both stages."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses.objective import LDAM_SCALE
from models import COSINE_SCALE, build_model
from tests.support.helpers import (
    CLASSIFIER_ONLY,
    load,
    read_records,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from utils.errors import UserError
from utils.export.checkpoints import export_checkpoints
from utils.options.parse import parse_options
from utils.runs import checkpoint

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.mark.parametrize(
    ("flags", "head"),
    [
        ([], "linear"),
        (["--loss_type", "BS"], "linear"),
        (["--loss_type", "LDAM"], "cosine"),
        (["--loss_type", "LDAM", "--head", "cosine"], "cosine"),
        (["--head", "cosine"], "cosine"),
    ],
)
def test_ldam_implies_a_cosine_head_and_other_losses_a_linear_one(flags, head):
    assert parse_options(flags).head == head


def test_a_cosine_head_trains_is_evaluated_and_starts_a_stage_2(tree, tmp_path):
    argv = stage_1(tree, tmp_path, "--loss_type", "BS", "--head", "cosine", "--epochs", 1)
    succeed(argv)
    (first,) = tmp_path.glob("cifar10_resnet8_BS_*")
    weight = weights_of(first)["linear.weight"]
    assert weight.shape == (64, 10) and "linear.bias" not in weights_of(first)

    succeed([*argv, "--evaluation", "True", "--readings", "all"])
    with np.load(first / "outputs_test.npz") as outputs:
        features, labels = torch.from_numpy(outputs["feats"]), torch.from_numpy(outputs["labels"])
    logits = 30 * F.normalize(features, dim=1) @ F.normalize(weight, dim=0)
    recorded = read_records(first)[-1]["results"]["test"]["linear"]["loss"]
    assert recorded == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    readings = json.loads((first / "readings.json").read_text())
    assert (
        readings["linear"]["top1"] == read_records(first)[-1]["results"]["test"]["linear"]["top1"]
    )

    flags = ("--pretrained", first.name, "--head", "cosine", *CLASSIFIER_ONLY)
    succeed(stage_2(tree, tmp_path, *flags))
    trained = weights_of(stage_2_folder(tmp_path), "ckpt.pth.tar")
    assert trained["linear.weight"].shape == (64, 10)
    assert not torch.equal(trained["linear.weight"], weight)
    assert torch.equal(
        trained["conv1.weight"], weights_of(first, "ckpt.best.pth.tar")["conv1.weight"]
    )

    for path in export_checkpoints(first, tmp_path / "exported", with_last=True):
        model = checkpoint.build_from(load(path), path, "resnet8", 10)
        assert model.linear.scale == COSINE_SCALE


def test_ldam_scales_its_margin_as_its_head_scales_the_cosines():
    assert LDAM_SCALE == COSINE_SCALE


def test_another_head_than_the_checkpoints_is_an_error(tmp_path):
    path = tmp_path / "x.pth.tar"
    for scale, kind, other in ((None, "linear", "cosine"), (30.0, "cosine", "linear")):
        start = {"state_dict": build_model("resnet8", 10, scale).state_dict()}
        assert checkpoint.build_from(start, path, "resnet8", 10, kind) is not None
        with pytest.raises(UserError, match=f"a {kind} head, not --head {other}"):
            checkpoint.build_from(start, path, "resnet8", 10, other)
