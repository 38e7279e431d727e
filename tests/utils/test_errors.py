"""How a program ends with an error: its status, and one line on standard error."""

import errno
import io
import os
import subprocess
import sys

import pytest

from tests.support.helpers import REPOSITORY
from utils.errors import LostContact, RunError, UserError, run_program, unwritable, warn


def raising(error):
    def program():
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("no such\n  folder"), 2, "no such folder"),
        (UserError("class \x1b[31mred\x9b"), 2, r"class \x1b[31mred\x9b"),
        (RunError("the loss is not finite"), 1, "the loss is not finite"),
        (LostContact(2), 1, "process 2 has lost contact with another process of this run"),
        (OSError(28, "No space left on device", "a.csv"), 1, "a.csv: No space left on device"),
        (OSError(5, "Input/output error", "a\x1b[31m"), 1, r"a\x1b[31m: Input/output error"),
        (OSError(28, "No space left on device"), 1, "a file: No space left on device"),
        (OSError("odd"), 1, "a file: odd"),
        (OSError(36, "File name too long", "x" * 300), 2, "x" * 300 + ": File name too long"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "a/b: Permission denied"),
        (MemoryError(), 1, "out of memory"),
        (
            RuntimeError("CUDA error: out of memory"),
            1,
            "out of memory on the GPU; --gpu cpu takes the processor",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            1,
            "the workers that read images failed: DataLoader worker (pid 7) is killed by signal: "
            "Killed.",
        ),
    ],
)
def test_a_foreseen_error_is_one_line_and_a_status(error, status, said, capsys):
    assert run_program("tried", raising(error)) == status
    assert capsys.readouterr() == ("", f"tried: error: {said}\n")


def test_a_warning_is_one_line_without_control_characters(capsys):
    warn("selected on \x1b[2J\nmain.py: error: x", "tried")
    assert capsys.readouterr().err == ("tried: warning: selected on \\x1b[2J\\nmain.py: error: x\n")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, RunError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)),
        *((number, UserError) for number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES)),
    ],
)
def test_a_file_that_cannot_be_written_is_a_failure_only_if_the_disk_is_full_or_broken(
    number, kind
):
    error = unwritable("cannot write a.csv", OSError(number, "why"))
    assert type(error) is kind and str(error) == "cannot write a.csv"


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("a"), SystemExit])
def test_any_other_error_goes_on(error):
    with pytest.raises(error if isinstance(error, type) else type(error)):
        run_program("tried", raising(error))


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_a_program_that_ends_by_itself_has_its_own_status(returned, status, capsys):
    assert run_program("tried", lambda: returned) == status
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_says_nothing(capsys):
    assert run_program("tried", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_stream_shows_what_it_can_of_a_name(encoding, monkeypatch):
    """Bytes that are not UTF-8 stand in names as characters that no stream can encode."""
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
        monkeypatch.setattr(sys, name, stream)

    def program():
        print("caf\udce9")
        raise UserError("caf\udce9: no such folder")

    assert run_program("tried", program) == 2
    sys.stdout.flush(), sys.stderr.flush()
    assert sys.stdout.buffer.getvalue() == b"caf?\n"
    assert sys.stderr.buffer.getvalue() == b"tried: error: caf?: no such folder\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_traceback(closed, monkeypatch, capsys):
    monkeypatch.setattr(sys, closed, None)

    def program():
        print("said")
        print("warned", file=sys.stderr)
        sys.stdout.write("said")  # print passes over a stream that is None, other writers do not
        sys.stderr.write("warned")

    assert run_program("tried", program) == 0
    getattr(sys, closed).close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_standard_error_that_takes_nothing_leaves_the_status():
    code = "import sys\nfrom utils.errors import UserError, run_program\n"
    code += "def program():\n    raise UserError('bad')\nsys.exit(run_program('tried', program))"
    # Only a buffered stream is written once more at the end.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stderr=full, cwd=REPOSITORY, env=buffered)
    assert done.returncode == 2


def test_a_reader_that_goes_away_ends_a_program_quietly():
    """The text that is still in Python's buffer causes no error either."""
    code = "import sys\nfrom utils.errors import run_program\n"
    code += "sys.exit(run_program('tried', lambda: print('lost')))"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=REPOSITORY)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
