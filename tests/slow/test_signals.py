"""Signals to a process of its own, and a reader of its output that goes away: it keeps its last
finished epoch, says 143, 130 or 141, and goes on when it is started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.helpers import (
    REPOSITORY,
    STAGE_1_NAME,
    call,
    differences_of_runs,
    fork,
    load,
    stage_1,
    succeed,
)
from tests.support.torchrun import MAIN

EPOCHS = 60
"""Two seconds: enough for a signal to come before the end."""


@pytest.fixture(scope="module")
def calm(tree, tmp_path_factory) -> Path:
    """Gives the folder of a run that nothing has interrupted."""
    root = tmp_path_factory.mktemp("calm")
    succeed(stage_1(tree, root, "--epochs", EPOCHS))
    return root / STAGE_1_NAME


def start(argv: list[object]) -> subprocess.Popen:
    """Starts the command in a process."""
    return subprocess.Popen(
        [sys.executable, *MAIN, *map(str, argv)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def epochs_in_log(folder: Path) -> int:
    path = folder / "log.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_sigterm_ends_a_real_process_with_143_and_resume_goes_on(tree, calm, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", EPOCHS, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    with start(argv) as process:
        wait_for(lambda: epochs_in_log(folder) >= 1)
        process.send_signal(signal.SIGSTOP)  # it would end meanwhile
        second = call(argv)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert second.status == 2
    assert "another run is at work" in second.err
    done = epochs_in_log(folder)
    assert 1 <= load(folder / "ckpt.pth.tar")["epoch"] == done < EPOCHS
    succeed(argv)
    assert not differences_of_runs(folder, calm)


def heed_interrupts() -> None:
    """A process that is started in the background of a shell ignores SIGINT, and so do its
    children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_sigint_ends_a_process_with_130_and_resume_goes_on(tree, calm, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", EPOCHS, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    process = fork(argv, tmp_path / "output", before=heed_interrupts)
    wait_for(lambda: epochs_in_log(folder) >= 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert "Traceback" not in (tmp_path / "output").read_text()
    succeed(argv)
    assert not differences_of_runs(folder, calm)


def test_a_reader_that_goes_away_ends_a_real_process_with_141_and_resume_goes_on(
    tree, calm, tmp_path
):
    argv = stage_1(tree, tmp_path, "--epochs", EPOCHS, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    with start(argv) as process:
        wait_for(lambda: f" 2/{EPOCHS} " in process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read()
        process.wait(60)
    assert process.returncode == 141
    assert "Traceback" not in err and "main.py: error" not in err
    assert 2 <= load(folder / "ckpt.pth.tar")["epoch"] == epochs_in_log(folder) < EPOCHS
    succeed(argv)
    assert not differences_of_runs(folder, calm)
