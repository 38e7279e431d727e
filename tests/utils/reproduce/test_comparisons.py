"""What may be compared in the table, and what is said of it: images, starts, layers, distances."""

import json

import numpy as np
import pytest

from tests.support.helpers import STAGE_1_NAME
from tests.support.table_records import write_run
from utils.reproduce.chains import collect, tabulate
from utils.reproduce.document import by_set
from utils.reproduce.findings import findings
from utils.reproduce.measures import difference
from utils.reproduce.recipes import Length, Row
from utils.reproduce.writing import write_results

CE, CONTROL, DRO_LT, SHARED, LAYERS, SQUARED, TEMPERATURE = (
    Row("cifar100", 100, method)
    for method in (
        *("ce", "control", "dro_lt", "dro_lt_shared", "dro_lt_layers", "dro_lt_squared"),
        "dro_lt_temperature",
    )
)
CUT = Length(200, 2, 1)
OTHER_IMAGES = {"fingerprint": "beefbeef" * 8}


def table_of(root):
    return tabulate(collect([root]).chains)


def said(table):
    found = [findings(table, cells) for cells in by_set(table).values()]
    return [s for of_set in found for sentences in of_set.values() for s in sentences]


def only(table, row, protocol="test"):
    [results] = [table[c] for c in table if c.row == row and c.protocol == protocol]
    return results


def test_runs_on_other_images_are_other_lines_and_never_averaged(tmp_path):
    write_run(tmp_path / "a", CE, [10.0] * 200, length=Length(200), fingerprint="0123abcd" * 8)
    write_run(tmp_path / "b", CE, [20.0] * 200, length=Length(200), seed=1, **OTHER_IMAGES)
    table = table_of(tmp_path)
    tests = {c.subset: [r.top1 for r in table[c].values()] for c in table if c.protocol == "test"}
    assert tests == {"0123abcd": [10.0], "beefbeef": [20.0]}
    page = write_results(collect([tmp_path]), tmp_path / "results").read_text()
    assert "| float32, subset 0123abcd | 10.00 (1) |" in page
    assert "| float32, subset beefbeef | 20.00 (1) |" in page


def test_images_of_one_kind_alone_are_told_once(tmp_path, no_figures):
    write_run(tmp_path, CE, [10.0] * 200, length=Length(200), **OTHER_IMAGES)
    page = write_results(collect([tmp_path]), tmp_path / "results").read_text()
    assert "| float32 | 10.00 (1) |" in page and "begins with beefbeef" in page


def test_predictions_on_other_test_images_are_not_paired(tmp_path):
    preds = (np.arange(100) >= 50).astype(int)
    write_run(tmp_path, CE, [1.0] * 200, length=CUT)
    folders = [
        write_run(tmp_path, row, [1.0, 1.0, 50.0], length=CUT, preds=preds)
        for row in (CONTROL, DRO_LT)
    ]
    table = table_of(tmp_path)
    assert difference(only(table, DRO_LT), only(table, CONTROL)).is_paired
    labels = np.arange(100) % 2  # of which the same number is right
    np.savez(folders[0] / "predictions.npz", labels=labels, preds=preds)
    assert (labels == preds).mean() == 0.5
    assert not difference(only(table, DRO_LT), only(table, CONTROL)).is_paired


def test_a_seed_counts_where_both_started_from_the_same_stage_1(tmp_path):
    for root, row, start in (("a", CONTROL, 30.0), ("b", DRO_LT, 31.0)):
        write_run(tmp_path / root, CE, [1.0] * 199 + [start], length=CUT)
        write_run(tmp_path / root, row, [1.0, 1.0, 50.0], length=CUT)
    table = table_of(tmp_path)
    assert difference(only(table, DRO_LT), only(table, CONTROL)) is None
    assert difference(only(table, CONTROL), {0: only(table, CE)[0]}) is not None
    for name in ("summary.json", "log.jsonl"):  # now both stages 1 are one
        [first] = (tmp_path / "a").glob(f"*/{name}")
        [second] = (tmp_path / "b").glob(f"*/{name}")
        second.write_bytes(first.read_bytes())
    table = table_of(tmp_path)
    assert difference(only(table, DRO_LT), only(table, CONTROL)) is not None


def test_the_robust_loss_of_several_layers_is_summed_and_its_margins_count_for_each(tmp_path):
    write_run(tmp_path, CE, [1.0] * 200, length=CUT)
    settings = {"margins": [0.8, 0.6, 0.6], "robust": [3.0, 1.0, 1.0], "layers": 2}
    write_run(tmp_path, LAYERS, [1.0, 1.0, 50.0], length=CUT, **settings)
    # Two layers: the loss falls from 6 to 2; margins fall by 0.2 between the epochs' middles.
    [course] = [s for s in said(table_of(tmp_path)) if "The mean margin" in s]
    assert "from 1 to 0.60" in course and "falls by 4.00" in course and "at most 10 %" in course
    write_results(collect([tmp_path]), tmp_path / "results")


def test_of_squared_distances_nothing_bounds_what_the_margins_do(tmp_path):
    write_run(tmp_path, CE, [1.0] * 200, length=CUT)
    settings = {"margins": [0.8, 0.6, 0.6], "robust": [3.0, 1.0, 1.0]}
    write_run(tmp_path, SQUARED, [1.0, 1.0, 50.0], length=CUT, **settings)
    [course] = [s for s in said(table_of(tmp_path)) if "The mean margin" in s]
    assert "from 1 to 0.60" in course and "at most" not in course


def test_a_fixed_margin_is_set_beside_learned_ones_of_the_same_loss_alone(tmp_path):
    write_run(tmp_path, CE, [1.0] * 200, length=CUT)
    write_run(tmp_path, SHARED, [1.0, 1.0, 50.0], length=CUT, robust=[3.0, 2.5, 1.0])
    for row in (DRO_LT, TEMPERATURE):
        settings = {"margins": [0.8, 0.6, 0.6], "robust": [3.0, 1.0, 1.0]}
        write_run(tmp_path, row, [1.0, 1.0, 50.0], length=CUT, **settings)
    courses = {s.split("`")[1]: s for s in said(table_of(tmp_path)) if "The mean margin" in s}
    assert "with one fixed margin it falls by 0.50" in courses["dro_lt"]
    assert "fixed" not in courses["dro_lt_temperature"]


@pytest.mark.parametrize(
    ("top1", "verdict"),
    [
        (38.0, "it agrees with the published number within twice the standard error of 4.85"),
        (70.0, "the published number is reached, by more than twice"),
        (10.0, "the published number is not reached, by more than twice"),
    ],
)
def test_the_published_number_is_held_against_the_error_of_ours(top1, verdict, tmp_path):
    preds = (np.arange(100) >= top1).astype(int)
    write_run(tmp_path, CE, [1.0] * 199 + [top1], length=Length(200), preds=preds)
    [sentence] = [s for s in said(table_of(tmp_path)) if "by `test`" in s]
    assert verdict in sentence


def test_a_doubtful_published_number_is_called_so(tmp_path):
    write_run(tmp_path, Row("cifar100", 50, "ce"), [1.0] * 200, length=CUT)
    write_run(tmp_path, Row("cifar100", 50, "dro_lt"), [1.0, 1.0, 50.0], length=CUT)
    [sentence] = [s for s in said(table_of(tmp_path)) if "57.6" in s]
    assert "looks like an outlier" in sentence


def test_a_run_records_the_fingerprint_of_its_images(finished):
    recorded = json.loads((finished / STAGE_1_NAME / "args.json").read_text())
    assert len(recorded["fingerprint"]) == 64
