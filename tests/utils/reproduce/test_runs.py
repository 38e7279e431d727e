"""Whole tiny tables: what is missing is run, an interruption costs nothing, failures are told."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.faults import disk_full_for, interrupted_at_check
from tests.support.helpers import REPOSITORY, Outcome, snapshot, without_gpus, write_tree
from utils.export.__main__ import main as export
from utils.reproduce.__main__ import main

pytestmark = pytest.mark.usefixtures("no_figures")

ROWS = "cifar10/2/ce,cifar10/2/control,cifar10/2/dro_lt"
TIMES = {"seconds"}


def reproduce(folder: Path, tree: Path, *extra: object, rows: str = ROWS) -> Outcome:
    """The tiny table in this process: runs below `folder/checkpoint`, results beside them."""
    argv = ["--rows", rows, "--stage1", 1, "--stage2", "1+1", "--protocols", "test,last"]
    argv += ["--root", folder / "checkpoint", "--results", folder / "results"]
    argv += ["--data_root", tree, *extra]
    out, err = io.StringIO(), io.StringIO()
    with (
        without_gpus(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = main([str(argument) for argument in argv])
    return Outcome(status, out.getvalue(), err.getvalue())


def table_of(folder: Path) -> list[dict]:
    """`table.json` without what the clock decides."""
    entries = json.loads((folder / "results" / "table.json").read_text())
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in entries]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Smaller than the other tests' data: the rows have a ResNet-32."""
    return write_tree(tmp_path_factory.mktemp("data"), train=6, test=2)


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory) -> Path:
    """A finished tiny table of one seed; for reading."""
    folder = tmp_path_factory.mktemp("table")
    outcome = reproduce(folder, tree)
    assert outcome.status == 0, outcome.err
    return folder


def test_the_table_has_a_cell_for_every_row_and_protocol(made):
    cells = {(e["method"], e["protocol"]) for e in table_of(made)}
    methods = ("ce", "control", "dro_lt")
    assert cells >= {(m, p) for m in methods for p in ("test", "last")}
    for entry in table_of(made):
        assert (entry["dataset"], entry["ratio"], entry["seeds"]) == ("cifar10", 2, 1)
        assert entry["top1_std"] is None and 0 <= entry["top1_mean"] <= 100
        assert entry["length"] == ("1" if entry["method"] == "ce" else "1, 1+1")
        assert not entry["is_full_length"]


def test_an_entry_is_what_the_runs_own_summary_says(made):
    for entry in table_of(made):
        found = []
        for path in (made / "checkpoint").rglob("summary.json"):
            summary, arguments = json.loads(path.read_text()), path.with_name("args.json")
            method = {None: "ce", "ce_lt": "control"}.get(
                json.loads(arguments.read_text())["feat_loss"], "dro_lt"
            )
            if method == entry["method"] and summary["selected_on"] == entry["protocol"]:
                found.append(summary["test"]["selected"])
        if found:
            [selected] = found
            assert entry["top1_mean"] == pytest.approx(selected["linear"]["top1"], abs=1e-4)
            assert entry["ncm"] == pytest.approx(selected["ncm"]["top1"], abs=1e-4)


def test_one_stage_1_serves_all_rows_and_chains_that_coincide_share_a_run(made):
    """Of phases of one epoch each, the best epoch and the last are the same."""
    assert len(list((made / "checkpoint").glob("*/args.json"))) == 1
    assert len(list((made / "checkpoint").glob("*/robust_*/args.json"))) == 2


def test_a_protocol_has_a_run_of_its_own_where_it_is_asked_for_alone(made, tree, tmp_path):
    shutil.copytree(made / "checkpoint", tmp_path / "checkpoint")
    for path in (tmp_path / "checkpoint").glob("*/robust_*"):
        shutil.rmtree(path)
    outcome = reproduce(tmp_path, tree, "--protocols", "last", rows="cifar10/2/control")
    assert outcome.status == 0, outcome.err
    [folder] = (tmp_path / "checkpoint").glob("*/robust_*")
    assert folder.name.endswith("_select_on=last")


def test_a_finished_table_runs_nothing_again(made, tree, monkeypatch):
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: pytest.fail(str(argv)))
    before = snapshot(made / "checkpoint"), table_of(made)
    outcome = reproduce(made, tree)
    assert outcome.status == 0 and outcome.out.count(": recorded") == 6
    assert (snapshot(made / "checkpoint"), table_of(made)) == before


def test_the_table_is_made_again_from_the_kept_records_alone(made, tmp_path):
    shutil.copytree(made / "results" / "runs", tmp_path / "results" / "runs")
    argv = ["--table-only", "--root", tmp_path / "none", "--results", tmp_path / "results"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([str(argument) for argument in argv]) == 0
    assert table_of(tmp_path) == table_of(made)
    for name in ("RESULTS.md", "table.json"):
        kept, again = ((folder / "results" / name).read_bytes() for folder in (made, tmp_path))
        assert kept == again


def test_what_the_records_hold_is_not_run_without_checkpoints(made, tree, tmp_path):
    shutil.copytree(made / "results" / "runs", tmp_path / "results" / "runs")
    outcome = reproduce(tmp_path, tree)
    assert outcome.status == 0 and outcome.out.count(": recorded") == 6
    assert not (tmp_path / "checkpoint").exists()


def test_finished_runs_of_other_folders_count(made, tree, tmp_path):
    outcome = reproduce(tmp_path, tree, "--runs", made / "checkpoint")
    assert outcome.status == 0 and outcome.out.count(": recorded") == 6
    assert table_of(tmp_path) == table_of(made)


def test_a_stage_1_of_another_folder_is_started_from(made, tree, tmp_path):
    rows = "cifar10/2/classifier_only"
    flags = ("--runs", made / "checkpoint", "--protocols", "test")
    outcome = reproduce(tmp_path, tree, *flags, rows=rows)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("$ python main.py") == 1
    assert "classifier_only" in {entry["method"] for entry in table_of(tmp_path)}
    assert len(list((tmp_path / "checkpoint").rglob("args.json"))) == 1


def test_runs_on_other_images_are_not_taken_for_ones_own(made, tree, tmp_path):
    for path in shutil.copytree(made / "results" / "runs", tmp_path / "results" / "runs").rglob(
        "args.json"
    ):
        recorded = json.loads(path.read_text())
        path.write_text(json.dumps(recorded | {"fingerprint": "beef" * 16}))
    rows = "cifar10/2/ce"
    outcome = reproduce(tmp_path, tree, rows=rows)
    assert outcome.status == 0 and outcome.out.count("$ python main.py") == 1
    subsets = {entry["subset"] for entry in table_of(tmp_path) if entry["method"] == "ce"}
    assert len(subsets) == 2 and "beefbeef" in subsets
    # Where there are no images here, nothing can tell.
    outcome = reproduce(tmp_path, tmp_path / "none", "--dry-run", rows=rows)
    assert outcome.out.count(": recorded") == 2


def test_a_stage_1_that_came_with_the_code_is_started_from(made, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "results" / "runs", tmp_path / "results" / "runs")
    [first] = (path.parent for path in (made / "checkpoint").glob("*/ckpt.pth.tar"))
    assert export([str(first), "--last"]) == 0
    rows = "cifar10/2/classifier_only"
    outcome = reproduce(tmp_path, tree, "--protocols", "test", rows=rows)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("$ python main.py") == 1 and "pretrained/" in outcome.out
    assert "classifier_only" in {entry["method"] for entry in table_of(tmp_path)}


@pytest.mark.parametrize("number", [2, 7, 14])
def test_an_interrupted_table_goes_on_to_the_same_numbers(number, tree, made, tmp_path):
    with interrupted_at_check(number) as count:
        outcome = reproduce(tmp_path, tree)
        assert outcome.status == 143, count()
    assert "the same command goes on" in outcome.err
    assert not (tmp_path / "results" / "RESULTS.md").exists()
    assert reproduce(tmp_path, tree).status == 0
    assert table_of(tmp_path) == table_of(made)


def test_a_killed_table_goes_on_to_the_same_numbers(tree, made, tmp_path):
    argv = ["-m", "utils.reproduce", "--rows", ROWS, "--stage1", "1", "--stage2", "1+1"]
    argv += ["--protocols", "test,last", "--root", tmp_path / "checkpoint"]
    argv += ["--results", tmp_path / "results", "--data_root", tree]
    process = subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(600):  # killed in the first stage 2
        if list((tmp_path / "checkpoint").glob("*/robust_*/ckpt.pth.tar")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert reproduce(tmp_path, tree).status == 0
    assert table_of(tmp_path) == table_of(made)


def test_a_failed_run_is_told_and_the_others_go_on(tree, made, tmp_path):
    with disk_full_for("summary.json", nth=2):
        outcome = reproduce(tmp_path, tree, "--protocols", "test")
    assert outcome.status == 1
    assert "failed: [2/3] cifar10/2/control, test, seed 0: exit status 1" in outcome.err
    assert {entry["method"] for entry in table_of(tmp_path)} == {"ce", "dro_lt"}
    assert reproduce(tmp_path, tree).status == 0
    assert table_of(tmp_path) == table_of(made)


def test_an_unforeseen_failure_of_a_run_is_told_too(tree, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr("utils.commands.train.finetuning", fail)
    outcome = reproduce(tmp_path, tree, "--protocols", "test")
    assert outcome.status == 1 and "out of everything" in outcome.err
    assert {entry["method"] for entry in table_of(tmp_path)} == {"ce"}


def test_a_failed_stage_1_is_run_once_for_all_rows_that_need_it(tree, tmp_path):
    rows = "cifar10/1000/control,cifar10/1000/dro_lt"
    outcome = reproduce(tmp_path, tree, "--protocols", "test", rows=rows)
    assert outcome.status == 1
    assert outcome.out.count("$ python main.py") == 1
    assert "its stage 1, cifar10/1000/ce, has failed" in outcome.err
    assert json.loads((tmp_path / "results" / "table.json").read_text()) == []


def test_two_seeds_are_two_chains(tree, tmp_path):
    rows = "cifar10/2/ce,cifar10/2/classifier_only"
    outcome = reproduce(tmp_path, tree, "--seeds", "0,1", "--protocols", "last", rows=rows)
    assert outcome.status == 0, outcome.err
    entries = [e for e in table_of(tmp_path) if e["protocol"] == "last"]
    assert [(e["method"], e["seed_list"]) for e in entries] == [
        *(("ce", [0, 1]), ("classifier_only", [0, 1]))
    ]
    assert all(entry["top1_std"] is not None for entry in entries)
    commands = [
        json.loads(path.read_text())["machine"]["command"]
        for path in (tmp_path / "checkpoint").rglob("args.json")
    ]
    assert all(command[0] == "main.py" and "--seed" in command for command in commands)


def test_a_dry_run_prints_commands_and_makes_nothing(tree, tmp_path):
    outcome = reproduce(tmp_path, tree, "--dry-run")
    assert outcome.status == 0 and not list(tmp_path.iterdir())
    assert outcome.out.count("python main.py --dataset cifar10") == 6


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--rows", "cifar100/100/x"], "'cifar100/100/x' is no row"),
        (["--seeds", "0,x"], "--seeds"),
        (["--protocols", "test,best"], "unknown protocol 'best'"),
        (["--stage2", "9"], "'9' is not FEATURES+CLASSIFIER"),
        (["--stage1", "0"], "--stage1"),
        (["--runs", "nowhere"], "--runs nowhere: no such folder"),
        (["--epochs", "3"], "--epochs: decided by the rows"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_run(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1
    assert message.startswith("reproduce: error: ") and not list(tmp_path.iterdir())


def test_damaged_records_are_bad_input_before_anything_runs(made, tree, tmp_path):
    shutil.copytree(made / "results" / "runs", tmp_path / "results" / "runs")
    damaged = next((tmp_path / "results" / "runs").rglob("summary.json"))
    damaged.write_text("{")
    outcome = reproduce(tmp_path, tree)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert str(damaged) in outcome.err and not (tmp_path / "checkpoint").exists()


def test_the_table_of_records_needs_no_torch(made, tmp_path):
    shutil.copytree(made / "results" / "runs", tmp_path / "results" / "runs")
    code = (
        "import sys; from utils.reproduce.__main__ import main; "
        f"status = main(['--table-only', '--results', {str(tmp_path / 'results')!r}, "
        f"'--root', {str(tmp_path / 'none')!r}]); "
        "sys.exit(10 if 'torch' in sys.modules else status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
