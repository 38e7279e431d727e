"""The page: what stands on it is what the records say."""

import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.support.table_records import CIFAR100, cell_of, frame_of, predictions, write_run
from utils.options.data_paths import holds_outputs
from utils.report.figures import POINT_MARKERS
from utils.reproduce.comparisons import comparisons
from utils.reproduce.document import write_results
from utils.reproduce.drawing import by_part_and_length, draw
from utils.reproduce.plan import PROTOCOLS, DataSet, Length

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


@pytest.mark.parametrize(
    ("lengths", "tables"),
    [
        ({"dro_lt": CUT, "control": CUT}, ["what is added"]),
        ({"ce": FULL}, ["published number"]),
        ({"ce": Length(20)}, []),
    ],
    ids=str,
)
def test_the_answer_has_no_table_without_a_line(lengths, tables, tmp_path, no_figures):
    for row, length in lengths.items():
        epochs = 3 if length == CUT else length.stage_1
        write_run(tmp_path, row, [40.0] * epochs, length=length, preds=predictions(40))
    answer = write_results(tmp_path, {}).read_text().split("## How to read")[0]
    assert re.findall(r"^\| (.+), by test \|", answer, re.MULTILINE) == tables
    assert ("### CIFAR-100-LT, r = 100\n\n| " in answer) == bool(tables)
    assert answer.count("###") == bool(tables)


def test_a_line_of_the_table(made):
    page = write_results(made, {}).read_text()
    lines = {line[0] + line[2]: line for line in rows_of(page, "\n## CIFAR-100-LT, r = 100")}
    assert lines["`ce`200"] == [
        *("`ce`", "cross-entropy", "200", "float32", "2"),
        *("39.00 ± 1.41", "36.50 ± 0.71", "not run", "38.3", "", "42,000", "10 s"),
    ]
    short = lines["`dro_lt`200, 2+1, **cut short**"]
    assert short[5:9] == ["45.00", "not run", "not run", "47.3"]


def test_a_protocol_with_other_seeds_than_the_line_tells_its_own(tmp_path, no_figures):
    for seed, top1 in ((0, 44.0), (1, 46.0)):
        write_run(tmp_path, "dro_lt", [1.0, 1.0, top1], length=CUT, seed=seed)
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 43.0], length=CUT, protocol="last")
    page = write_results(tmp_path, {}).read_text()
    [line] = rows_of(page, "\n## CIFAR-100-LT, r = 100")[1:]
    assert line[4:8] == ["2", "45.00 ± 1.41", "43.00 (seeds: 1)", "not run"]


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
    assert margins[2] == "float32"
    assert margins[3:] == ["1.00", "-0.20", "-0.600", "2", "2.00", "30 %"]
    [published] = [r for r in rows_of(page, "### Published numbers") if r[3] == "last"]
    assert published[:3] == ["`ce`", "38.3", "36.50"] and published[5] == "float32"
    assert published[6].startswith("-1.80")


def test_what_is_not_run_is_told_with_the_command_that_runs_it(made):
    page = write_results(made, {}).read_text()
    not_run = page.split("## Not run")[1].split("## How")[0]
    for text in ("`dro_lt`", "`ce` (seeds by test: 2, last: 2)", "make table SEEDS=0,1,2"):
        assert text in not_run
    made_by = page.split("## How it was made")[1]
    assert "- 5 runs on abacus" in made_by and "0ddba11" in made_by
    assert cell_of("dro_lt", CUT).record.as_posix() in made_by


@pytest.mark.parametrize("heldout", [None, [1.0] * 200], ids=["two of three", "all"])
def test_a_row_is_run_if_it_has_three_seeds_by_every_protocol(heldout, tmp_path, no_figures):
    for seed in range(3):
        write_run(tmp_path, "ce", [1.0] * 200, heldout=heldout, length=FULL, seed=seed)
    not_run = write_results(tmp_path, {}).read_text().split("## Not run")[1]
    [line] = [line for line in not_run.splitlines() if line.startswith(f"| {CIFAR100.title} |")]
    assert ("`ce` (seeds by test: 3, last: 3)" in line) == ("`ce`" in line) == (heldout is None)


def test_the_forest_plot_is_drawn_and_shown(made):
    page = write_results(made, {}).read_text()
    name = "figures/cifar100_100_forest.png"
    assert f"]({name})" in page and (made / name).stat().st_size > 5000
    assert holds_outputs(made)  # so the figure is no photograph


def test_a_line_of_the_forest_plot_has_the_protocols_and_the_most_seeds(tmp_path):
    for seed in (0, 1):
        for row, top1 in (("dro_lt", 45.0), ("control", 44.0)):
            tops = [1.0, 1.0, top1]
            write_run(tmp_path, row, tops, length=CUT, seed=seed, start_seed=0)
    for row, top1 in (("bs", 50.0), ("ce", 40.0)):
        arrays = {"preds": predictions(top1), "heldout": [1.0] * 20}
        write_run(tmp_path, row, [top1] * 20, length=Length(20), **arrays)
    groups = by_part_and_length(comparisons(frame_of(tmp_path)))
    found = {lines[0]["what"]: lines for lines in groups}
    assert [len(line["seeds"]) for line in found["the robust loss"]] == [2]
    of_bs = found["balanced softmax and its recipe over cross-entropy"]
    assert {line["protocol"] for line in of_bs} == {"test", "last", "heldout"}


def test_a_point_of_the_forest_plot_has_the_marker_of_its_protocol(tmp_path):
    for row, top1 in (("dro_lt", 45.0), ("control", 44.0)):
        tops, preds = [1.0, 1.0, top1], predictions(top1)
        write_run(tmp_path, row, tops, length=CUT, protocol="last", preds=preds)
    axes = Figure(layout="constrained").subplots()
    draw(axes, by_part_and_length(comparisons(frame_of(tmp_path))), "")
    [point] = (container.lines[0] for container in axes.containers)
    assert point.get_marker() == POINT_MARKERS[PROTOCOLS.index("last")]
    assert point.get_xdata() == [1.0]


def test_the_forest_plot_marks_what_is_compared_across_precisions(tmp_path):
    write_run(tmp_path, "ce", [30.0] * 200, length=CUT, precision="bf16")
    for row, precision in (
        *(("dro_lt", "bf16+float32"), ("control", "bf16")),
        *(("dro_lt_shared", "bf16+float32"), ("dro_lt_bounded", "bf16")),
    ):
        tops, preds = [1.0, 1.0, 45.0], predictions(45.0)
        write_run(tmp_path, row, tops, length=CUT, precision=precision, preds=preds)
    axes = Figure(layout="constrained").subplots()
    draw(axes, by_part_and_length(comparisons(frame_of(tmp_path))), "")
    names = {label.get_text().split(" (")[0] for label in axes.get_yticklabels()}
    assert {"the robust loss*", "all of stage 2*"} <= names
    assert {"learned margins over one shared margin"} <= names
    assert {"the robust loss, margins bounded at zero"} <= names
    assert axes.get_xlabel().endswith("* between two precisions")


def test_subsets_of_one_title_have_lines_of_their_own_in_the_forest_plot(tmp_path):
    def lines_of(*data_sets):
        for data in data_sets:
            for row, top1 in (("dro_lt", 45.0), ("control", 44.0)):
                tops, preds = [1.0, 1.0, top1], predictions(top1)
                write_run(tmp_path, row, tops, length=CUT, data=data, preds=preds)
        axes = Figure(layout="constrained").subplots()
        groups = by_part_and_length(comparisons(frame_of(tmp_path)))
        draw(axes, groups, "")
        return [len(lines) for lines in groups], [t.get_text() for t in axes.get_yticklabels()]

    label = "the robust loss (200, 2+1, 1 seed"
    assert lines_of(CIFAR100) == ([1], [f"{label})"])
    other = DataSet("cifar100", 100, "beefbeef")
    labels = [f"{label}, subset {subset})" for subset in (CIFAR100.subset, "beefbeef")]
    assert lines_of(other) == ([1, 1], labels)


def test_subsets_are_told_where_there_is_more_than_one(made, no_figures):
    assert "float32, subset" not in write_results(made, {}).read_text()
    other = DataSet("cifar100", 100, "beefbeef")
    write_run(made, "ce", [20.0] * 200, length=FULL, seed=1, data=other)
    page = write_results(made, {}).read_text()
    assert "float32, subset beefbeef" in page and f"subset {CIFAR100.subset}" in page
    for title, column in (("### Published numbers", 5), ("### The learned margins", 2)):
        precisions = [line[column] for line in rows_of(page, title)[1:]]
        assert f"float32, subset {CIFAR100.subset}" in precisions, title
    [robust] = [r for r in rows_of(page, "### What each part adds") if r[0] == "the robust loss"]
    assert robust[5] == f"float32, subset {CIFAR100.subset}"


def test_several_seeds_of_stage_2_replace_the_one_that_they_include(made, no_figures):
    for seed in (1, 2):
        tops = [1.0, 1.0, 45.0 + seed]
        write_run(made, "dro_lt", tops, length=CUT, seed=seed, start_seed=0)

    def lines():
        page = write_results(made, {}).read_text()
        rows = rows_of(page, "\n## CIFAR-100-LT, r = 100")
        return [line[4:7] for line in rows if line[0] == "`dro_lt`"]

    of_stage_2 = ["3 of stage 2 from seed 0", "46.00 ± 1.00", "not run"]
    assert lines() == [of_stage_2]
    # By last there are none of stage 2, so the chain's line stays.
    write_run(made, "dro_lt", [1.0, 1.0, 43.0], length=CUT, protocol="last")
    assert sorted(lines()) == [["1", "45.00", "43.00"], of_stage_2]


OWN = DataSet("folder", 0, "beef0123")


def own_runs(root, seed=0, data=OWN, **heldout):
    """Runs by last on other data, of the same accuracy on the test set."""
    for row, accuracy in heldout.items():
        tops = [1.0] * (2 if row == "ce" else 3)
        lasts = [accuracy] * len(tops)
        of_cell = {"data": data, "protocol": "last", "seed": seed}
        write_run(root, row, tops, heldout=lasts, **of_cell)
    return root


def test_other_data_are_ranked_first_and_the_winner_has_its_command(tmp_path, no_figures):
    own_runs(tmp_path, ce=30.0, control=50.0, dro_lt=40.0)
    winner = cell_of("control", data=OWN, protocol="last")
    write_results(tmp_path, {winner: "python main.py the command"})
    page = (tmp_path / "RESULTS.md").read_text()
    assert "This trains `control`, the first row:\n\n```sh\npython main.py the" in page
    ranked = [
        r for r in rows_of(page, "## Which method? Images in a folder, 2, 2+1 epochs, float32")
    ][1:]
    ranked = [line for line in ranked if "`" in line[0]]
    assert [line[0] for line in ranked] == ["`control`", "`dro_lt`", "`ce`"]
    # Of 200 images: 50 +- 1.97 sqrt(50 * 50 / 200) percent.
    assert ranked[0][2:6] == ["50.00 [43.03, 56.97]", "", "1.00", "-4.00"]
    assert ranked[1][3].startswith("-10.00 [")
    alone = "With one seed they are over the images alone, and do not say how runs vary;"
    assert alone in " ".join(page.split("- **Intervals**")[1].split())
    assert "## Not run" not in page and "cut short" not in page.split("## Images in a folder")[1]


@pytest.mark.parametrize("now", ["aaaa0123", "beef0123"])
def test_of_two_comparisons_todays_comes_first_and_both_say_what_they_trained(
    now, tmp_path, no_figures
):
    for subset in ("aaaa0123", "beef0123"):
        own_runs(tmp_path, ce=30.0, control=50.0, data=DataSet("folder", 0, subset))
    winner = cell_of("control", data=DataSet("folder", 0, now), protocol="last")
    write_results(tmp_path, {winner: "python main.py the command"})
    page = (tmp_path / "RESULTS.md").read_text()
    headings = re.findall(r"^## Which method\? .* epochs, (.*)$", page, re.MULTILINE)
    assert set(headings) == {"float32, subset aaaa0123", "float32, subset beef0123"}
    assert headings[0] == f"float32, subset {now}"
    said = "`control` trained `resnet32` in batches of 128, on 210 images of 2 classes in `./data`."
    assert f"Subset {now}: {said}" in " ".join(page.split("## Which method?")[1].split())


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        ((), "which count as independent.\n"),
        (("control", "dro_lt"), "compared image by image where both rows have recorded "),
        (("ce", "control", "dro_lt"), "compared image by image.\n"),
    ],
    ids=["none", "some", "all"],
)
def test_the_page_says_how_held_out_images_are_compared(recorded, says, tmp_path, no_figures):
    own_runs(tmp_path, ce=30.0, control=50.0, dro_lt=40.0)
    for row in recorded:
        [folder] = tmp_path.glob(f"runs/*/{row}/*")
        arrays = {"heldout_labels": np.zeros(4, int), "heldout_last_preds": np.arange(4)}
        np.savez(folder / "predictions.npz", **arrays)
    write_results(tmp_path, {})
    page = (tmp_path / "RESULTS.md").read_text()
    assert f"`control`, on held-out images, {says}" in page


def test_the_page_says_that_a_difference_is_over_the_seeds_of_both_rows(tmp_path, no_figures):
    says = "over the seeds that both rows have"
    own_runs(tmp_path, ce=30.0, control=50.0)
    write_results(tmp_path, {})
    assert says not in (tmp_path / "RESULTS.md").read_text()
    own_runs(tmp_path, control=52.0, seed=1)
    write_results(tmp_path, {})
    assert says in (tmp_path / "RESULTS.md").read_text()


def test_two_rows_are_ranked_and_one_has_its_command_alone(tmp_path, no_figures):
    first, second = (cell_of(row, data=OWN, protocol="last") for row in ("control", "dro_lt"))
    commands = {first: "the first command", second: "the second command"}
    page = write_results(
        own_runs(tmp_path / "two", control=50.0, dro_lt=60.0), commands
    ).read_text()
    assert "held-out, balanced [95 %]" in page and "the second command" in page
    page = write_results(own_runs(tmp_path / "one", control=50.0), commands).read_text()
    assert "held-out, balanced [95 %]" not in page and "the first command" in page


def test_the_page_of_other_data_is_html_that_shows_the_same(tmp_path, no_figures):
    own_runs(tmp_path, ce=30.0, control=50.0)
    winner = cell_of("control", data=OWN, protocol="last")
    path = write_results(tmp_path, {winner: "python main.py --data_root '<b>&' caf\udce9"})
    assert path == tmp_path / "page.html"
    page = path.read_text()
    assert "<td><code>control</code></td>" in page and "<strong>held-out images</strong>" in page
    assert "--data_root '&lt;b&gt;&amp;'" in page and "<b>" not in page
    assert "<details><summary>All cells</summary>" in page and 'name="viewport"' in page


def test_what_a_row_costs_is_what_all_its_runs_cost(made):
    """A class-aware epoch draws as many images as if both classes had 200."""
    write_run(made, "dro_lt_weight", [1.0, 1.0, 45.0], length=CUT, seed=5)
    page = write_results(made, {}).read_text()
    lines = {line[0]: line for line in rows_of(page, "\n## CIFAR-100-LT, r = 100")}
    assert lines["`ce`"][-3:] == ["", "42,000", "10 s"]  # 200 epochs of 210 images
    assert lines["`dro_lt`"][-3:] == ["", "43,200", "20 s"]
    assert lines["`dro_lt_weight`"][-3:] == ["", "", ""]  # no record of the seed's stage 1
    entries = json.loads((made / "table.json").read_text())
    [entry] = [e for e in entries if e["method"] == "dro_lt"]
    assert (entry["images_seen"], entry["seconds"]) == (3 * 400, 10)
    assert (entry["chain_seconds"], entry["parameters"]) == (20, None)


def test_a_summary_that_tells_its_parameters_and_images_is_believed(made, no_figures):
    for path in (made / "runs").glob("*/ce/*/summary.json"):
        summary = json.loads(path.read_text())
        told = {"parameters": 470_000, "images_seen": 3_000_000}
        path.write_text(json.dumps(summary | told))
    page = write_results(made, {}).read_text()
    lines = {line[0]: line for line in rows_of(page, "\n## CIFAR-100-LT, r = 100")}
    assert lines["`ce`"][-3:-1] == ["0.47 M", "3.00 M"] and lines["`dro_lt`"][-2] == "3.00 M"


def test_the_gaps_between_protocols_are_of_the_same_runs(tmp_path, no_figures):
    for seed, last in ((0, 36.0), (1, 37.0)):
        tops, heldout = [1.0] * 197 + [30.0, 38.0, last], [1.0] * 197 + [60.0, 50.0, 40.0]
        write_run(tmp_path, "ce", tops, heldout=heldout, length=FULL, seed=seed)
    page = write_results(tmp_path, {}).read_text()
    [gaps] = rows_of(page, "### What the choice of the epoch changes")[1:]
    assert gaps[3:] == ["any", "2", "+1.50 ± 0.71", "+8.00 ± 0.00", "-6.50 ± 0.71"]
    for entry in json.loads((tmp_path / "table.json").read_text()):
        assert (entry["gap_test_last"], entry["gap_test_heldout"]) == (1.5, 8.0)


def test_a_run_in_which_all_three_epochs_are_equal_has_no_gaps_to_show(tmp_path, no_figures):
    write_run(tmp_path, "ce", [1.0] * 199 + [38.0], heldout=[1.0] * 199 + [40.0], length=FULL)
    assert "choice of the epoch changes" not in write_results(tmp_path, {}).read_text()
    tops, heldout = [1.0] * 198 + [37.0, 38.0], [1.0] * 198 + [60.0, 40.0]
    write_run(tmp_path, "ldam_drw", tops, heldout=heldout, length=FULL)
    page = write_results(tmp_path, {}).read_text()
    [gaps] = rows_of(page, "### What the choice of the epoch changes")[1:]
    assert gaps[0] == "`ldam_drw`" and gaps[-3:] == ["+0.00", "+1.00", "-1.00"]


def test_the_same_records_give_the_same_files(made):
    write_results(made, {})
    shutil.copytree(made / "runs", made / "again" / "runs")
    write_results(made / "again", {})
    for name in ("RESULTS.md", "table.json", "figures/cifar100_100_forest.png"):
        assert (made / name).read_bytes() == (made / "again" / name).read_bytes()


def test_no_runs_give_a_page_that_says_so(tmp_path):
    page = write_results(tmp_path, {}).read_text()
    assert "CIFAR-10-LT, r = 50" in page and (tmp_path / "table.json").read_text().strip() == "[]"
