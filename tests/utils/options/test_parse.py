"""What flags say of each other, in commands of one stage and of both."""

import copy

import pytest

from utils.errors import UserError
from utils.options.flags import FIELDS
from utils.options.parse import parse_options, parse_stages

FLAGS = {
    1: ["--mixup", "0.2", "--exp_str", "x"],
    2: [
        *("--pretrained", "X", "--balanced_clf_nepochs", "0", "--feat_loss", "ce,robust_loss"),
        *("--feat_lr", "0.5", "--exp_str", "x"),
    ],
}


@pytest.mark.parametrize(
    ("name", "only_stage", "stages"),
    [("mixup", 1, [1]), ("feat_lr", 2, [2]), ("exp_str", None, [1, 2])],
)
def test_a_flag_excludes_others_in_each_stage_that_it_belongs_to(
    name, only_stage, stages, monkeypatch
):
    declared = copy.copy(FIELDS[name])
    declared.metadata = declared.metadata | {"only_stage": only_stage, "excludes": ("momentum",)}
    monkeypatch.setitem(FIELDS, name, declared)
    for stage in stages:
        parse_options(FLAGS[stage])
        with pytest.raises(UserError, match=f"--{name} .* and --momentum cannot be combined"):
            parse_options([*FLAGS[stage], "--momentum", "0.5"])


def test_what_a_flag_of_stage_1_excludes_is_free_in_the_stage_2_of_one_command(monkeypatch):
    declared = copy.copy(FIELDS["contrastive"])
    declared.metadata = declared.metadata | {"excludes": ("margin",)}
    monkeypatch.setitem(FIELDS, "contrastive", declared)
    both = ["--pretrain_epochs", "1", *FLAGS[2][2:], "--contrastive", "bcl", "--margin", "0.5"]
    assert [options.stage for options in parse_stages(both)] == [1, 2]


@pytest.mark.parametrize(("loss", "of_stage_1"), [("CE", 1.0), ("BS", 0.5)])
def test_a_prior_weight_reaches_stage_1_only_if_its_loss_has_a_prior(loss, of_stage_1):
    """The name of a stage 1 without one is that of its own command."""
    both = ["--pretrain_epochs", "1", "--epochs", "1", "--balanced_clf_nepochs", "0"]
    both += ["--loss_type", loss, "--feat_loss", "bs", "--prior_weight", "0.5"]
    assert [options.prior_weight for options in parse_stages(both)] == [of_stage_1, 0.5]
