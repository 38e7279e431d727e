"""What is compared with what, and how sure it is, from made-up records."""

import math

import numpy as np
import pytest

from tests.support.table_records import frame_of, predictions, without_ncm, write_run
from utils.evaluation.statistics import binomial_error
from utils.options.recipes import RECIPES
from utils.reproduce.comparisons import PARTS, against_published, comparisons, rankings
from utils.reproduce.document import ANSWERS
from utils.reproduce.plan import DataSet, Length
from utils.reproduce.published import PUBLISHED
from utils.reproduce.rows import EVERYWHERE, OF_OWN_DATA

CUT = Length(200, 2, 1)
ROBUST = "the robust loss"


def pair(root, ours=50.0, theirs=40.0, with_images=True, **of_cell):
    """A run of DRO-LT and one of its control."""
    for row, top1 in (("dro_lt", ours), ("control", theirs)):
        preds = predictions(top1) if with_images else None
        write_run(root, row, [1.0, 1.0, top1], length=CUT, preds=preds, **of_cell)


def lines(root, what=ROBUST):
    return [c for c in comparisons(frame_of(root)).to_dict("records") if c["what"] == what]


def test_all_named_rows_and_parts_exist_and_a_stage_2_comes_first():
    """A stage 1 has no run of the length of a stage 2."""
    for what, ours, theirs in PARTS:
        assert {ours, theirs} <= RECIPES.keys(), what
        assert RECIPES[ours].start or not RECIPES[theirs].start, f"{what}: put the stage 2 first"
    assert set(ANSWERS) <= {what for what, _, _ in PARTS}
    assert {*EVERYWHERE, *OF_OWN_DATA} <= RECIPES.keys()


def test_one_seed_is_compared_over_its_images(tmp_path):
    pair(tmp_path)
    [line] = lines(tmp_path)
    found = line["difference"]
    assert (line["ours_top1"], line["theirs_top1"], line["ncm_points"]) == (50.0, 40.0, 10.0)
    assert found.points == 10.0 and found.is_paired and found.covers == "images"
    # Ten images of a hundred differ, all for the better.
    assert found.error == pytest.approx(100 * math.sqrt(0.1 * 0.9 / 99))


def test_several_seeds_are_compared_over_seeds_and_images(tmp_path):
    for seed, ours in ((0, 50.0), (1, 52.0)):
        pair(tmp_path, ours=ours, seed=seed)
    [line] = lines(tmp_path)
    assert line["seeds"] == [0, 1] and line["difference"].covers == "seeds and images"
    assert line["difference"].points == 11.0 and line["difference"].seed_error == 1.0


def test_the_difference_of_ncm_is_unknown_where_one_seed_lacks_it(tmp_path):
    for seed in (0, 1):
        pair(tmp_path, seed=seed)
    [without] = (tmp_path / "runs").glob("*/control/*_s1_*")
    without_ncm(without)
    [line] = lines(tmp_path)
    assert math.isnan(line["ncm_points"]) and line["difference"].points == 10.0


def test_only_seeds_that_both_have_are_compared(tmp_path):
    pair(tmp_path)
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 99.0], length=CUT, seed=1)
    [line] = lines(tmp_path)
    assert line["seeds"] == [0] and line["difference"].points == 10.0


def test_seeds_of_stage_2_from_one_start_are_compared_by_themselves(tmp_path):
    for seed, ours in ((0, 50.0), (1, 52.0), (2, 54.0)):
        pair(tmp_path, ours=ours, seed=seed, start_seed=0)
    write_run(tmp_path, "ce", [30.0] * 200, length=CUT)
    found = {line["of_seeds"]: line["difference"].points for line in lines(tmp_path)}
    assert found == {"chains": 10.0, "stage 2 from seed 0": 12.0}
    [all_of_it] = lines(tmp_path, "all of stage 2")
    assert all_of_it["seeds"] == [0]


@pytest.mark.parametrize(
    "other",
    [
        {"length": Length(200, 3, 1)},
        {"protocol": "last"},
        {"precision": "bf16"},
        {"data": DataSet("cifar100", 100, "beefbeef")},
        {"data": DataSet("cifar100", 50, "0123abcd")},
        {"seed": 1},
    ],
    ids=str,
)
def test_runs_of_another_kind_are_not_compared(other, tmp_path):
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 50.0], length=CUT)
    tops = [1.0] * (4 if "length" in other else 3)
    write_run(tmp_path, "control", tops, **({"length": CUT} | other))
    assert lines(tmp_path) == []


def test_a_stage_2_is_compared_with_the_stage_1_of_its_own_precision(tmp_path):
    write_run(tmp_path, "ce", [30.0] * 200, length=CUT, precision="bf16")
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 50.0], length=CUT, precision="bf16+float32")
    [line] = lines(tmp_path, "all of stage 2")
    assert line["difference"].points == 20.0
    assert line["mixed_precision"] == "float32 against bf16"


def test_a_stage_2_is_compared_with_one_of_another_precision_only_if_its_own_has_none(tmp_path):
    for row, precision, top1 in (
        ("dro_lt", "bf16+float32", 50.0),
        ("control", "bf16", 46.0),
    ):
        write_run(tmp_path, row, [1.0, 1.0, top1], length=CUT, precision=precision)
    [line] = lines(tmp_path)
    assert (line["precision"], line["mixed_precision"]) == ("bf16+float32", "float32 against bf16")
    assert line["difference"].points == 4.0
    write_run(tmp_path, "control", [1.0, 1.0, 48.0], length=CUT, precision="bf16+float32")
    [line] = lines(tmp_path)
    assert line["mixed_precision"] == ""
    assert line["difference"].points == 2.0


def test_a_stage_1_is_compared_with_one_of_another_precision_only_if_its_own_has_none(tmp_path):
    what = "balanced softmax and its recipe over cross-entropy"
    write_run(tmp_path, "bs", [50.0] * 20, length=Length(20), precision="float32")
    write_run(tmp_path, "ce", [38.0] * 20, length=Length(20), precision="bf16")
    found = lines(tmp_path, what)
    assert {line["mixed_precision"] for line in found} == {"float32 against bf16"}
    assert {line["difference"].points for line in found} == {12.0}
    write_run(tmp_path, "ce", [39.0] * 20, length=Length(20), precision="float32")
    found = lines(tmp_path, what)
    assert {line["mixed_precision"] for line in found} == {""}
    assert {line["difference"].points for line in found} == {11.0}


def test_predictions_on_other_test_images_are_not_paired(tmp_path):
    pair(tmp_path, ours=50.0)
    [folder] = (tmp_path / "runs").glob("*/dro_lt/*")
    labels = np.arange(100) % 2  # of which the same number is right
    np.savez(folder / "predictions.npz", labels=labels, preds=predictions(50))
    assert (labels == predictions(50)).mean() == 0.5
    [line] = lines(tmp_path)
    assert not line["difference"].is_paired
    expected = math.hypot(binomial_error(50, 100), binomial_error(40, 100))
    assert line["difference"].image_error == pytest.approx(expected)


def test_without_predictions_and_with_one_seed_nothing_is_said_of_the_error(tmp_path):
    pair(tmp_path, with_images=False)
    [line] = lines(tmp_path)
    assert line["difference"].error is None and line["difference"].points == 10.0


def published(root, **wanted):
    found = against_published(frame_of(root)).to_dict("records")
    return [c for c in found if all(c[name] == value for name, value in wanted.items())]


def test_the_published_number_is_held_against_the_error_of_ours(tmp_path):
    write_run(tmp_path, "ce", [1.0] * 199 + [38.0], length=Length(200), preds=predictions(38))
    [line] = published(tmp_path, protocol="test")
    assert (line["top1"], line["published"], line["is_full_length"]) == (38.0, 38.3, True)
    assert line["difference"].points == pytest.approx(-0.3)
    assert line["difference"].image_error == pytest.approx(binomial_error(38, 100))


def test_a_run_cut_short_is_compared_with_the_published_only_where_none_of_its_row_is_whole(
    tmp_path,
):
    write_run(tmp_path, "ce", [10.0] * 4, length=Length(4))
    [line] = published(tmp_path, protocol="test")
    assert (line["top1"], line["is_full_length"]) == (10.0, False)
    write_run(tmp_path, "ce", [20.0] * 200, length=Length(200), seed=1)
    [line] = published(tmp_path, protocol="test")
    assert (line["top1"], line["is_full_length"]) == (20.0, True)
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 45.0], length=CUT)
    [line] = published(tmp_path, protocol="test", row="dro_lt")
    assert (line["top1"], line["is_full_length"]) == (45.0, False)


def test_a_doubtful_published_number_is_called_so(tmp_path):
    write_run(tmp_path, "dro_lt", [1.0] * 3, length=CUT, data=DataSet("cifar100", 50, "0123abcd"))
    [line] = published(tmp_path)
    assert line["published"] == 57.6 and "looks like an outlier" in line["remark"]


def test_the_published_numbers_are_those_of_the_reference():
    assert PUBLISHED["cifar100", 100, "dro_lt"] == 47.3
    assert PUBLISHED["cifar100", 100, "dro_lt_released"] == 47.3
    assert PUBLISHED["cifar100", 10, "dro_lt"] == 63.4 and PUBLISHED["cifar100", 100, "ce"] == 38.3


LASTS = {  # held-out and test top-1 of the last epoch
    "control": (40.0, 50.0),
    "dro_lt": (39.0, 51.0),
    "dro_lt_squared": (42.0, 48.0),
    "dro_lt_weight": (41.0, 52.0),
}


def write_lasts(root, lasts, seed=0, **of_cell):
    for row, (heldout, test) in lasts.items():
        write_run(
            *(root, row, [10.0, 60.0, test]),
            **{"heldout": [1.0, 2.0, heldout], "ncm": [3.0, 4.0, test - 5]},
            **{"length": CUT, "seed": seed, **of_cell},
        )


def test_held_out_images_put_rows_in_their_order_by_the_last_epoch(tmp_path):
    write_lasts(tmp_path, LASTS)
    [ranking] = rankings(frame_of(tmp_path))
    assert ranking["row"].tolist() == ["dro_lt_squared", "dro_lt_weight", "control", "dro_lt"]
    for line in ranking.to_dict("records"):
        heldout, test = LASTS[line["row"]]
        assert (line["heldout"], line["test"], line["ncm"]) == (heldout, test, test - 5)
        assert line["few"] == test - 5
        if line["row"] != "control":
            assert line["reference"] == "control"
            assert line["difference"].points == heldout - 40
    # Of 200 images each.
    first = ranking.iloc[0]["difference"]
    expected = math.hypot(binomial_error(42, 200), binomial_error(40, 200))
    assert first.error == pytest.approx(expected)


def test_test_accuracies_put_nothing_in_order(tmp_path):
    write_lasts(tmp_path, LASTS)
    [before] = rankings(frame_of(tmp_path))
    other = {row: (heldout, 100 - test) for row, (heldout, test) in LASTS.items()}
    write_lasts(tmp_path / "other", other)
    [after] = rankings(frame_of(tmp_path / "other"))
    assert before["row"].tolist() == after["row"].tolist()


def test_rows_of_one_budget_alone_are_ranked_together(tmp_path):
    write_lasts(tmp_path, LASTS)
    write_run(tmp_path, "ce", [1.0] * 20, length=Length(20), heldout=[99.0] * 20)
    write_run(tmp_path, "ce", [1.0] * 200, length=Length(200), heldout=[41.5] * 200)
    [ranking] = rankings(frame_of(tmp_path))
    assert ranking["row"].tolist()[:2] == ["dro_lt_squared", "ce"]
    assert ranking[ranking["row"] == "ce"]["heldout"].tolist() == [41.5]


def test_whole_chains_of_one_precision_alone_are_ranked_together(tmp_path):
    for seed in (0, 1):
        write_lasts(tmp_path, LASTS, seed=seed, start_seed=0)
    write_lasts(tmp_path, LASTS, precision="bf16")
    found = rankings(frame_of(tmp_path))
    assert [ranking["seeds"].tolist() for ranking in found] == [[[0]] * 4] * 2


def test_two_rows_of_the_papers_are_no_ranking_and_runs_without_held_out_images_are_left_out(
    tmp_path,
):
    write_lasts(tmp_path, {row: LASTS[row] for row in ("control", "dro_lt")})
    write_run(tmp_path, "dro_lt_weight", [1.0] * 3, length=CUT)
    assert rankings(frame_of(tmp_path)) == []


def test_other_data_have_a_ranking_for_each_length_that_is_no_part_of_another(tmp_path):
    own = {"data": DataSet("digits", 0, "beef0123"), "protocol": "last"}
    for length in (Length(30, 8, 2), Length(20, 4, 1)):
        for row in ("ce", "classifier_only", "control"):
            part = length.of(RECIPES[row])
            epochs = part.features + part.classifier or part.stage_1
            tops = [1.0] * epochs
            write_run(tmp_path, row, tops, heldout=tops, length=length, **own)
    found = rankings(frame_of(tmp_path))
    assert [ranking["length"].iloc[0] for ranking in found] == [Length(30, 8, 2), Length(20, 4, 1)]
    assert all(set(r["row"]) == {"ce", "classifier_only", "control"} for r in found)


def test_the_interval_of_a_ranking_is_over_seeds_and_held_out_images(tmp_path):
    for seed, control in ((0, 40.0), (1, 20.0)):
        lasts = {"control": (control, 50.0), "dro_lt": (45.0 + seed, 50.0)}
        write_lasts(tmp_path, lasts | {"dro_lt_weight": (1.0, 1.0)}, seed=seed)
    [ranking] = rankings(frame_of(tmp_path))
    found = ranking.set_index("row").loc["dro_lt", "difference"]
    assert found.points == (5 + 26) / 2 and found.seed_error == pytest.approx(21 / 2)
    assert found.covers == "seeds and images"


def test_the_protocol_with_most_rows_ranks_and_held_out_comes_first(tmp_path):
    write_lasts(tmp_path, LASTS)
    write_lasts(tmp_path, dict.fromkeys(LASTS, (1.0, 2.0)), protocol="heldout")
    [ranking] = rankings(frame_of(tmp_path))
    assert set(ranking["protocol"]) == {"heldout"}


def test_nothing_is_compared_in_an_empty_table(tmp_path):
    frame = frame_of(tmp_path)
    assert comparisons(frame).empty and against_published(frame).empty and rankings(frame) == []


def test_stage_1_is_paired_at_its_last_epoch(tmp_path):
    for row, top1 in (("bs", 50.0), ("ce", 40.0)):
        arrays = {"preds": predictions(top1 + 1), "others": {"last_preds": predictions(top1)}}
        write_run(tmp_path, row, [top1 + 1] + [top1] * 19, length=Length(20), **arrays)
    what = "balanced softmax and its recipe over cross-entropy"
    found = {line["protocol"]: line["difference"] for line in lines(tmp_path, what)}
    assert found["last"].points == 10.0 and found["last"].is_paired
    assert found["last"].error == pytest.approx(100 * math.sqrt(0.1 * 0.9 / 99))


def test_recorded_held_out_predictions_pair_a_ranking_class_by_class(tmp_path):
    """Held-out images of own data have their natural frequencies; accuracies are balanced."""
    labels = np.array([0] * 6 + [1] * 2)
    correct = {"control": [1, 1, 1, 0, 0, 0, 1, 0], "dro_lt": [1, 1, 0, 1, 1, 1, 1, 1]}
    correct["dro_lt_weight"] = [1] * 8
    balanced = {"control": 50.0, "dro_lt": 100 * (5 / 6 + 1) / 2, "dro_lt_weight": 100.0}
    for row, right in correct.items():
        others = {"heldout_labels": labels, "heldout_last_preds": labels + 1 - np.array(right)}
        tops = [1.0, 1.0, balanced[row]]
        of_run = {"preds": predictions(50), "others": others, "heldout": tops}
        write_run(tmp_path, row, tops, length=CUT, **of_run)
    [ranking] = rankings(frame_of(tmp_path))
    found = ranking.set_index("row").loc["dro_lt", "difference"]
    # Each image of the large class counts 8 / (2 * 6), of the small one 8 / (2 * 2).
    images = np.subtract(correct["dro_lt"], correct["control"]) * np.where(labels == 0, 2 / 3, 2)
    assert found.is_paired and found.points == pytest.approx(balanced["dro_lt"] - 50)
    assert found.error == pytest.approx(100 * images.std(ddof=1) / math.sqrt(8))


def test_the_interval_of_a_row_knows_that_held_out_images_of_small_classes_count_more(tmp_path):
    labels = np.array([0] * 90 + [1] * 10)
    others = {"heldout_labels": labels, "heldout_last_preds": labels}
    for row in ("control", "dro_lt", "dro_lt_weight"):
        of_run = {"preds": predictions(50), "others": others, "heldout": [60.0] * 3}
        write_run(tmp_path, row, [60.0] * 3, length=CUT, **of_run)
    [ranking] = rankings(frame_of(tmp_path))
    low, high = ranking.iloc[0]["interval"]
    share = (0.6 * 36 + 2) / (36 + 4)  # they count as 36 images
    error = 100 * math.sqrt(share * (1 - share) * (1 / 90 + 1 / 10) / 2**2)
    # The quantile is that of Student's t with 36 - 1 degrees of freedom.
    assert (low + high) / 2 == pytest.approx(60)
    assert (high - low) / 2 == pytest.approx(2.0301 * error, rel=1e-4)


@pytest.mark.parametrize(
    ("images", "top1", "interval"),
    [(20, 100.0, (87.06, 100)), (20, 95.0, (79.52, 100)), (20, 0.0, (0, 12.94)), (1, 100.0, None)],
)
def test_the_interval_of_few_images_is_within_0_and_100_and_has_a_width(
    images, top1, interval, tmp_path
):
    labels = np.zeros(images, int)
    others = {"heldout_labels": labels, "heldout_last_preds": labels}
    of_run = {"preds": predictions(50), "others": others, "heldout": [top1] * 3}
    own = {"data": DataSet("folder", 0, "beef0123"), "protocol": "last"}
    write_run(tmp_path, "control", [top1] * 3, **own, **of_run)
    [ranking] = rankings(frame_of(tmp_path))
    found = ranking.iloc[0]["interval"]
    assert found == (interval and pytest.approx(interval, abs=0.01))


def test_held_out_predictions_of_other_images_are_not_paired(tmp_path):
    for row, labels in (("control", [0, 1]), ("dro_lt", [1, 0]), ("dro_lt_weight", [0, 1])):
        others = {"heldout_labels": np.array(labels), "heldout_last_preds": np.array([0, 0])}
        of_run = {"preds": predictions(50), "others": others, "heldout": [50.0] * 3}
        write_run(tmp_path, row, [50.0] * 3, length=CUT, **of_run)
    [ranking] = rankings(frame_of(tmp_path))
    paired = ranking.set_index("row")["difference"].dropna().map(lambda d: d.is_paired)
    assert paired.to_dict() == {"dro_lt": False, "dro_lt_weight": True}
