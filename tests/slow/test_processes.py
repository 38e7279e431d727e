"""Whole runs in several processes over gloo: signals, resume, evaluation, a process that dies."""

import json
import os
import re
import signal
import time

import pytest

from tests.support import distributed_steps
from tests.support.helpers import (
    CLASS_COUNTS,
    STAGE_1_NAME,
    load,
    read_csv,
    read_summary,
    snapshot,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
)
from tests.support.torchrun import MAIN, children, started, torchrun
from utils.machine.processes import ALONE


@pytest.fixture(scope="module")
def of_one_process() -> dict:
    return distributed_steps.find(ALONE, micro_batches=1)


@pytest.mark.parametrize(("processes", "micro_batches"), [(2, 1), (3, 2)])
def test_several_processes_compute_what_one_does(
    processes, micro_batches, of_one_process, tmp_path
):
    path = tmp_path / "found.pt"
    words = ["-m", "tests.support.distributed_steps", path, micro_batches]
    status, _, err = torchrun(processes, words)
    assert status == 0, err
    expected, found = of_one_process, load(path)
    for kind in distributed_steps.KINDS:
        distributed_steps.assert_same_steps(expected, found, kind)
    distributed_steps.assert_same_readings(expected, found)


def test_micro_batches_compute_what_whole_batches_do(of_one_process):
    found = distributed_steps.find(ALONE, micro_batches=3)
    for kind in distributed_steps.KINDS:
        distributed_steps.assert_same_steps(of_one_process, found, kind)
    distributed_steps.assert_same_readings(of_one_process, found)


def test_both_stages_resume_and_evaluation_in_two_processes(tree, tmp_path):
    """Stage 1 is stopped by a signal to torchrun and continued in two processes; two processes
    begin stage 2."""
    flags = ("--epochs", 30, "--checkpoint_every", 1)
    log = tmp_path / STAGE_1_NAME / "log.csv"
    with started(2, [*MAIN, *stage_1(tree, tmp_path, *flags)]) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and len(log.read_text().splitlines()) > 2):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("main.py: interrupted") == 1 and "main.py: error" not in err
    assert not (tmp_path / STAGE_1_NAME / "summary.json").exists()
    done = len(read_csv(tmp_path / STAGE_1_NAME))

    # A run of one process goes on where two have stopped.
    epochs = done + 1
    arguments = tmp_path / STAGE_1_NAME / "args.json"
    arguments.write_text(arguments.read_text().replace('"epochs": 30', f'"epochs": {epochs}'))
    succeed(stage_1(tree, tmp_path, *flags, "--epochs", epochs, "--resume", "True"))
    assert [int(row["epoch"]) for row in read_csv(log.parent)] == list(range(1, epochs + 1))

    command = stage_2(tree, tmp_path, "--feat_layers", "layer2,layer3", "--accumulate", 2)
    status, out, err = torchrun(2, [*MAIN, *command])
    assert status == 0, err
    assert out.count("summary: ") == 1 and len(re.findall("features 1/3", out)) == 1
    folder = stage_2_folder(tmp_path)
    recorded = json.loads((folder / "args.json").read_text())
    assert recorded["accumulate"] == 2 and recorded["feat_layers"] == "layer2,layer3"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2  # of one process, as ever
    rows = read_csv(folder)
    assert len(rows) == 3
    for column in ("train_robust_loss@layer2", "margin_min@layer3", "train_ce_lt"):
        assert float(rows[0][column]) > 0
    assert load(folder / "ckpt.pth.tar")["epsilons"].shape == (2, 10)

    # Metrics of a checkpoint do not depend on the number of processes.
    status, out, err = torchrun(2, [*MAIN, *command, "--evaluation", "True"])
    assert status == 0, err
    alone = succeed([*command, "--evaluation", "True"])
    assert out.strip() == alone.out.strip()
    assert str(read_summary(folder)["test"]["selected"]["linear"]["top1"])[:5] in out


def test_a_student_of_two_processes_learns_from_its_teacher(tree, finished, tmp_path):
    flags = ("--teacher", finished / STAGE_1_NAME, "--loss_type", "BS", "--epochs", 1)
    status, _, err = torchrun(2, [*MAIN, *stage_1(tree, tmp_path, *flags)])
    assert status == 0, err
    folder = stage_1_folder(tmp_path)
    [row] = read_csv(folder)
    assert float(row["train_distillation"]) > 0
    assert read_summary(folder)["images_seen"] == sum(CLASS_COUNTS)
    assert "finished" in succeed([*stage_1(tree, tmp_path, *flags), "--resume", "True"]).out


def test_a_killed_process_ends_the_others(tree, tmp_path):
    log = tmp_path / STAGE_1_NAME / "log.csv"
    with started(2, [*MAIN, *stage_1(tree, tmp_path, "--epochs", 200)]) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and len(log.read_text().splitlines()) > 1):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        workers = children(process)
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and err.count("Traceback") <= 1  # torchrun's own
    assert load(tmp_path / STAGE_1_NAME / "ckpt.pth.tar")["epoch"] >= 1


def test_a_finished_run_and_bad_input_are_reported_once(both, tree):
    before = snapshot(both)
    status, out, err = torchrun(2, [*MAIN, *stage_1(tree, both, "--resume", "True")])
    assert status == 0 and out.count("this run is finished") == 1
    status, out, err = torchrun(2, [*MAIN, *stage_1(tree, both)])
    assert status != 0 and err.count("main.py: error: ") == 1 and "already holds a run" in err
    assert snapshot(both) == before
