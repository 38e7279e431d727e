"""Whole tiny tables: what is missing is run, failures are told, and a table that is interrupted or
killed (SIGKILL) goes on to the numbers of one that is not."""

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
from tests.support.helpers import REPOSITORY, snapshot, write_tree
from tests.support.tables import ROWS, called, reproduce, table_of
from utils.export.__main__ import main as export
from utils.reproduce.plan import Cell

pytestmark = pytest.mark.usefixtures("no_figures")


def runs_below(folder: Path) -> int:
    return len(list((folder / "checkpoint").rglob("args.json")))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Smaller than the other tests' data: the rows have a ResNet-32."""
    return write_tree(tmp_path_factory.mktemp("data"), train=8, test=2)


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory) -> Path:
    """A finished tiny table of one seed; for reading."""
    folder = tmp_path_factory.mktemp("table")
    outcome = reproduce(folder, tree)
    assert outcome.status == 0, outcome.err
    return folder


def copy_of(made, target, *parts):
    for part in parts:
        shutil.copytree(made / part, target / part)
    return target


def test_the_table_has_a_cell_for_every_row_and_protocol(made):
    cells = {(e["method"], e["protocol"]) for e in table_of(made)}
    assert cells >= {(m, "last") for m in ("ce", "control", "dro_lt")} | {("ce", "test")}
    for entry in table_of(made):
        assert (entry["dataset"], entry["ratio"], entry["seeds"]) == ("cifar10", 2, 1)
        assert entry["top1_std"] is None and 0 <= entry["top1_mean"] <= 100
        assert entry["length"] == ("1" if entry["method"] == "ce" else "1, 1+1")
        assert not entry["is_full_length"] and len(entry["subset"]) == 8


def test_an_entry_is_what_the_runs_own_summary_says(made):
    for path in (made / "checkpoint").rglob("summary.json"):
        selected = json.loads(path.read_text())["test"]["selected"]
        row = json.loads(path.with_name("args.json").read_text())["recipe"]
        [entry] = [e for e in table_of(made) if (e["method"], e["protocol"]) == (row, "last")]
        assert entry["top1_mean"] == pytest.approx(selected["linear"]["top1"], abs=1e-4)
        assert entry["ncm"] == pytest.approx(selected["ncm"]["top1"], abs=1e-4)


def test_one_stage_1_serves_all_rows(made):
    assert len(list((made / "checkpoint").glob("*/args.json"))) == 1
    assert len(list((made / "checkpoint").glob("*/robust_*/args.json"))) == 2


def test_records_are_filed_where_their_cells_say(made):
    filed = list((made / "results" / "runs").rglob("summary.json"))
    cells = [Cell.of_record(p.parent.relative_to(made / "results" / "runs")) for p in filed]
    assert {(cell.row, cell.protocol) for cell in cells} == {
        *(("ce", "test"), ("control", "last"), ("dro_lt", "last"))
    }


def test_a_finished_table_runs_nothing_again(made, tree, monkeypatch):
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: pytest.fail(str(argv)))
    before = snapshot(made / "checkpoint"), table_of(made)
    outcome = reproduce(made, tree)
    assert outcome.status == 0 and outcome.out.count(": recorded") == 3
    assert (snapshot(made / "checkpoint"), table_of(made)) == before


def test_the_table_is_made_again_from_the_filed_records_alone(made, tmp_path):
    copy_of(made, tmp_path, "results/runs")
    assert called(["--table-only", "--results", tmp_path / "results"]).status == 0
    for name in ("RESULTS.md", "table.json"):
        kept, again = ((folder / "results" / name).read_bytes() for folder in (made, tmp_path))
        assert kept == again


def test_the_committed_page_is_that_of_the_committed_records(tmp_path):
    committed = REPOSITORY / "results"
    shutil.copytree(committed / "runs", tmp_path / "runs")
    assert called(["--table-only", "--results", tmp_path]).status == 0
    assert (tmp_path / "RESULTS.md").read_text() == (committed / "RESULTS.md").read_text()


def test_what_the_records_hold_is_not_run_without_checkpoints(made, tree, tmp_path):
    outcome = reproduce(copy_of(made, tmp_path, "results/runs"), tree)
    assert outcome.status == 0 and outcome.out.count(": recorded") == 3
    assert not (tmp_path / "checkpoint").exists()


def test_runs_that_are_there_but_not_filed_are_filed(made, tree, tmp_path):
    outcome = reproduce(copy_of(made, tmp_path, "checkpoint"), tree)
    assert outcome.status == 0 and outcome.out.count("this run is finished, see summary.json") == 3
    assert table_of(tmp_path) == table_of(made)


def test_runs_on_other_images_are_not_taken_for_ones_own(made, tree, tmp_path):
    copy_of(made, tmp_path, "results/runs")
    [folder] = (tmp_path / "results" / "runs").iterdir()
    folder.rename(folder.with_name("cifar10_r2_beefbeef"))
    outcome = reproduce(tmp_path, tree, rows="cifar10/2/ce")
    assert outcome.status == 0 and outcome.out.count("$ python main.py") == 1
    subsets = {entry["subset"] for entry in table_of(tmp_path) if entry["method"] == "ce"}
    assert len(subsets) == 2 and "beefbeef" in subsets


def test_without_images_here_nothing_can_tell(made, tmp_path):
    copy_of(made, tmp_path, "results/runs")
    outcome = reproduce(tmp_path, tmp_path / "none", "--dry-run")
    assert outcome.out.count(": recorded") == 3


def test_a_stage_1_that_came_with_the_code_is_started_from(made, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy_of(made, tmp_path, "results/runs")
    [first] = (path.parent for path in (made / "checkpoint").glob("*/ckpt.pth.tar"))
    assert export([str(first), "--last"]) == 0
    outcome = reproduce(tmp_path, tree, rows="cifar10/2/classifier_only")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("$ python main.py") == 1 and "pretrained/" in outcome.out
    assert "classifier_only" in {entry["method"] for entry in table_of(tmp_path)}


def test_a_recorded_stage_1_without_checkpoints_is_trained_again(made, tree, tmp_path):
    copy_of(made, tmp_path, "results/runs")
    outcome = reproduce(tmp_path, tree, rows="cifar10/2/classifier_only")
    assert outcome.status == 0 and outcome.out.count("$ python main.py") == 2
    assert "classifier_only" in {entry["method"] for entry in table_of(tmp_path)}


def test_a_recorded_stage_1_that_is_not_finished_is_finished_first(made, tree, tmp_path):
    copy_of(made, tmp_path, "results/runs", "checkpoint")
    [summary] = (tmp_path / "checkpoint").glob("*/summary.json")
    summary.unlink()
    outcome = reproduce(tmp_path, tree, rows="cifar10/2/classifier_only")
    assert outcome.status == 0 and outcome.out.count("$ python main.py") == 2
    assert summary.is_file()


def test_a_failed_run_is_told_and_the_others_go_on(tree, made, tmp_path):
    with disk_full_for("summary.json", nth=3):  # the first is the run's, the second the record's
        outcome = reproduce(tmp_path, tree)
    assert outcome.status == 1
    assert "failed: [2/3]" in outcome.err and "/control, last, seed 0: exit status 1" in outcome.err
    assert {entry["method"] for entry in table_of(tmp_path)} == {"ce", "dro_lt"}
    assert reproduce(tmp_path, tree).status == 0
    assert table_of(tmp_path) == table_of(made)


def test_an_unforeseen_failure_of_a_run_is_told_too(tree, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr("utils.commands.train.stage_2", fail)
    outcome = reproduce(tmp_path, tree, rows="cifar10/2/control")
    assert outcome.status == 1 and "out of everything" in outcome.err
    assert {entry["method"] for entry in table_of(tmp_path)} == {"ce"}


def test_a_failed_stage_1_is_run_once_for_all_rows_that_need_it(tree, tmp_path):
    rows = "cifar10/1000/control,cifar10/1000/dro_lt"
    outcome = reproduce(tmp_path, tree, rows=rows)
    assert outcome.status == 1
    assert outcome.out.count("$ python main.py") == 1
    assert outcome.err.count("its stage 1") == 2 and "has failed" in outcome.err
    assert json.loads((tmp_path / "results" / "table.json").read_text()) == []


def test_seeds_of_stage_2_from_one_stage_1(tree, tmp_path):
    rows = "cifar10/2/classifier_only"
    outcome = reproduce(tmp_path, tree, "--seeds", "0,1", "--from_seed", "0", rows=rows)
    assert outcome.status == 0, outcome.err
    assert runs_below(tmp_path) == 3
    lines = {e["of_seeds"]: e["seed_list"] for e in table_of(tmp_path) if e["protocol"] == "last"}
    assert lines == {"chains": [0], "stage 2 from seed 0": [0, 1]}
    commands = [
        json.loads(path.read_text())["machine"]["command"]
        for path in (tmp_path / "checkpoint").rglob("args.json")
    ]
    assert all(command[0] == "main.py" and "--seed" in command for command in commands)


def test_damaged_records_are_bad_input(made, tmp_path):
    copy_of(made, tmp_path, "results/runs")
    damaged = next((tmp_path / "results" / "runs").rglob("summary.json"))
    damaged.write_text("{")
    outcome = called(["--table-only", "--results", tmp_path / "results"])
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and str(damaged) in outcome.err


def test_the_table_of_records_needs_no_torch(made, tmp_path):
    copy_of(made, tmp_path, "results/runs")
    code = (
        "import sys; from utils.reproduce.__main__ import main; "
        f"status = main(['--table-only', '--results', {str(tmp_path / 'results')!r}]); "
        "sys.exit(10 if 'torch' in sys.modules else status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("number", [2, 9])
def test_an_interrupted_table_goes_on_to_the_same_numbers(number, tree, made, tmp_path):
    with interrupted_at_check(number) as count:
        outcome = reproduce(tmp_path, tree)
        assert outcome.status == 143, count()
    assert "the same command goes on" in outcome.err
    assert not (tmp_path / "results" / "RESULTS.md").exists()
    assert reproduce(tmp_path, tree).status == 0
    assert table_of(tmp_path) == table_of(made)


def test_a_killed_table_goes_on_to_the_same_numbers(tree, made, tmp_path):
    killed = tmp_path / "killed"
    argv = ["-m", "tests.support.small_images", "utils.reproduce", "--rows", ROWS]
    argv += ["--stage1", "1", "--stage2", "1+1", "--protocols", "last"]
    argv += ["--root", killed / "checkpoint"]
    argv += ["--results", killed / "results", "--data_root", tree]
    with subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    ) as process:
        try:
            for _ in range(1200):  # killed in the first stage 2
                assert process.poll() is None
                if list((killed / "checkpoint").glob("*/robust_*/ckpt.pth.tar")):
                    break
                time.sleep(0.1)
            else:
                pytest.fail("no stage 2 began")
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert reproduce(killed, tree).status == 0
    assert table_of(killed) == table_of(made)
