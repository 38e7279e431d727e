"""A thread writes checkpoints, and none is lost."""

import errno
import threading

import pytest
import torch

from tests.support.helpers import load
from utils.runs import checkpoint
from utils.runs.writer import BackgroundWriter

SECONDS = 30


@pytest.fixture
def writer():
    made = BackgroundWriter()
    yield made
    made.close()


def content(epoch: int) -> dict:
    return {"epoch": epoch, "state_dict": {"w": torch.full((3,), float(epoch))}}


def test_writing_does_not_wait_for_the_disk_and_waiting_does(writer, tmp_path, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()
    save = checkpoint.save

    def slow(path, what):
        begun.set()
        assert may_go_on.wait(SECONDS)
        save(path, what)

    monkeypatch.setattr(checkpoint, "save", slow)
    writer.write({tmp_path / "last": content(1)})
    assert begun.wait(SECONDS)
    assert not (tmp_path / "last").exists()
    may_go_on.set()
    writer.wait()
    assert load(tmp_path / "last")["epoch"] == 1


def test_files_are_written_in_the_order_in_which_they_are_given(writer, tmp_path, monkeypatch):
    save, order = checkpoint.save, []

    def watched(path, what):
        order.append((path.name, what["epoch"]))
        save(path, what)

    monkeypatch.setattr(checkpoint, "save", watched)
    for epoch in (1, 2, 3):
        writer.write({tmp_path / "best": content(epoch), tmp_path / "last": content(epoch)})
    writer.wait()
    assert order == [(name, epoch) for epoch in (1, 2, 3) for name in ("best", "last")]
    assert load(tmp_path / "last")["epoch"] == 3


@pytest.mark.parametrize("call", ["write", "wait", "close"])
def test_an_error_of_the_disk_is_raised_by_the_next_call_and_once(tmp_path, call, monkeypatch):
    writer = BackgroundWriter()
    missing = tmp_path / "missing" / "last"
    writer.write({tmp_path / "best": content(1), missing: content(1)})
    arguments = [{tmp_path / "later": content(2)}] if call == "write" else []
    with pytest.raises(OSError) as error:
        getattr(writer, call)(*arguments)
    assert error.value.errno == errno.ENOENT
    assert load(tmp_path / "best")["epoch"] == 1
    assert not (tmp_path / "later").exists()
    writer.close()


def test_closing_waits_for_the_last_file_and_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    writer = BackgroundWriter()
    writer.write({tmp_path / "last": content(1)})
    writer.close()
    assert load(tmp_path / "last")["epoch"] == 1
    assert set(threading.enumerate()) <= before
    writer.close()
