"""The list of runs."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.made_up_runs import write_run
from utils.runs.__main__ import COLUMNS, main

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


def test_control_characters_of_names_and_records_are_escaped(tmp_path, capsys):
    write_run(tmp_path / "a\x1b[2J", dataset="\x1b[31m")
    (write_run(tmp_path / "b\n") / "args.json").write_text("{")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count("\n") == 7
    assert f"{tmp_path}/a\\x1b[2J\n" in out and f"{tmp_path}/b\\n\n    unreadable: " in out


def table(root, capsys):
    assert main([str(root), "--csv"]) == 0
    captured = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(captured.out))), captured.err


def test_the_table_has_a_row_of_numbers_for_each_run(tmp_path, capsys):
    parent = write_run(tmp_path / "a", heldout=True)
    write_run(parent / "robust", 1, stage=2, epochs=2, finished=False)
    (parent / ".ckpt.pth.tar.tmp").write_bytes(b"half of a file")
    rows, err = table(tmp_path, capsys)
    assert err == "" and list(rows[0]) == list(COLUMNS)
    size = sum((parent / f"{n}").stat().st_size for n in ("args.json", "log.jsonl", "summary.json"))
    first = {
        "folder": str(parent),
        **{"stage": "1", "seed": "0", "epochs": "4", "planned": "4", "is_finished": "True"},
        **{"selected_on": "test", "epoch": "3", "top1": "40.0", "top5": "60.0"},
        **{"balanced": "41.0", "macro_f1": "38.0", "many": "50.0", "medium": "40.5", "few": "30.0"},
        **{"ncm": "45.0", "heldout": "41.0", "last_top1": "39.0", "last_balanced": "40.0"},
        **{"seconds": "10.0", "bytes": str(size)},
    }
    assert "--imb_factor 0.05" in rows[0].pop("flags")
    assert rows[0] == first
    second = {"folder": str(parent / "robust"), "stage": "2", "is_finished": "False"}
    second |= {"epochs": "2", "planned": "4", "selected_on": "", "heldout": "", "epoch": "2"}
    assert second.items() <= rows[1].items() and len(rows) == 2


def test_the_table_names_unreadable_runs_on_standard_error(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", epochs=0, finished=False)
    (write_run(tmp_path / "c") / "args.json").write_text("{")
    (write_run(tmp_path / "d") / "args.json").write_text('{"feat_loss": 3, "pretrained": "a"}')
    rows, err = table(tmp_path, capsys)
    assert [Path(row["folder"]).name for row in rows] == ["a", "b"] and rows[1]["top1"] == ""
    assert f"{tmp_path / 'c'}\n    unreadable" in err and f"{tmp_path / 'd'}\n    unreadable" in err


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
    assert lines[4] == str(second)
    assert f"unreadable: {second}: not the records of a run" in lines[5]
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
