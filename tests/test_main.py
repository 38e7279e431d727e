"""What main.py makes of its surroundings: streams, environment, signals, memory, old Pythons."""

import io
import os
import runpy
import signal
import subprocess
import sys

import pytest
import torch

import main
from tests.support.helpers import REPOSITORY, call
from utils import errors
from utils.errors import Interrupted, RunError, UserError
from utils.machine import signals
from utils.machine.device import choose_machine
from utils.machine.processes import ALONE, VARIABLES, World, world_of_environment
from utils.options.parse import parse_options
from utils.runs.run_folder import RunFolder


def failing(monkeypatch, error):
    """Makes the command fail as soon as it begins."""

    def parse(argv):
        raise error

    monkeypatch.setattr(main, "parse_stages", parse)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_one_line_and_status_1(error, monkeypatch):
    failing(monkeypatch, error)
    outcome = call([])
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("main.py: error: out of memory")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    failing(monkeypatch, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        call([])


def test_a_reader_that_goes_away_during_a_run_is_not_the_folders_fault(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run", tmp_path / "run")
    with pytest.raises(BrokenPipeError), folder.locked():
        raise BrokenPipeError
    with pytest.raises(RunError), folder.locked():
        raise OSError(28, "No space left on device")
    failing(monkeypatch, BrokenPipeError())
    monkeypatch.setattr(errors, "_write_nowhere", lambda stream: None)
    outcome = call([])
    assert outcome.status == 141 and outcome.err == ""


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(signal.SIGTERM), 143), (UserError("no such folder"), 2)]
)
def test_a_terminal_that_is_gone_leaves_the_status(error, status, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    failing(monkeypatch, error)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert main.main([]) == status


def test_a_stream_shows_what_it_can_of_a_text(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(main, "_run", lambda argv, world: print("50.00 ± 1.00"))
    assert main.main([]) == 0
    assert stream.buffer.getvalue() == b"50.00 ? 1.00\n"


def test_a_line_is_in_the_file_of_the_output_at_once(monkeypatch):
    stream, seen = io.TextIOWrapper(io.BytesIO()), []

    def run(argv, world):
        print("epoch 1")
        seen.append(stream.buffer.getvalue())

    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(main, "_run", run)
    assert main.main([]) == 0
    assert seen == [b"epoch 1\n"]


@pytest.mark.parametrize(
    "begin",
    [
        "import main; main._run = lambda argv, world: None; main.main([])",
        "from utils.errors import run_program; run_program('report', lambda: 0)",
    ],
    ids=["main.py", "other programs"],
)
@pytest.mark.parametrize("package", ["nowhere.inline", "matplotlib_inline.backend_inline"])
def test_the_backend_of_a_notebook_is_ignored(begin, package):
    code = f"{begin}\nimport matplotlib\nassert matplotlib.rcParams['backend'] != {package!r}"
    environment = os.environ | {"MPLBACKEND": f"module://{package}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_an_older_python_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / "main.py"), run_name="__main__")
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1
    assert "3.11" in err and "3.9" in err


def test_a_variable_of_torchrun_that_is_no_number_is_one_line(monkeypatch):
    for name, value in zip(VARIABLES, ("one", "2", "1", "here", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="RANK=one"):
        world_of_environment()
    outcome = call(["--dataset", "digits"])
    assert outcome.status == 2 and outcome.err.count("\n") == 1


@pytest.mark.parametrize("is_shared", [True, False])
def test_an_error_of_all_processes_is_reported_by_process_0_and_any_other_by_its_own(
    is_shared, monkeypatch
):
    monkeypatch.setattr(main, "world_of_environment", lambda: World(rank=1, size=4))
    error = UserError("unreadable images: a.jpg")
    if not is_shared:
        error.is_shared = False
    failing(monkeypatch, error)
    outcome = call([])
    assert outcome.status == 2
    assert outcome.errors == ([] if is_shared else [f"main.py: error: {error}"])


@pytest.mark.parametrize(("size", "resume", "status"), [(1, False, 2), (1, True, 0), (2, False, 0)])
def test_missing_data_are_told_at_once_unless_the_run_may_be_finished_or_others_have_yet_to_join(
    size, resume, status, monkeypatch
):
    monkeypatch.setattr(main, "world_of_environment", lambda: World(rank=size - 1, size=size))
    begun = []
    monkeypatch.setattr("utils.commands.train.train", begun.append)
    outcome = call(["--dataset", "folder", "--data_root", "nowhere", "--resume", resume])
    assert (outcome.status, len(begun)) == (status, int(status == 0))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_stops_a_run_where_it_can_go_on_unless_it_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup leaves it ignored
    try:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Interrupted) as interrupted:
                signals.check()
        assert interrupted.value.exit_status == 129
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            signals.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_is_not_deferred_and_none_is_after_a_run(monkeypatch):
    monkeypatch.setattr(signals, "_received", [])  # or later tests would find the signal
    before = [signal.getsignal(number) for number in signals.DEFERRED]
    with signals.deferred():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [signal.getsignal(number) for number in signals.DEFERRED] == before


def test_a_system_without_file_locks_runs_without_them(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.runs.run_folder.fcntl", None)
    folder = RunFolder(tmp_path / "run", tmp_path / "run")
    with folder.locked(), folder.locked():
        pass


@pytest.mark.parametrize(
    ("text", "gpu"),
    [("1", 1), ("cuda:1", 1), ("cuda", 0), ("cpu", "cpu"), ("CPU", "cpu"), ("cuda:0", 0)],
)
def test_devices_may_be_spelt_as_torch_spells_them(text, gpu):
    assert parse_options(["--gpu", text]).gpu == gpu


@pytest.mark.parametrize(
    ("text", "says"),
    [("0,1", "torchrun --nproc_per_node 2"), ("-1", "whole number >= 0"), ("cuda:x", "cpu")],
)
def test_other_devices_are_one_line(text, says):
    with pytest.raises(UserError) as error:
        parse_options([f"--gpu={text}"])
    assert says in str(error.value) and repr(text) in str(error.value)


@pytest.mark.parametrize("world", [ALONE, World(1, 2, 1)])
def test_gpu_cpu_is_the_cpu(world, capsys):
    assert choose_machine("cpu", "float32", world=world).device == torch.device("cpu")
    assert capsys.readouterr().err == ""
