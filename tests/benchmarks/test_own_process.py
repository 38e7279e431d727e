"""Measurements in processes of their own."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.own_process import in_own_process
from tests.support.helpers import REPOSITORY
from utils.errors import RunError, UserError


def measuring(take):
    take({"kernels": 3})
    take({"kernels": 3, "process": os.getpid()})


def crashing(take):
    take({"kernels": 3})
    os._exit(1)


def failing(take):
    take({"kernels": 3})
    raise ValueError("no\nkernel")


def refused(take):
    raise UserError("no such precision")


def hanging(take):
    sleeper = subprocess.Popen(["sleep", "60"])
    take({"sleeper": sleeper.pid})
    sleeper.wait()


def sleeping(take):
    take({"process": os.getpid()})
    time.sleep(60)


def is_running(process: int) -> bool:
    """Returns True if the process exists and is no zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until_over(process: int) -> None:
    end = time.monotonic() + 10
    while is_running(process):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_records_of_a_measurement_arrive_one_by_one():
    records = []
    in_own_process(measuring, 60, records.append)
    assert records[0] == {"kernels": 3} and records[1]["process"] != os.getpid()
    assert len(records) == 2 and not is_running(records[1]["process"])


@pytest.mark.parametrize(
    ("measure", "message"),
    [(crashing, "its process ended with status 1"), (failing, "ValueError: no kernel")],
)
def test_a_measurement_that_fails_leaves_its_records(measure, message, capfd):
    records = []
    with pytest.raises(RunError) as error:
        in_own_process(measure, 60, records.append)
    assert str(error.value) == message and records == [{"kernels": 3}]
    assert ("in failing" in capfd.readouterr().err) == (measure is failing)  # the traceback


def test_what_the_input_does_not_allow_is_told_apart():
    with pytest.raises(UserError, match="no such precision"):
        in_own_process(refused, 60, print)


def test_a_measurement_that_hangs_is_ended_in_time_with_what_it_started(monkeypatch):
    now, records = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("benchmarks.own_process.time", clock)

    def take(record):
        records.append(record)
        now[0] = 59.9  # of 60 seconds

    with pytest.raises(RunError, match="not within 60 s"):
        in_own_process(hanging, 60, take)
    wait_until_over(records[0]["sleeper"])


def first_number_of_killed(code: str, **changes: str) -> int:
    """Starts a program, kills it when it has printed a number, and returns this."""
    command, environment = [sys.executable, "-c", code], os.environ | changes
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as program:
        number = int(program.stdout.readline())
        program.kill()
    return number


def test_a_measurement_ends_when_the_program_is_killed():
    code = (
        "from benchmarks.own_process import in_own_process\n"
        "from tests.benchmarks.test_own_process import hanging\n"
        "in_own_process(hanging, 60, lambda found: print(found['sleeper'], flush=True))\n"
    )
    wait_until_over(first_number_of_killed(code))


def test_measurements_need_no_groups_of_processes(tmp_path):
    """Windows has none, and no SIGKILL."""
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.killpg, os.setpgid\n")
    code = (
        "import signal\n"
        "kill = signal.__dict__.pop('SIGKILL')\n"
        "from benchmarks.own_process import in_own_process\n"
        "signal.SIGKILL = kill  # which multiprocessing needs here\n"
        "from tests.benchmarks.test_own_process import measuring, sleeping\n"
        "in_own_process(measuring, 60, dict)\n"
        "in_own_process(sleeping, 60, lambda found: print(found['process'], flush=True))\n"
    )
    wait_until_over(first_number_of_killed(code, PYTHONPATH=str(tmp_path)))
