"""Signals to a process of its own: it keeps its last finished epoch, says 143 or 130, and goes on
when it is started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def epochs_in_log(folder: Path) -> int:
    path = folder / "log.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_sigterm_ends_a_real_process_with_143_and_resume_goes_on(tree, six_epochs, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", 6, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    command = [sys.executable, "-m", "tests.support.small_images", "main", *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)
    with process:
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
    assert 1 <= load(folder / "ckpt.pth.tar")["epoch"] == done < 6
    succeed(argv)
    assert not differences_of_runs(folder, six_epochs)


def heed_interrupts() -> None:
    """A process that is started in the background of a shell ignores SIGINT, and so do its
    children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_sigint_ends_a_process_with_130_and_resume_goes_on(tree, six_epochs, tmp_path):
    argv = stage_1(tree, tmp_path, "--epochs", 6, "--resume", "True")
    folder = tmp_path / STAGE_1_NAME
    process = fork(argv, tmp_path / "output", before=heed_interrupts)
    wait_for(lambda: epochs_in_log(folder) >= 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert "Traceback" not in (tmp_path / "output").read_text()
    succeed(argv)
    assert not differences_of_runs(folder, six_epochs)
