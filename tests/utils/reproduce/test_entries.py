"""The table's arithmetic and sentences against numbers worked by hand."""

import math
import random

import numpy as np
import pytest

from tests.support.table_records import write_run
from utils.reproduce.chains import Cell, collect, tabulate
from utils.reproduce.entries import entry
from utils.reproduce.findings import MarginCourse, findings, margin_course
from utils.reproduce.measures import deviation, difference, mean, paired_error, unpaired_error
from utils.reproduce.published import PUBLISHED
from utils.reproduce.recipes import Length, Row
from utils.reproduce.writing import write_results

CE = Row("cifar100", 100, "ce")
ROW, CONTROL = Row("cifar100", 100, "dro_lt"), Row("cifar100", 100, "control")
FULL = Length(200, 80, 20)
CUT = Length(200, 2, 1)


def test_mean_and_deviation():
    assert mean([1.0, 2.0, 6.0]) == 3.0 and mean([1.0, None]) is None
    assert deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))
    assert deviation([1.0]) is None


def test_the_paired_error_is_that_of_the_mean_of_differences():
    generator = np.random.default_rng(0)
    ours, theirs = generator.random((2, 500)) < [[0.6], [0.4]]
    differences = ours.astype(float) - theirs.astype(float)
    expected = 100 * differences.std() / math.sqrt(500)
    assert paired_error(ours, theirs) == pytest.approx(expected, rel=1e-9)
    assert paired_error(ours, ours) == 0


def test_the_paired_error_is_what_a_bootstrap_of_the_images_gives():
    generator = np.random.default_rng(1)
    ours, theirs = generator.random((2, 400)) < [[0.7], [0.5]]
    draws = generator.integers(0, 400, (4000, 400))
    spread = 100 * (ours[draws].mean(axis=1) - theirs[draws].mean(axis=1)).std()
    assert paired_error(ours, theirs) == pytest.approx(spread, rel=0.05)


def test_the_unpaired_error_is_binomial():
    assert unpaired_error(50, 50, 10_000) == pytest.approx(100 * math.sqrt(0.5 / 10_000))


def predictions(top1):
    """Of 100 images of class 0, of which the first `top1` are right."""
    return (np.arange(100) >= top1).astype(int)


@pytest.fixture
def table(tmp_path):
    """Two seeds of cross-entropy at full length; one of DRO-LT and two of its control cut short."""
    for seed, top1 in ((0, 38.0), (1, 40.0)):
        write_run(tmp_path, CE, [1.0] * 198 + [top1, 36.0 + seed], length=FULL, seed=seed)
    margins, robust = [0.6, -0.2, -0.2], [3.0, 1.0, 1.0]
    write_run(
        *(tmp_path, ROW, [1.0, 1.0, 45.0]),
        **{"length": CUT, "margins": margins, "robust": robust, "preds": predictions(45)},
    )
    for seed, top1 in ((0, 44.0), (1, 60.0)):
        preds = predictions(44) if seed == 0 else None
        write_run(tmp_path, CONTROL, [1.0, 1.0, top1], length=CUT, seed=seed, preds=preds)
    return tabulate(collect([tmp_path]).chains)


def test_an_entry_has_means_deviation_and_the_published_number(table):
    cell = Cell(CE, Length(200), "float32", "test")
    found = entry(cell, table[cell])
    promised = "method dataset ratio protocol top1_mean top1_std seeds many medium few ncm"
    assert [*found][:12] == [*promised.split(), "published"]
    assert found["top1_mean"] == 39.0 and found["top1_std"] == pytest.approx(math.sqrt(2), abs=1e-4)
    assert (found["seeds"], found["seed_list"]) == (2, [0, 1])
    assert (found["many"], found["medium"], found["few"]) == (44.0, None, 34.0)
    assert (found["ncm"], found["published"], found["difference"]) == (39.0, 38.3, 0.7)
    assert (found["length"], found["is_full_length"]) == ("200", True)
    assert (found["epochs"], found["final_epoch_top1"]) == ([199, 199], 36.5)
    assert found["seconds"] == 10.0


def test_an_entry_of_one_seed_has_no_deviation_and_is_marked_where_cut_short(table):
    cell = Cell(ROW, CUT, "float32", "test")
    found = entry(cell, table[cell])
    assert found["top1_std"] is None
    assert (found["length"], found["is_full_length"]) == ("200, 2+1", False)


def test_a_difference_is_over_the_seeds_that_both_have(table):
    ours, theirs = (table[Cell(row, CUT, "float32", "test")] for row in (ROW, CONTROL))
    found = difference(ours, theirs)
    assert (found.seeds, found.points, found.deviation) == ([0], 1.0, None)
    assert found.is_paired  # one image of a hundred differs
    assert found.image_error == pytest.approx(100 * math.sqrt(1 - 1 / 100) / 100)
    assert difference(ours, {7: theirs[1]}) is None


def test_predictions_of_another_epoch_are_not_taken_for_those_of_the_result(table):
    cell = Cell(ROW, CUT, "float32", "test")
    [result] = table[cell].values()
    np.savez(
        result.chain.run.folder / "predictions.npz", labels=np.zeros(100), preds=predictions(30)
    )
    found = difference(table[cell], table[Cell(CONTROL, CUT, "float32", "test")])
    assert not found.is_paired
    assert found.image_error == pytest.approx(unpaired_error(45, 44, 100))


def test_seeds_and_images_make_the_error_together():
    from utils.reproduce.measures import Difference

    found = Difference([0, 1, 2, 3], 1.0, 0.6, 0.4, True)
    assert found.error == pytest.approx(0.5)
    assert Difference([0], 1.0, None, 0.4, True).error == 0.4
    assert Difference([0], 1.0, None, None, False).error is None


def test_the_course_of_a_straight_fall():
    course = MarginCourse(1.0, [0.5, 0.0, -0.5, -1.0], [4.0, 3.0, 2.5, 2.0], steepest=1.0)
    assert course.slope == pytest.approx(-0.5)
    assert course.crossing == 3 and course.loss_fall == 2.0
    # In the middle of the first epoch the margin is 0.75, of the last -0.75.
    assert course.largest_share == pytest.approx(1.5 / 2.0)


def test_the_margins_account_for_no_more_than_all_and_less_at_higher_temperature():
    steep = MarginCourse(1.0, [0.0, -4.0], [2.0, 1.5], steepest=1.0)
    assert steep.largest_share == 1.0
    assert MarginCourse(1.0, [0.0, -4.0], [2.0, 1.5], 0.1).largest_share == pytest.approx(0.5)
    assert MarginCourse(1.0, [0.0, -4.0], [1.0, 1.5], 1.0).largest_share is None
    assert MarginCourse(1.0, [0.0, -4.0], [2.0, 1.5], None).largest_share is None
    assert MarginCourse(1.0, [0.9, 0.8], [2.0, 1.0], 1.0).crossing is None


def test_the_loss_falls_by_at_most_the_margins_fall_over_the_temperature():
    """What `largest_share` rests on, shown on the loss itself."""
    import torch

    from losses import DROLoss

    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(32, 4, generator=generator), torch.arange(32) % 5
    centroids = torch.randn(5, 4, generator=generator)
    for start, fall in ((1.0, 0.5), (0.2, 3.0)):
        values = [
            DROLoss(2.0, epsilons=torch.full((5,), e)).to_centroids(features, targets, centroids)
            for e in (start, start - fall)
        ]
        assert 0 < values[0] - values[1] <= fall / 2.0


def test_only_learned_margins_have_a_course(table):
    [result] = table[Cell(ROW, CUT, "float32", "test")].values()
    course = margin_course(result.chain.run)
    assert (course.start, course.means, course.losses) == (1.0, [0.6, -0.2], [3.0, 1.0])
    control = table[Cell(CONTROL, CUT, "float32", "test")][0]
    assert margin_course(control.chain.run) is None


def sentences(table):
    return [s for found in findings(table, sorted(table)).values() for s in found]


def test_every_finding_is_of_its_numbers(table):
    said = sentences(table)
    assert any(
        s.startswith("Cross-entropy (`ce`) gives 39.00 by `test`, 200 epochs, +0.70 to the")
        and "2 seeds, standard deviation 1.41" in s
        and s.endswith("the published number is reached.")
        for s in said
    )
    [last] = [s for s in said if " by `last`, 200 epochs, -1.80 to the published" in s]
    assert "not reached" in last
    [short] = [s for s in said if "gives 45.00 by `test`" in s]
    assert "(cut short), -2.30 to the published 47.3" in short and "says nothing" in short
    [robust] = [s for s in said if "the robust loss adds" in s and "`test`" in s]
    assert "**+1.00** points (`dro_lt` 45.00, `control` 44.00; one seed: no deviation" in robust
    assert "over the same test images 0.99" in robust and "cannot tell it from nothing" in robust
    assert "NCM of the features +1.00 (45.00, 44.00)" in robust
    [course] = [s for s in said if s.startswith("The mean margin of `dro_lt`")]
    assert "-0.600 an epoch over 2 feature epochs, from 1 to -0.20" in course
    assert "falls below zero after epoch 2" in course
    # From 0.8 to 0.2 in the middle of the epochs, of a fall by 2.
    assert "falls by 2.00" in course and "at most 30 %" in course


def test_no_finding_compares_runs_of_different_length(table, tmp_path):
    other = Length(200, 3, 1)
    write_run(tmp_path, CONTROL, [1.0] * 4, length=other)
    longer = tabulate(collect([tmp_path]).chains)
    del longer[Cell(CONTROL, CUT, "float32", "test")]
    said = "\n".join(sentences(longer))
    assert "the robust loss adds" not in said and "all of stage 2 adds" in said


def test_a_run_cut_short_is_compared_with_the_published_only_where_none_is_whole(tmp_path):
    write_run(tmp_path / "short", CE, [10.0] * 4, length=Length(4))
    said = "\n".join(sentences(tabulate(collect([tmp_path]).chains)))
    assert "gives 10.00 by `test`, 4 epochs (cut short)" in said
    write_run(tmp_path / "whole", CE, [20.0] * 200, length=Length(200), seed=1)
    said = "\n".join(sentences(tabulate(collect([tmp_path]).chains)))
    assert "gives 20.00 by `test`, 200 epochs" in said and "gives 10.00" not in said


def test_a_clear_difference_of_several_seeds_is_called_so(tmp_path):
    for seed in range(3):
        write_run(tmp_path, CE, [1.0] * 199 + [30.0], length=FULL, seed=seed)
        for row, top1 in ((ROW, 90 + seed), (CONTROL, 10)):
            write_run(
                *(tmp_path, row, [1.0, 1.0, float(top1)]),
                **{"length": CUT, "seed": seed, "preds": predictions(top1)},
            )
    said = sentences(tabulate(collect([tmp_path]).chains))
    [robust] = [s for s in said if "the robust loss adds" in s and "`test`" in s]
    assert "**+81.00**" in robust and "3 seeds, standard deviation 1.00" in robust
    assert ": more than twice the standard error of" in robust and "one seed" not in robust


def test_nothing_is_said_of_an_empty_table():
    assert sentences({}) == []


def test_the_published_numbers_are_those_of_the_reference():
    assert (
        PUBLISHED["cifar100", 100, "dro_lt"]
        == PUBLISHED["cifar100", 100, "dro_lt_released"]
        == 47.3
    )
    assert PUBLISHED["cifar100", 10, "dro_lt"] == 63.4 and PUBLISHED["cifar100", 100, "ce"] == 38.3


def test_the_page_tells_all(tmp_path, table, no_figures):
    runs = collect([tmp_path])
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "COMMENTS.md").write_text("A remark *by hand*.\n")
    page = write_results(runs, tmp_path / "results").read_text()
    tops = "39.00 ± 1.41 (2) | 36.50 ± 0.71 (2) | not run"
    assert f"| cross-entropy | `ce` | 200 | float32 | {tops} |" in page
    assert "| `dro_lt` | 200, 2+1, **cut short** | float32 | 45.00 (1) |" in page
    assert "## Comments\n\nA remark *by hand*.\n" in page
    for sentence in sentences(table):
        assert sentence in page
    not_run = page.split("## Not run")[1].split("## How")[0]
    for text in ("`dro_lt`", "`ce` (seeds by test: 2, last: 2)", "make table SEEDS=0,1,2"):
        assert text in not_run
    assert "0ddba11" in page and "- 5 runs on abacus" in page
    assert "training images of 5 runs on CIFAR-100-LT, r = 100: not recorded" in page
    for name in ("cifar100_100_top1.png", "cifar100_100_margins.png", "cifar100_100_epochs.png"):
        assert f"](figures/{name})" in page and (tmp_path / "results" / "figures" / name).is_file()


def test_the_same_records_give_the_same_files_in_any_order(tmp_path, table):
    collection = collect([tmp_path])
    write_results(collection, tmp_path / "a")
    random.Random(0).shuffle(collection.chains)
    write_results(collection, tmp_path / "b")
    for name in ("RESULTS.md", "table.json", "figures/cifar100_100_top1.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_records_are_kept_without_the_paths_of_the_machine(tmp_path, table, no_figures):
    write_results(collect([tmp_path]), tmp_path / "results")
    kept = list((tmp_path / "results" / "runs").rglob("args.json"))
    assert len(kept) == 5
    for path in kept:
        assert str(tmp_path) not in path.read_text()
    assert collect([tmp_path / "results" / "runs"]).others == []
