"""Values of flags that stand for several things."""

from pathlib import Path

import pytest

from utils.options.flags import FEATURE_LOSSES
from utils.options.parse import parse_options
from utils.options.values import LossTerm, Sampler, parse_losses, parse_sampler, path

STAGE_2 = ["--pretrained", "X", "--cls_loss", "ce_bal"]


def test_the_losses_of_a_flag_are_terms_in_its_order():
    options = parse_options([*STAGE_2, "--feat_loss", "ce_lt,robust_loss"])
    assert options.feature_losses == (LossTerm("ce", "lt"), LossTerm("robust_loss"))
    assert options.classifier_losses == (LossTerm("ce", "bal"),)
    assert options.has_robust_loss


def test_an_absent_flag_has_no_terms():
    options = parse_options([])
    assert options.feature_losses == options.classifier_losses == ()
    assert options.robust_layers == options.chosen_readings == ()


@pytest.mark.parametrize("text", [None, "none", "instance"])
def test_no_sampler_is_plain_shuffling(text):
    assert parse_sampler(text) == Sampler(None)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", 4),
        ("--cls_sampler none", 4),
        ("--cls_sampler resample,2", 2),
        ("--cls_sampler instance", None),
    ],
)
def test_without_a_classifier_sampler_the_feature_phases_one_counts(flags, expected):
    feature_flags = ["--feat_loss", "ce", "--feat_sampler", "resample,4"]
    options = parse_options([*STAGE_2, *feature_flags, *flags.split()])
    assert options.feature_sampler == Sampler(4)
    assert options.classifier_sampler == Sampler(expected)


@pytest.mark.parametrize(
    ("start", "epochs", "first"),
    [
        ("1", 200, 1),
        ("161", 200, 161),
        ("0.8", 200, 161),
        ("0.8", 30, 25),
        ("0.29", 100, 30),
        ("0.8", 1, 1),
    ],
)
def test_the_robust_loss_starts_at_an_epoch_or_after_a_share_of_the_epochs(start, epochs, first):
    flags = ["--robust_weight", "0.1", "--robust_from", start, "--epochs", str(epochs)]
    assert parse_options(flags).robust_start == first


def test_a_home_folder_is_filled_in_where_runs_are_written(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    options = parse_options(["--root_log=~/logs", "--root_model=~"])
    assert (options.root_log, options.root_model) == ("/home/somebody/logs", "/home/somebody")
    assert path("~/p.csv") == Path("/home/somebody/p.csv")


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_a_term_is_spelt_as_its_flag(name):
    [term] = parse_losses(name)
    assert "_".join(filter(None, term)) == name
    assert term.weighting in ("", "lt", "bal")
    assert not (term.is_robust and term.reads_logits)


@pytest.mark.parametrize(
    ("name", "is_robust", "reads_logits", "adds_prior"),
    [
        ("ce_lt", False, True, False),
        ("bs_lt", False, True, True),
        ("robust_loss_bal", True, False, False),
    ],
)
def test_a_term_says_what_its_loss_reads(name, is_robust, reads_logits, adds_prior):
    [term] = parse_losses(name)
    found = (term.is_robust, term.reads_logits, term.adds_prior)
    assert found == (is_robust, reads_logits, adds_prior)
