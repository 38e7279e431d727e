"""The course of the learned margins against numbers worked by hand."""

import math

import pytest
import torch

from losses import DROLoss
from tests.support.table_records import frame_of, write_run
from utils.reproduce.margins import course, margin_course, margin_courses
from utils.reproduce.plan import Length
from utils.runs.records import read_run

CUT = Length(200, 2, 1)
FALL = {"margins": [0.8, 0.6, 0.6], "robust": [3.0, 1.0, 1.0]}


def test_the_course_of_a_straight_fall():
    found = course([1.0, 0.5, 0.0, -0.5, -1.0], [4.0, 3.0, 2.5, 2.0], steepest=1.0)
    assert (found["start"], found["last"]) == (1.0, -1.0)
    assert found["slope"] == pytest.approx(-0.5)
    assert found["crossing"] == 3 and found["loss_fall"] == 2.0
    # In the middle of the first epoch the margin is 0.75, of the last -0.75.
    assert found["share"] == pytest.approx(1.5 / 2.0)


def test_the_margins_account_for_no_more_than_all_and_less_at_higher_temperature():
    def share(losses, steepest):
        return course([1.0, 0.0, -4.0], losses, steepest)["share"]

    assert share([2.0, 1.5], 1.0) == 1.0
    assert share([2.0, 1.5], 0.1) == pytest.approx(0.5)
    assert math.isnan(share([1.0, 1.5], 1.0)) and math.isnan(share([2.0, 1.5], None))
    assert course([1.0, 0.9, 0.8], [2.0, 1.0], 1.0)["crossing"] == "never"
    assert course([-1.0, 0.9, -0.8], [2.0, 1.0], 1.0)["crossing"] == 2


def test_the_loss_falls_by_at_most_the_margins_fall_over_the_temperature():
    """What the `share` rests on, shown on the loss itself."""
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(32, 4, generator=generator), torch.arange(32) % 5
    centroids = torch.randn(5, 4, generator=generator)
    for start, fall in ((1.0, 0.5), (0.2, 3.0)):
        values = [
            DROLoss(2.0, epsilons=torch.full((5,), e)).to_centroids(features, targets, centroids)
            for e in (start, start - fall)
        ]
        assert 0 < values[0] - values[1] <= fall / 2.0


def test_only_learned_margins_of_the_robust_loss_have_a_course(tmp_path):
    learned = write_run(tmp_path, "dro_lt", [1.0, 1.0, 5.0], length=CUT, **FALL)
    assert margin_course(read_run(learned)) == course([1.0, 0.8, 0.6], [3.0, 1.0], 1.0)
    shared = write_run(tmp_path, "dro_lt_shared", [1.0, 1.0, 5.0], length=CUT, **FALL)
    control = write_run(tmp_path, "control", [1.0, 1.0, 5.0], length=CUT)
    assert margin_course(read_run(shared)) is None and margin_course(read_run(control)) is None


def test_a_line_for_each_row_with_the_mean_over_seeds(tmp_path):
    settings = {"robust": [3.0, 1.0, 1.0], "length": CUT}
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 5.0], margins=[0.6, -0.2, -0.2], **settings)
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 5.0], margins=[0.6, 0.2, 0.2], seed=1, **settings)
    write_run(tmp_path, "control", [1.0, 1.0, 5.0], length=CUT)
    [line] = margin_courses(frame_of(tmp_path)).to_dict("records")
    assert (line["row"], line["start"]) == ("dro_lt", 1.0)
    assert line["last"] == pytest.approx(0.0) and line["crossings"] == [2, "never"]
    assert line["slope"] == pytest.approx((-0.6 - 0.4) / 2)
    # From 0.8 to 0.2 and to 0.4 in the middle of the epochs, of a fall by 2.
    assert line["share"] == pytest.approx((0.3 + 0.2) / 2)


def test_the_robust_loss_of_several_layers_is_summed_and_its_margins_count_for_each(tmp_path):
    write_run(tmp_path, "dro_lt_layers", [1.0, 1.0, 50.0], length=CUT, layers=2, **FALL)
    # Two layers: the loss falls from 6 to 2; margins fall by 0.2 between the epochs' middles.
    [line] = margin_courses(frame_of(tmp_path)).to_dict("records")
    assert (line["last"], line["loss_fall"]) == (pytest.approx(0.6), 4.0)
    assert line["share"] == pytest.approx(0.1)


def test_of_squared_distances_nothing_bounds_what_the_margins_do(tmp_path):
    write_run(tmp_path, "dro_lt_squared", [1.0, 1.0, 50.0], length=CUT, **FALL)
    [line] = margin_courses(frame_of(tmp_path)).to_dict("records")
    assert line["last"] == pytest.approx(0.6) and math.isnan(line["share"])


def test_two_protocols_have_one_course(tmp_path):
    for protocol in ("test", "last"):
        write_run(tmp_path, "dro_lt", [1.0, 1.0, 5.0], length=CUT, protocol=protocol, **FALL)
    assert len(margin_courses(frame_of(tmp_path))) == 1
    assert margin_courses(frame_of(tmp_path / "none")).empty
