"""Files are replaced completely or not at all; many are looked at at once."""

import json
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from utils import files
from utils.errors import UserError
from utils.files import atomic_write, check_writable, of_each, read_json, write_json


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_inside_leaves_the_old_file_and_no_other(tmp_path, error, existed):
    path = tmp_path / "file"
    if existed:
        path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half of the n")
        raise error("inside")
    assert os.listdir(tmp_path) == (["file"] if existed else [])
    assert not existed or path.read_bytes() == b"old"


def test_an_error_without_a_number_keeps_its_text_beside_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "file"):
        raise OSError("12 requested and 0 written")  # as NumPy says it on a full disk
    assert raised.value.strerror == "12 requested and 0 written"
    assert raised.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_the_disk_leaves_the_old_file_and_no_other(tmp_path, step, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left") as error, atomic_write(path) as file:
        file.write(b"new")
    assert error.value.filename == str(path)
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"old"


def test_a_file_is_on_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def watched(*args, name=name, original=original):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, watched)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_permissions_follow_the_umask_and_the_umask_stays(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "file.json", {})
    finally:
        after = os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == mode
    assert after == umask


def test_a_drive_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(UserError, match="cannot write into Q: / is not a writable folder"):
        check_writable(Path("Q"))


def test_json_is_readable_and_nan_is_null_at_any_depth(tmp_path):
    nan = float("nan")
    content = {
        "few": nan,
        "per_class": [1.5, nan, None],
        "nested": {"tuple": (nan, 2, True, "text")},
        "numpy": np.float64("nan"),
    }
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text()
    assert "NaN" not in text and text.endswith("}\n") and text.count("\n") > 5
    assert json.loads(text) == {
        "few": None,
        "per_class": [1.5, None, None],
        "nested": {"tuple": [None, 2, True, "text"]},
        "numpy": None,
    }


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    for content in ({"inf": float("inf")}, {"object": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_many_calls_wait_at_once(monkeypatch):
    monkeypatch.setattr(files, "PART", 1)
    barrier = threading.Barrier(files.THREADS, timeout=60)
    found = of_each(lambda i: (barrier.wait(), i)[1], range(2 * files.THREADS))
    assert list(found) == list(range(2 * files.THREADS))


@pytest.mark.parametrize("count", [0, 1, 6, 7, 40])
def test_results_keep_the_order_of_the_items_and_a_part_of_these_is_read_at_a_time(
    count, monkeypatch
):
    monkeypatch.setattr(files, "PART", 3)
    monkeypatch.setattr(files, "PARTS", 2)
    delays = np.random.default_rng(0).uniform(0, 2e-3, count).tolist()
    read = []

    def items():
        for i in range(count):
            read.append(i)
            yield i

    found = of_each(lambda i: (time.sleep(delays[i]), i)[1], items())
    for i in range(count):
        assert next(found) == i and len(read) == min(count, 6 * (i // 6 + 1))
    assert list(found) == []


def test_an_error_ends_the_calls(monkeypatch):
    monkeypatch.setattr(files, "PARTS", 2)
    called = []

    def look(i):
        called.append(i)
        raise FileNotFoundError(i)

    with pytest.raises(FileNotFoundError, match="0"):
        list(of_each(look, range(1000)))
    assert len(called) <= 2


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000], ids=len)
def test_json_that_cannot_be_read_or_is_no_object_is_empty(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json") == {}
