"""Learned margins that are bounded from below, or have their own weight decay."""

import json

import pytest

from tests.support.faults import interrupted_at_check
from tests.support.helpers import (
    FEATURES_ONLY,
    call,
    differences_of_runs,
    read_records,
    snapshot,
    stage_2,
    stage_2_folder,
    stage_2_folder_with,
    succeed,
    weights_of,
)
from utils.options.parse import parse_options
from utils.options.run_names import earlier_name

pytestmark = pytest.mark.usefixtures("no_figures")

FAST = ("--feat_lr", 0.5, "--margin", 0.02)
"""Margins that cross zero within an epoch."""


def margins_of(root) -> list[list[float]]:
    return [record["margins"] for record in read_records(stage_2_folder(root))]


def test_bounded_margins_stay_at_the_bound_where_free_ones_fall_below(tree, pretrained):
    succeed(stage_2(tree, pretrained, *FAST))
    free = margins_of(pretrained)
    assert min(free[0]) < 0 and min(free[1]) < min(free[0])
    succeed(stage_2(tree, pretrained, *FAST, "--margin_min", 0))
    bounded = stage_2_folder_with(pretrained, margin_min=0.0)
    lowest = [min(record["margins"]) for record in read_records(bounded)]
    assert lowest == [0.0, 0.0, 0.0]


def test_a_bound_that_margins_do_not_reach_changes_nothing(tree, finished, pretrained):
    succeed(stage_2(tree, pretrained, "--margin_min", 0))
    assert min(map(min, margins_of(finished))) > 0
    assert not differences_of_runs(stage_2_folder(finished), stage_2_folder(pretrained))


def test_a_bounded_run_goes_on_to_the_same_bits(tree, pretrained, tmp_path):
    argv = stage_2(tree, pretrained, *FAST, "--margin_min", 0)
    roots = ("--root_log", tmp_path / "other", "--root_model", tmp_path / "other")
    fresh = [*argv, *roots, "--pretrained", next(pretrained.glob("cifar10*"))]
    with interrupted_at_check(25):
        assert call(argv).status == 143
    succeed([*argv, "--resume", "True"])
    succeed(fresh)
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(tmp_path / "other"))


def test_the_usual_weight_decay_given_to_the_margins_changes_nothing(tree, finished, pretrained):
    succeed(stage_2(tree, pretrained, "--margin_wd", 0.0001))
    folder = stage_2_folder(pretrained)
    assert margins_of(pretrained) == margins_of(finished)
    ours, theirs = weights_of(folder), weights_of(stage_2_folder(finished))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_weight_decay_of_the_margins_is_theirs_alone(tree, pretrained):
    """τ is so large that the loss has no slope. After one epoch of one step, SGD leaves ε (1 − lr ·
    wd)."""
    flat = ("--temperature", 1e8, "-b", 1000, "--margin", 2, *FEATURES_ONLY)
    succeed(stage_2(tree, pretrained, *flat, "--margin_wd", 4))
    [epsilons] = margins_of(pretrained)
    assert epsilons == pytest.approx([2 * (1 - 0.05 * 4)] * 10, rel=1e-6)
    succeed(stage_2(tree, pretrained, *flat, "--margin_wd", 0, "--wd", 4))
    kept = stage_2_folder_with(pretrained, margin_wd=0.0)
    assert read_records(kept)[0]["margins"] == pytest.approx([2] * 10, rel=1e-6)


STAGE_2 = "--pretrained X --feat_loss ce,robust_loss --cls_loss ce --margin 1"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--margin_min -1", "'-1' is not a finite number >= 0"),
        ("--margin_min 1.5", "--margin_min 1.5 is above 1.0, where the margins start"),
        ("--margin_min 0 --margin_type shared", "--margin_min 0.0 needs --margin_type learned"),
        ("--margin_wd 0 --margin_type sample_count", "--margin_wd 0.0 needs --margin_type learned"),
    ],
)
def test_margins_out_of_bounds_or_that_do_not_train_are_refused(flags, says):
    outcome = call(f"{STAGE_2} {flags}".split())
    assert outcome.status == 2 and says in outcome.err and outcome.err.count("\n") == 1


def forget_flags(folder) -> None:
    path = folder / "args.json"
    recorded = json.loads(path.read_text())
    for flag in ("margin_min", "margin_wd"):
        assert recorded.pop(flag) is None
    path.write_text(json.dumps(recorded))


def test_a_finished_run_from_before_a_flag_counts_as_finished(tree, both):
    forget_flags(stage_2_folder(both))
    assert "finished" in succeed(stage_2(tree, both, "--resume", "True")).out


def test_an_unfinished_run_from_before_a_flag_goes_on(tree, pretrained, finished):
    with interrupted_at_check(20):
        assert call(stage_2(tree, pretrained)).status == 143
    forget_flags(stage_2_folder(pretrained))
    succeed(stage_2(tree, pretrained, "--resume", "True"))
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(finished))


def test_a_flag_that_the_record_lacks_is_at_its_default_and_no_other(tree, both):
    """A folder with the earlier name and another run in it is not used."""
    folder = stage_2_folder(both)
    forget_flags(folder)
    argv = stage_2(tree, both, "--margin_min", 0.5)
    options = parse_options([str(word) for word in argv])
    folder = folder.rename(folder.with_name(earlier_name(options)))
    before = snapshot(folder)
    assert "finished" not in succeed([*argv, "--resume", "True"]).out
    assert snapshot(folder) == before
    assert stage_2_folder_with(both, margin_min=0.5) != folder
