"""Which method for these images? Whole tiny comparisons on other data than the paper's."""

import json
import shlex
from pathlib import Path

import pytest

from tests.support.helpers import write_tree
from tests.support.tables import called
from utils.options.parse import parse_stages

pytestmark = pytest.mark.usefixtures("no_figures")

TINY = ("--dataset", "cifar10", "--arch", "resnet8", "--imb_factor", 0.5, "--augment", "none")
ROWS = "ce,classifier_only,control"


def reproduce(folder, *extra):
    """A tiny comparison on the images in `folder/images`."""
    places = ("--root", folder / "checkpoint", "--results", folder / "comparison")
    shared = ("--data_root", folder / "images", *TINY, *places)
    return called([*shared, "--rows", ROWS, "--stage1", 1, "--stage2", "1+1", *extra])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_tree(folder / "images", train=8, test=2)
    outcome = reproduce(folder)
    assert outcome.status == 0, outcome.err
    return folder, outcome


def test_the_time_is_told_beforehand_from_measured_epochs(made):
    _, outcome = made
    told = outcome.out.index("estimate: the 3 runs will take about ")
    assert told < outcome.out.index("[1/3]")


def test_a_stage_1_of_few_steps_is_warned_of(made):
    _, outcome = made
    warnings = [line for line in outcome.err.splitlines() if "reproduce: warning" in line]
    assert len(warnings) == 1
    assert "stage 1 has only 1 steps" in warnings[0] and "--stage1 1000 gives 1000" in warnings[0]


def test_rows_are_ranked_by_held_out_images(made):
    folder, outcome = made
    assert f"table: {folder / 'comparison' / 'page.html'}" in outcome.out
    page = (folder / "comparison" / "RESULTS.md").read_text()
    ranking = page.split("## Which method? CIFAR-10, 1, 1+1 epochs, float32")[1].split("```")[0]
    assert (
        "ranked by their balanced accuracy on **held-out images**, the mean over the classes."
        in " ".join(ranking.split())
    )
    ranked = [line.split(" | ") for line in ranking.splitlines() if line.startswith("| `")]
    assert {line[0].strip("| `") for line in ranked} == set(ROWS.split(","))
    accuracies = [float(line[2].split()[0]) for line in ranked]
    assert accuracies == sorted(accuracies, reverse=True)
    for path in (folder / "comparison" / "runs").rglob("summary.json"):
        summary = json.loads(path.read_text())
        heldout = summary["heldout"]["last"]["linear"]
        [line] = [line for line in ranked if line[0] == f"| `{path.parent.parent.name}`"]
        assert float(line[2].split()[0]) == pytest.approx(heldout["balanced"], abs=0.006)
        assert line[8] == f"{summary['parameters']:,}"


def test_the_winners_command_trains_what_won(made):
    folder, _ = made
    page = (folder / "comparison" / "RESULTS.md").read_text()
    command = page.split("```sh\n")[1].split("\n```")[0]
    words = shlex.split(command)
    assert words[:2] == ["python", "main.py"]
    stages = parse_stages(words[2:])
    winner = page.split("`, the first row:")[0].split("`")[-1]
    assert words[words.index("--recipe") + 1] == winner
    for options in stages:
        assert (options.dataset, options.arch, options.select_on) == ("cifar10", "resnet8", "last")
        assert (options.imb_factor, options.augment) == (0.5, "none")
    assert stages[0].epochs == 1


def test_the_command_of_a_row_that_an_earlier_call_has_trained_stays(made):
    folder, _ = made
    page = folder / "comparison" / "RESULTS.md"
    before = page.read_bytes()
    for row in ROWS.split(","):
        assert reproduce(folder, "--rows", row).status == 0
        assert page.read_bytes() == before


def test_a_second_time_nothing_is_run_and_nothing_measured(made, monkeypatch):
    folder, _ = made
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: pytest.fail(str(argv)))
    outcome = reproduce(folder)
    assert outcome.status == 0 and outcome.out.count(": recorded") == 3


def test_other_shared_flags_are_another_comparison(made, tmp_path):
    folder, _ = made
    outcome = reproduce(folder, "--batch-size", 32, "--dry-run")
    assert outcome.status == 0 and outcome.out.count(": to run") == 3
    assert reproduce(folder, "--dry-run", "--gpu", 0).out.count(": recorded") == 3


def test_a_distilled_row_trains_its_teacher_and_learns_from_it(tmp_path):
    """The flags for all runs have a smaller network, for the teacher too."""
    write_tree(tmp_path / "images", train=8, test=2)
    small = ("--data_root", tmp_path / "images", *TINY)
    places = ("--root", tmp_path / "checkpoint", "--results", tmp_path / "comparison")
    outcome = called([*small, *places, "--rows", "bs_distilled", "--stage1", 1])
    assert outcome.status == 0, outcome.err
    filed = {
        path.parent.parent.name: json.loads(path.read_text())
        for path in (tmp_path / "comparison" / "runs").rglob("args.json")
    }
    assert set(filed) == {"bs_resnet56", "bs_distilled"}
    assert filed["bs_resnet56"]["teacher"] is None
    made = {
        json.loads(path.read_text())["recipe"]: path.parent
        for path in (tmp_path / "checkpoint").rglob("args.json")
    }
    own = json.loads((made["bs_distilled"] / "args.json").read_text())
    assert Path(own["teacher"]) == made["bs_resnet56"] / "ckpt.pth.tar"
    page = (tmp_path / "comparison" / "RESULTS.md").read_text()
    assert all(f"| `{row}` |" in page for row in ("bs_resnet56", "bs_distilled"))
