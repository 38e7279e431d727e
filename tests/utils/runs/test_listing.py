"""The list of runs."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.made_up_runs import write_run
from utils.runs.__main__ import main

EARLIER = Path(__file__).parent / "earlier"


def test_it_shows_name_flags_progress_and_result_of_every_run(capsys):
    assert main([str(EARLIER)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = sorted(path.parent for path in EARLIER.rglob("args.json"))
    assert lines[0] == str(first) and lines[4] == str(second)
    assert lines[-1] == f"2 runs below {EARLIER}"
    for word in ("stage 1", "--dataset digits", "--arch resnet20", "--batch-size 64", "--seed 0"):
        assert word in lines[1]
    assert "--lr" not in lines[1] and "--gpu" not in lines[1]
    assert "1 of 1 epochs" in lines[2]
    summary = json.loads((first / "summary.json").read_text())["test"]["selected"]
    assert f"test top-1 {summary['linear']['top1']:.2f} %" in lines[3]
    assert f"NCM {summary['ncm']['top1']:.2f} %" in lines[3]
    assert "selected on test" in lines[3]
    assert "--feat_loss ce,robust_loss" in lines[5] and "--balanced_clf_nepochs 1" in lines[5]


def test_the_place_of_the_data_is_named_as_a_shell_reads_it(tmp_path, capsys):
    write_run(tmp_path / "run", dataset="folder", data_root="my photos")
    assert main([str(tmp_path)]) == 0
    flags = capsys.readouterr().out.splitlines()[1]
    assert flags.endswith("--data_root 'my photos'") and "--list_root" not in flags


def test_an_unfinished_run_and_an_unreadable_one_are_listed_too(tmp_path, capsys):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    first, second = sorted(path.parent for path in tmp_path.rglob("args.json"))
    (first / "summary.json").unlink()
    (second / "args.json").write_text("{")
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 of 1 epochs, not finished" in lines[2] and "the last so far" in lines[3]
    assert "unreadable" in lines[5]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("summary.json", lambda content: content.pop("selected_on")),
        ("summary.json", lambda content: content["test"]["selected"]["linear"].update(top1=None)),
        ("args.json", lambda content: content.update(feat_loss=3)),
    ],
)
def test_an_odd_value_in_a_record_hides_no_other_run(name, spoil, tmp_path, capsys):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    first, second = sorted(path.parent for path in tmp_path.rglob("args.json"))
    content = json.loads((second / name).read_text())
    spoil(content)
    (second / name).write_text(json.dumps(content))
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(first) and "selected on test" in lines[3]
    assert lines[4] == str(second) and "unreadable: not the records of a run" in lines[5]
    assert lines[6:] == [f"2 runs below {tmp_path}"]


def test_a_folder_that_fails_to_be_read_is_named(tmp_path, monkeypatch, capsys):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def failing(path):
        if Path(path) == closed:
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == str(closed)
    assert lines[-2:] == ["    cannot be read: Input/output error", f"2 runs below {tmp_path}"]


def test_no_such_folder_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "none" in captured.err and not captured.out
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"0 runs below {tmp_path}\n"
