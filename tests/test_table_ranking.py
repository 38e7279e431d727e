"""Which reading of the robust loss held-out images choose, from made-up records."""

import pytest

from tests.table_records import write_run
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


def write(root, lasts, **settings):
    write_run(root, Row("cifar100", 100, "ce"), [30.0] * 200, length=LENGTH)
    for method, (heldout, test) in lasts.items():
        row = Row("cifar100", 100, method)
        write_run(
            *(root, row, [10.0, 60.0, test]),
            **{"heldout": [1.0, 2.0, heldout], "ncm": [3.0, 4.0, test - 5]},
            **{"length": LENGTH, **settings},
        )


def ranking_of(root):
    [(_, cells)] = by_set(table := tabulate(collect([root]).chains)).items()
    return list(rankings(table, cells))


def test_readings_are_in_the_order_of_held_out_images_at_the_last_epoch(tmp_path):
    write(tmp_path, LASTS)
    [ranking] = ranking_of(tmp_path)
    found = [(r.cell.row.method, r.heldout, r.test, r.ncm, r.seeds) for r in ranking.readings]
    order = ("dro_lt_squared", "dro_lt_weight", "control", "dro_lt")
    assert found == [(m, *LASTS[m], LASTS[m][1] - 5, [0]) for m in order]
    lines = "\n".join(ranking.lines())
    assert "| `dro_lt_squared` | 42.00 (+2.00) | 48.00 (-2.00) | 43.00 (-2.00) | 1 |" in lines
    assert "| `control` | 40.00 | 50.00 | 45.00 | 1 |" in lines
    assert (
        "choose `dro_lt_squared` (42.00), +2.00 points ahead of the control there, -2.00" in lines
    )


def test_a_control_ahead_of_all_readings_is_said_to_be(tmp_path):
    write(tmp_path, LASTS | {"control": (45.0, 50.0)})
    [ranking] = ranking_of(tmp_path)
    assert ranking.readings[0] is ranking.control
    said = list(ranking.lines())[-1]
    assert "choose `dro_lt_squared` (42.00), but the control is 3.00 points ahead of it." in said


@pytest.mark.parametrize("without", ["control", ("dro_lt", "dro_lt_weight")])
def test_without_a_control_or_with_one_reading_there_is_no_choice(without, tmp_path):
    write(tmp_path, {m: tops for m, tops in LASTS.items() if m not in without})
    assert ranking_of(tmp_path) == []


def test_runs_without_held_out_images_are_left_out(tmp_path):
    write(tmp_path, {m: LASTS[m] for m in list(LASTS)[:3]})
    write_run(tmp_path, Row("cifar100", 100, "dro_lt_weight"), [1.0] * 3, length=LENGTH)
    [ranking] = ranking_of(tmp_path)
    assert [r.cell.row.method for r in ranking.readings] == ["dro_lt_squared", "control", "dro_lt"]


def test_runs_chosen_on_held_out_images_come_before_those_chosen_on_test(tmp_path):
    write(tmp_path / "a", LASTS)
    write(tmp_path / "b", {m: (1.0, 2.0) for m in LASTS}, protocol="heldout")
    [ranking] = ranking_of(tmp_path)
    assert {r.cell.protocol for r in ranking.readings} == {"heldout"}
    assert {r.test for r in ranking.readings} == {2.0}
