"""Which reading of the robust loss held-out images choose, from made-up records."""

import math

import pytest

from tests.support.table_records import write_run
from utils.reproduce.chains import collect, tabulate
from utils.reproduce.document import by_set
from utils.reproduce.ranking import rankings
from utils.reproduce.recipes import Length, Row

LENGTH = Length(200, 2, 1)
LASTS = {  # held-out and test top-1 of the last epoch
    "control": (40.0, 50.0),
    "dro_lt": (39.0, 51.0),
    "dro_lt_squared": (42.0, 48.0),
    "dro_lt_weight": (41.0, 52.0),
}


def write(root, lasts, seed=0, **settings):
    write_run(root, Row("cifar100", 100, "ce"), [30.0] * 200, length=LENGTH, seed=seed)
    for method, (heldout, test) in lasts.items():
        row = Row("cifar100", 100, method)
        write_run(
            *(root, row, [10.0, 60.0, test]),
            **{"heldout": [1.0, 2.0, heldout], "ncm": [3.0, 4.0, test - 5]},
            **{"length": LENGTH, "seed": seed, **settings},
        )


def ranking_of(root):
    [(_, cells)] = by_set(table := tabulate(collect([root]).chains)).items()
    return list(rankings(table, cells))


def methods(ranking):
    return [reading.cell.row.method for reading in ranking.readings]


def test_readings_are_in_the_order_of_held_out_images_at_the_last_epoch(tmp_path):
    write(tmp_path, LASTS)
    [ranking] = ranking_of(tmp_path)
    assert methods(ranking) == ["dro_lt_squared", "dro_lt_weight", "dro_lt"]
    for reading in ranking.readings:
        heldout, test = LASTS[reading.cell.row.method]
        assert reading.accuracies == {"heldout": heldout, "top1": test, "ncm": test - 5}
        ahead = {"heldout": heldout - 40, "top1": test - 50, "ncm": test - 50}
        assert reading.ahead == ahead and reading.seeds == [0]
    # Of 200 images each: √(0.42 · 0.58 / 200 + 0.40 · 0.60 / 200).
    assert ranking.readings[0].error == pytest.approx(4.9173, abs=1e-4)
    lines = "\n".join(ranking.lines())
    row = "| `dro_lt_squared` | 42.00 (+2.00 ± 4.92) | 48.00 (-2.00) | 43.00 (-2.00) | 1 |"
    assert row in lines and "| `control` | 40.00 | 50.00 | 45.00 | 1 |" in lines
    assert "choose `dro_lt_squared`, +2.00 against the control there: within twice" in lines
    assert "were chosen on the test set" in lines


@pytest.mark.parametrize(("control", "verdict"), [(90.0, "error behind"), (5.0, "error ahead")])
def test_a_clear_difference_to_the_control_is_said_to_be_one(control, verdict, tmp_path):
    write(tmp_path, LASTS | {"control": (control, 50.0)})
    [ranking] = ranking_of(tmp_path)
    assert f"more than twice the standard {verdict}" in list(ranking.lines())[-1]


def test_only_seeds_that_both_have_are_compared(tmp_path):
    for seed, control in ((0, 40.0), (1, 20.0)):
        write(tmp_path, {"control": (control, 50.0), "dro_lt": (45.0 + seed, 50.0)}, seed=seed)
    write_run(
        *(tmp_path, Row("cifar100", 100, "dro_lt_squared"), [1.0, 2.0, 50.0]),
        **{"heldout": [1.0, 2.0, 41.0], "length": LENGTH, "seed": 0},
    )
    [ranking] = ranking_of(tmp_path)
    assert ranking.accuracies["heldout"] == 30.0 and ranking.seeds == [0, 1]
    both, one = ranking.readings
    assert one.ahead["heldout"] == 1.0 and one.seeds == [0]
    assert both.ahead["heldout"] == (5 + 26) / 2 and both.seeds == [0, 1]
    # The deviation of 5 and 26 is 21 / √2, of their mean 21 / 2; and of the images 4.79.
    assert both.error == pytest.approx(math.hypot(21 / 2, 4.79), abs=0.01)


def test_a_row_that_changes_more_than_the_feature_loss_is_no_reading_of_it(tmp_path):
    write(tmp_path, LASTS | {"dro_lt_instance": (99.0, 99.0)})
    [ranking] = ranking_of(tmp_path)
    assert "dro_lt_instance" not in methods(ranking)


@pytest.mark.parametrize("without", ["control", ("dro_lt", "dro_lt_weight")])
def test_without_a_control_or_with_one_reading_there_is_no_choice(without, tmp_path):
    write(tmp_path, {m: tops for m, tops in LASTS.items() if m not in without})
    assert ranking_of(tmp_path) == []


def test_runs_without_held_out_images_are_left_out(tmp_path):
    write(tmp_path, {m: LASTS[m] for m in list(LASTS)[:3]})
    write_run(tmp_path, Row("cifar100", 100, "dro_lt_weight"), [1.0] * 3, length=LENGTH)
    [ranking] = ranking_of(tmp_path)
    assert methods(ranking) == ["dro_lt_squared", "dro_lt"]


def test_runs_chosen_on_held_out_images_come_before_those_chosen_on_test(tmp_path):
    write(tmp_path / "a", LASTS)
    write(tmp_path / "b", {m: (1.0, 2.0) for m in LASTS}, protocol="heldout")
    [ranking] = ranking_of(tmp_path)
    assert ranking.control.protocol == "heldout"
    assert {r.accuracies["top1"] for r in ranking.readings} == {2.0}
    assert "chosen on the test set" not in "".join(ranking.lines())
