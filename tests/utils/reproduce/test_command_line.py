"""`python -m utils.reproduce`: what it refuses, and what it says without running anything."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.helpers import write_tree
from tests.support.table_records import write_run
from tests.support.tables import called, reproduce
from utils.options.parse import parse_options, parse_stages
from utils.reproduce.__main__ import main
from utils.reproduce.plan import DataSet
from utils.reproduce.sharing import with_subset


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data"), train=8, test=2)


def test_a_dry_run_prints_commands_and_makes_nothing(tree, tmp_path):
    outcome = reproduce(tmp_path, tree, "--dry-run", "--seeds", "0,1")
    assert outcome.status == 0 and not list(tmp_path.iterdir())
    commands = [line for line in outcome.out.splitlines() if line.startswith("python main.py")]
    assert len(commands) == 6
    assert all(parse_stages(command.split()[2:]) for command in commands)


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [((), (30, 10, 2)), (("--stage1", 5), (5, 10, 2)), (("--stage2", "9+3"), (30, 12, 3))],
)
def test_own_data_have_a_usual_length_and_flags_change_each_stage_of_it(flags, epochs, tmp_path):
    places = ("--root", tmp_path / "checkpoint", "--results", tmp_path / "comparison")
    outcome = called(["--dataset", "digits", "--rows", "control", "--dry-run", *places, *flags])
    commands = [line for line in outcome.out.splitlines() if line.startswith("python main.py")]
    first, second = (parse_options(shlex.split(command)[2:]) for command in commands)
    assert (first.epochs, second.epochs, second.balanced_clf_nepochs) == epochs


@pytest.mark.parametrize("flags", [["--table-only"], ["--file", "ce=run"]])
def test_a_dry_run_that_would_write_is_refused(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RESULTS.md").write_text("mine")
    assert main([*flags, "--dry-run", "--results", "."]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
    assert (tmp_path / "RESULTS.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rows", "cifar100/100/x"], "'cifar100/100/x' is not a row"),
        (["--dataset", "digits", "--rows", "x"], "'x' is not a row"),
        (["--dataset", "nothing"], "--dataset"),
        (["--seeds", "0,x"], "--seeds"),
        (["--protocols", "test,best"], "unknown protocol 'best'"),
        (["--stage2", "9"], "'9' is not FEATURES+CLASSIFIER"),
        (["--stage1", "0"], "--stage1"),
        (["--epochs", "3"], "--epochs: set by the rows"),
        (["--arch", "resnet20"], "--arch: set by the rows"),
        (["--dataset", "digits", "--epochs", "3"], "--epochs: set by the rows"),
        (["--dataset", "digits", "--arch", "resnet20", "--seed", "3"], "--seed: set by the rows"),
        (["--dataset", "folder", "--data_root", "nowhere"], "nowhere"),
        (["--file", "dro_lt=nowhere"], "nowhere: no such folder"),
        (["--nonsense"], "--nonsense"),
        (["-b64"], "-b: set by the rows"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_run(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1
    assert message.startswith("reproduce: error: ") and not list(tmp_path.iterdir())


def test_a_short_flag_for_all_runs_may_have_its_value_behind_it(tree, tmp_path):
    outcome = reproduce(tmp_path, tree, "--dry-run", "-j4")
    commands = [line for line in outcome.out.splitlines() if line.startswith("python main.py")]
    assert outcome.status == 0 and commands and all(" -j4 " in line for line in commands)


@pytest.mark.parametrize("page", ["RESULTS.md", "page.html"])
@pytest.mark.parametrize("flags", [["--table-only"], ["--dataset", "digits", "--rows", "ce"]])
def test_a_page_of_someone_else_is_kept(page, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / page).write_text("mine")
    assert main([*flags, "--results", "."]) == 2
    message = capsys.readouterr().err
    assert page in message and "--results" in message and message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [page]
    assert (tmp_path / page).read_text() == "mine"


@pytest.mark.parametrize("flags", [[], ["--dataset", "digits", "--rows", "ce"]])
def test_results_that_cannot_be_written_are_refused_before_anything_is_run(
    flags, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: pytest.fail(str(argv)))
    (tmp_path / "file").touch()
    assert main([*flags, "--results", str(tmp_path / "file" / "table")]) == 2
    assert "is not a writable folder" in capsys.readouterr().err


def test_damaged_records_are_refused_before_anything_is_run(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: pytest.fail(str(argv)))
    record = write_run(tmp_path / "results", "ce", [1.0, 2.0]) / "args.json"
    record.unlink()
    outcome = reproduce(tmp_path, tree)
    assert outcome.status == 2 and "no args.json" in outcome.err


def test_a_comparison_in_which_every_row_fails_has_no_page(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: 1)
    monkeypatch.setattr("utils.reproduce.__main__.measured_seconds", lambda cells, extra: 1.0)
    places = ["--root", tmp_path / "checkpoint", "--results", tmp_path / "comparison"]
    outcome = called(["--dataset", "digits", "--rows", "ce,bs", *places])
    assert outcome.status == 1 and outcome.err.count("reproduce: failed: ") == 2
    assert "table:" not in outcome.out and not list(tmp_path.rglob("RESULTS.md"))


def test_the_first_row_of_an_earlier_comparison_has_no_command_of_todays(tmp_path, no_figures):
    today, _ = with_subset(DataSet("digits"), [], tmp_path / "runs")
    for data in (today, replace(today, subset="aaaa0123")):
        write_run(tmp_path, "ce", [1.0, 2.0], heldout=[1.0, 2.0], data=data)
    argv = ["--dataset", "digits", "--rows", "ce", "--stage1", 2, "--results", tmp_path]
    assert called(argv).status == 0
    _, first, second = (tmp_path / "RESULTS.md").read_text().split("## Which method?")
    assert f"subset {today.subset}" in first and "This trains `ce`" in first
    assert "subset aaaa0123" in second and "This trains" not in second


@pytest.mark.parametrize("status", [129, 130, 141, 143])
@pytest.mark.parametrize("flags", [(), ("--dataset", "digits", "--rows", "ce")])
def test_an_interrupted_run_or_estimate_ends_the_comparison_with_its_status(
    flags, status, tree, tmp_path, monkeypatch
):
    commands = []

    def run_main(argv):
        commands.append(argv)
        return status

    monkeypatch.setattr("utils.reproduce.running.run_main", run_main)
    assert reproduce(tmp_path, tree, *flags).status == status
    assert len(commands) == 1 and not list(tmp_path.rglob("table.json"))
