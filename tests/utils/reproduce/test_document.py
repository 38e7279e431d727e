"""The page: what stands on it is what the records say."""

import shutil

import pytest

from tests.support.table_records import CIFAR100, cell_of, predictions, write_run
from utils.reproduce.plan import DataSet, Length
from utils.reproduce.writing import write_results

FULL, CUT = Length(200, 80, 20), Length(200, 2, 1)


@pytest.fixture
def made(tmp_path):
    """Two seeds of cross-entropy at full length; one of DRO-LT and two of its control cut short."""
    for seed, top1 in ((0, 38.0), (1, 40.0)):
        tops = [1.0] * 198 + [top1, 36.0 + seed]
        write_run(tmp_path, "ce", tops, length=FULL, seed=seed)
    margins = {"margins": [0.6, -0.2, -0.2], "robust": [3.0, 1.0, 1.0]}
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 45.0], length=CUT, preds=predictions(45), **margins)
    for seed, top1 in ((0, 44.0), (1, 60.0)):
        preds = predictions(44) if seed == 0 else None
        tops = [1.0, 1.0, top1]
        write_run(tmp_path, "control", tops, length=CUT, seed=seed, preds=preds)
    return tmp_path


def rows_of(page, title):
    """The cells of the first table below a heading."""
    body = page.split(f"{title}\n", 1)[1]
    table = body[body.index("\n| ") + 1 :].split("\n\n", 1)[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in line[2:-2].split(" | ")] for line in lines]


def test_the_page_begins_with_the_answer(made):
    page = write_results(made, {}).read_text()
    assert page.index("## The answer") < page.index("## How to read") < page.index("## Not run")
    answers = rows_of(page, "### CIFAR-100-LT, r = 100")
    [robust] = [line for line in answers if line[0] == "the robust loss"]
    # One image of a hundred differs: an error of 1 point, times 1.98.
    assert robust[1:5] == ["`dro_lt` 45.00", "`control` 44.00", "200, 2+1", "1"]
    assert robust[5:] == ["**+1.00 [-0.98, +2.98]**", "images"]


def test_a_line_of_the_table(made):
    page = write_results(made, {}).read_text()
    lines = {line[0] + line[2]: line for line in rows_of(page, "\n## CIFAR-100-LT, r = 100")}
    assert lines["`ce`200"] == [
        *("`ce`", "cross-entropy", "200", "float32", "2"),
        *("39.00 ± 1.41", "36.50 ± 0.71", "not run", "38.3"),
    ]
    short = lines["`dro_lt`200, 2+1, **cut short**"]
    assert short[5:] == ["45.00", "not run", "not run", "47.3"]


def test_every_cell_is_among_the_details_and_marked_where_its_features_were_chosen(made):
    write_run(made, "dro_lt", [1.0, 1.0, 46.0], length=CUT, protocol="last")
    page = write_results(made, {}).read_text()
    details = rows_of(page, "<details><summary>All cells</summary>")
    finals = {(line[0], line[4]): line[12] for line in details if len(line) > 12}
    assert finals["`ce`", "test"] == "36.50"
    assert finals["`dro_lt`", "test"] == "45.00 ‡" and finals["`dro_lt`", "last"] == "46.00"


def test_margins_and_comparisons_stand_in_tables(made):
    page = write_results(made, {}).read_text()
    [margins] = [r for r in rows_of(page, "### The learned margins") if r[0] == "`dro_lt`"]
    assert margins[2:] == ["1.00", "-0.20", "-0.600", "2", "2.00", "30 %"]
    [published] = [r for r in rows_of(page, "### Published numbers") if r[3] == "last"]
    assert published[:3] == ["`ce`", "38.3", "36.50"] and published[5].startswith("-1.80")


def test_what_is_not_run_is_told_with_the_command_that_runs_it(made):
    page = write_results(made, {}).read_text()
    not_run = page.split("## Not run")[1].split("## How")[0]
    for text in ("`dro_lt`", "`ce` (seeds by test: 2, last: 2)", "make table SEEDS=0,1,2"):
        assert text in not_run
    made_by = page.split("## How it was made")[1]
    assert "- 5 runs on abacus" in made_by and "0ddba11" in made_by
    assert cell_of("dro_lt", CUT).record.as_posix() in made_by


def test_the_figures_are_drawn_and_shown(made):
    page = write_results(made, {}).read_text()
    for kind in ("forest", "top1", "epochs", "margins"):
        name = f"figures/cifar100_100_{kind}.png"
        assert f"]({name})" in page and (made / name).stat().st_size > 5000


def test_subsets_are_told_where_there_is_more_than_one(made, no_figures):
    assert "float32, subset" not in write_results(made, {}).read_text()
    other = DataSet("cifar100", 100, "beefbeef")
    write_run(made, "ce", [20.0] * 200, length=FULL, seed=1, data=other)
    page = write_results(made, {}).read_text()
    assert "float32, subset beefbeef" in page and f"subset {CIFAR100.subset}" in page


def test_several_seeds_of_stage_2_replace_the_one_that_they_include(made, no_figures):
    for seed in (1, 2):
        tops = [1.0, 1.0, 45.0 + seed]
        write_run(made, "dro_lt", tops, length=CUT, seed=seed, start_seed=0)
    page = write_results(made, {}).read_text()
    lines = [r for r in rows_of(page, "\n## CIFAR-100-LT, r = 100") if r[0] == "`dro_lt`"]
    assert [line[4:6] for line in lines] == [["3 of stage 2 from seed 0", "46.00 ± 1.00"]]


def test_other_data_are_ranked_first_and_the_winner_has_its_command(tmp_path, no_figures):
    own = DataSet("folder", 0, "beef0123")
    for row, heldout in (("ce", 30.0), ("control", 50.0), ("dro_lt", 40.0)):
        epochs = 2 if row == "ce" else 3
        tops = [1.0] * epochs
        write_run(tmp_path, row, tops, heldout=[heldout] * epochs, data=own, protocol="last")
    winner = cell_of("control", data=own, protocol="last")
    page = write_results(tmp_path, {winner: "python main.py the command"}).read_text()
    assert "python main.py the command" in page
    ranked = [r for r in rows_of(page, "### Which method? 2, 2+1 epochs, float32") if "`" in r[0]]
    assert [line[0] for line in ranked] == ["`control`", "`dro_lt`", "`ce`"]
    assert ranked[0][2:5] == ["50.00", "", "1.00"] and ranked[1][3].startswith("-10.00 [")
    assert "Nothing that was asked for" in page and "cut short" not in page.split("## folder")[1]


def test_the_same_records_give_the_same_files(made):
    write_results(made, {})
    shutil.copytree(made / "runs", made / "again" / "runs")
    write_results(made / "again", {})
    for name in ("RESULTS.md", "table.json", "figures/cifar100_100_forest.png"):
        assert (made / name).read_bytes() == (made / "again" / name).read_bytes()


def test_no_runs_give_a_page_that_says_so(tmp_path):
    page = write_results(tmp_path, {}).read_text()
    assert "CIFAR-10-LT, r = 50" in page and (tmp_path / "table.json").read_text().strip() == "[]"
