"""Signals and full disks at chosen moments, and checkpoints of other weights."""

import contextlib
import errno
import os
import signal
from pathlib import Path

import pytest

from tests.support.helpers import load


@contextlib.contextmanager
def interrupted_at_check(number: int, signal_number: int = signal.SIGTERM):
    """Delivers the signal before training looks for signals the n-th time."""
    from utils.machine import signals

    original, count = signals.check, 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal_number)
        original()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "check", check)
        yield lambda: count


@contextlib.contextmanager
def disk_full_for(name: str, nth: int = 1):
    """Makes the disk full when the n-th file of this name is synchronised to it."""
    original, seen = os.fsync, set()

    def fsync(descriptor: int) -> None:
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        if file.startswith(f".{name}."):
            seen.add(file)
            if len(seen) == nth:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield lambda: len(seen) >= nth


class FullDisk:
    """A file that takes half of what is written to it; then the disk is full."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def disk_full_for_appending(name: str, nth: int):
    """Makes the disk full when a line is appended to a file of this name the n-th time."""
    count = 0

    def opening(path, mode="r", *arguments, **settings):
        nonlocal count
        file = open(path, mode, *arguments, **settings)  # noqa: SIM115
        if mode == "a" and Path(path).name == name:
            count += 1
            if count == nth:
                return FullDisk(file)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.runs.epoch_log.open", opening, raising=False)
        yield lambda: count >= nth


def assert_failed(outcome, *says: str) -> None:
    assert outcome.status == 1, outcome.err
    (line,) = outcome.errors
    assert line.startswith("main.py: error: ")
    for fragment in says:
        assert fragment in line
    assert "Traceback" not in outcome.out + outcome.err


def spoil(folder: Path, name: str = "ckpt.pth.tar") -> None:
    """Changes a checkpoint of the run into one that no run with these options would have."""
    import torch

    content = load(folder / name)
    content["state_dict"]["linear.bias"] += 1
    torch.save(content, folder / name)
