"""Which method for these images? The table's machinery on other data than the paper's."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.helpers import write_tree
from tests.support.own_images import write_folder
from tests.utils.reproduce.test_runs import called
from utils.options.parse import parse_options, parse_stages
from utils.reproduce.plan import Cell, DataSet, Length
from utils.reproduce.running import few_steps, measured_seconds, users_commands
from utils.reproduce.sharing import with_subset
from utils.runs.folders import run_folder

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


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "wanted"),
    [(257, 128, 30, 334), (1000, 10, 10, None), (1000, 10, 9, 10), (10_000, 128, 30, None)],
)
def test_steps_are_whole_batches_and_a_thousand_are_enough(images, batch, epochs, wanted):
    run = SimpleNamespace(summary={"images_seen": images}, arguments={"batch_size": batch})
    warning = few_steps(run, epochs)
    assert (warning is None) == (wanted is None)
    assert wanted is None or f"--stage1 {wanted} gives 1000" in warning


def test_rows_are_ranked_by_held_out_images(made):
    folder, outcome = made
    assert f"table: {folder / 'comparison' / 'page.html'}" in outcome.out
    page = (folder / "comparison" / "RESULTS.md").read_text()
    ranking = page.split("## Which method? CIFAR-10, 1, 1+1 epochs, float32")[1].split("```")[0]
    assert (
        "ranked by their accuracy on **held-out images**. The test set selects nothing."
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


def test_held_out_images_are_set_aside_where_there_are_none(tmp_path):
    write_folder(tmp_path, counts=(20, 20, 10))
    flags = ["--data_root", str(tmp_path)]
    data, extra = with_subset(DataSet("folder"), flags, Path("none"))
    assert extra == [*flags, "--heldout_fraction", "0.1"] and len(data.subset) == 8
    write_folder(tmp_path / "more", counts=(20, 20, 10), splits=("train", "val", "test"))
    flags = ["--data_root", str(tmp_path / "more")]
    assert with_subset(DataSet("folder"), flags, Path("none"))[1] == flags


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


def test_the_time_of_a_teachers_epochs_is_scaled_to_its_network(monkeypatch):
    """An epoch of each kind takes a second, of the network that all rows share."""

    def one_second_each(argv):
        folder = Path(argv[argv.index("--root_log") + 1])
        for phase in ("pretraining", "features", "classifier"):
            (folder / phase).mkdir()
            record = {"epoch": 1, "phase": phase, "seconds": 1.0}
            (folder / phase / "log.jsonl").write_text(json.dumps(record) + "\n")
        return 0

    monkeypatch.setattr("utils.reproduce.running.run_main", one_second_each)
    length, digits = Length(30, 8, 2), DataSet("digits")
    chain = [
        Cell(digits, "ce", Length(30), "float32", 0),
        Cell(digits, "dro_lt", length, "float32", 0, 0, "last"),
    ]
    assert measured_seconds(chain, []) == 40
    student = Cell(digits, "bs_distilled", Length(30), "float32", 0)
    teacher = measured_seconds([student.teacher], [])
    # By He et al., table 6, the networks have 6n + 2 layers, n = 5 and 9: about 9/5 of the work.
    assert teacher == pytest.approx(30 * 9 / 5, rel=0.05)
    # The student does its own steps and the teacher's forward passes.
    assert measured_seconds([student], []) == pytest.approx(30 + teacher / 3)


def test_the_users_commands_of_a_distilled_row_train_the_teacher_first():
    cell = Cell(DataSet("digits"), "bs_distilled", Length(1), "float32", 0)
    first, second = users_commands(cell, ["--augment", "none"]).splitlines()
    teacher, student = (parse_options(shlex.split(line)[2:]) for line in (first, second))
    assert (teacher.recipe, teacher.arch) == ("bs_resnet56", "resnet56")
    assert student.teacher == str(run_folder(teacher).models / "ckpt.pth.tar")
