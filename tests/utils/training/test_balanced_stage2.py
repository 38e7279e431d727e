"""Balanced softmax in stage 2."""

from pathlib import Path

import pytest

from tests.support.helpers import NOTHING, read_csv, stage_2, stage_2_folder, succeed
from utils.options.parse import parse_options
from utils.training.stage2 import _warn_of_other_frequencies, _warn_of_uniform_prior

pytestmark = pytest.mark.usefixtures("no_figures")

CLASS_AWARE = ("--feat_loss", "bs", "--feat_sampler", "resample,4", "--cls_loss", "ce")
PLAIN = ("--feat_loss", "bs", "--feat_sampler", "instance", "--cls_loss", "bs")


@pytest.mark.parametrize(
    ("flags", "warned_of"),
    [
        (CLASS_AWARE, ["--feat_loss bs"]),
        ((*CLASS_AWARE, "--cls_loss", "bs"), ["--feat_loss bs", "--cls_loss bs"]),
        ((*CLASS_AWARE, "--feat_loss", "bs_lt,robust_loss"), []),
        (PLAIN, []),
        ((*PLAIN, "--cls_sampler", "resample,4"), ["--cls_loss bs"]),
    ],
)
def test_a_sampler_that_shows_classes_alike_warns(flags, warned_of, capsys):
    phases = ("--epochs", "2", "--balanced_clf_nepochs", "1")
    _warn_of_uniform_prior(parse_options([*flags, "--pretrained", "x", *phases]))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(warned_of)
    for line, flag in zip(said, warned_of, strict=True):
        assert flag in line and "balances the classes twice" in line


def test_a_run_warns_of_such_a_sampler(tree, pretrained):
    outcome = succeed(stage_2(tree, pretrained, *CLASS_AWARE, *NOTHING))
    (warning,) = outcome.warnings
    assert "balances the classes twice" in warning


@pytest.mark.parametrize(
    ("flags", "start", "warns"),
    [
        ("--recipe dro_lt", {"loss_type": "BS"}, True),
        ("--recipe control_from_bs", {"loss_type": "CE"}, True),
        ("--recipe dro_lt_normalised_from_bs", {"loss_type": "BS"}, False),
        ("--recipe dro_lt", {"loss_type": "CE"}, False),
        ("--recipe dro_lt", {}, False),
        ("--recipe dro_lt", {"loss_type": "BS", "prior_weight": "none"}, False),
        ("--recipe classifier_only", {"loss_type": "BS"}, False),
        # Cross-entropy on equally frequent classes reads the logits as balanced, as they are.
        ("--recipe dro_lt --feat_loss ce,robust_loss", {"loss_type": "BS"}, False),
    ],
)
def test_features_that_read_the_classifier_by_other_frequencies_warn(flags, start, warns, capsys):
    options = parse_options([*flags.split(), "--pretrained", "x"])
    _warn_of_other_frequencies(options, start, Path("x"))
    said = capsys.readouterr().err
    assert ("reads its logits as those of other class frequencies" in said) == warns


def test_both_phases_train_by_balanced_softmax(tree, pretrained):
    flags = (*PLAIN, "--feat_loss", "bs,robust_loss", "--prior_weight", 0.5)
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2))
    rows = read_csv(stage_2_folder(pretrained))
    assert [bool(row["train_robust_loss"]) for row in rows] == [True, False]
    assert all(float(row["train_bs"]) > 0 for row in rows)
