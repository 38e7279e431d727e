"""The logs of a run, epoch by epoch: log.csv, log.jsonl, and lines on the console."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.helpers import read_csv
from tests.support.made_up_records import (
    EMPTY_GROUP_COUNTS,
    LOSSES,
    reading,
    record,
    write_log,
)
from utils.runs.epoch_log import EpochLog, columns, console_line, duration, flatten
from utils.runs.records import read_epochs

ACCURACIES = ("top1", "top5", "balanced", "many", "medium", "few")
GEOMETRY = ("length", "within", "between", "centroid_error")


def test_the_csv_has_a_row_an_epoch_with_every_column(tmp_path):
    records = [record(epoch) for epoch in range(1, 5)]
    write_log(tmp_path, records)
    rows = read_csv(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["phase"] for row in rows] == ["features"] * 3 + ["classifier"]
    assert list(rows[0]) == [
        *("epoch", "phase", "lr", "seconds", "images_per_second"),
        *("train_loss", "train_ce_lt", "train_robust_loss", "train_ce", "train_top1"),
        *(
            f"{split}_{name}"
            for split in ("test", "heldout")
            for name in (
                "loss",
                *(f"linear_{a}" for a in ACCURACIES),
                *(f"ncm_{a}" for a in ACCURACIES),
                *GEOMETRY,
            )
        ),
        *("margin_min", "margin_mean", "margin_max"),
    ]
    assert list(rows[0]) == columns(LOSSES, ["test", "heldout"])


def test_a_row_holds_the_epochs_values_and_nothing_where_there_is_none(tmp_path):
    without = record(4, margins=False, ncm=False, counts=EMPTY_GROUP_COUNTS)
    write_log(tmp_path, [record(2), without])
    first, second = read_csv(tmp_path)
    assert float(first["lr"]) == 0.005 and float(first["seconds"]) == 14.5
    assert float(first["train_loss"]) == 3.25 / 2
    assert (float(first["train_ce_lt"]), float(first["train_robust_loss"])) == (0.5, 1.0)
    assert float(first["test_linear_top1"]) == 32 and float(first["test_ncm_few"]) == 23
    assert float(first["heldout_linear_many"]) == 42 and float(first["test_loss"]) == 1
    assert [float(first[f"test_{name}"]) for name in GEOMETRY] == [9.0, 10.0, 11.0, 8.5]
    margins = record(2)["margins"]
    found = [float(first[f"margin_{name}"]) for name in ("min", "mean", "max")]
    assert found == pytest.approx([min(margins), np.mean(margins), max(margins)], rel=1e-12)
    assert first["train_ce"] == ""
    empty = {name for name, value in second.items() if value == ""}
    assert empty == {
        *("train_ce_lt", "train_robust_loss", "test_linear_few", "heldout_linear_few"),
        *("margin_min", "margin_mean", "margin_max"),
        *(f"{split}_ncm_{a}" for split in ("test", "heldout") for a in ACCURACIES),
        *(f"{split}_{name}" for split in ("test", "heldout") for name in GEOMETRY),
    }
    assert float(second["train_ce"]) == 0.25


def test_an_earlier_log_without_balanced_accuracies_is_continued(tmp_path):
    """Its rows get the mean of the per-class accuracies, and nothing about the geometry of
    features."""
    earlier = record(1)
    for results in earlier["results"].values():
        del results["geometry"]
        for accuracies in results.values():
            del accuracies["balanced"]
    (tmp_path / "log.jsonl").write_text(json.dumps(earlier) + "\n")
    write_log(tmp_path, [record(2)], done_epochs=1)
    first, second = read_csv(tmp_path)
    per_class = earlier["results"]["test"]["ncm"]["per_class"]
    assert float(first["test_ncm_balanced"]) == pytest.approx(np.mean(per_class))
    assert first["test_length"] == "" and float(second["test_length"]) == 9.0
    assert float(second["test_ncm_balanced"]) == record(2)["results"]["test"]["ncm"]["balanced"]


def test_precision_and_recall_are_only_in_summaries(tmp_path):
    entry = record(1)
    lists = {"precision": [1.0, None], "recall": [2.0, 3.0]}
    entry["results"]["test"]["linear"] |= lists
    entry["results"]["test"]["ncm"] = None
    write_log(tmp_path, [entry])
    (logged,) = read_epochs(tmp_path)
    assert logged["results"]["test"]["linear"] == {**reading(31.0), "loss": 2.0}
    assert logged["results"]["test"]["ncm"] is None
    assert entry["results"]["test"]["linear"]["precision"] == lists["precision"]


def test_every_value_of_a_row_has_a_column():
    assert set(flatten(record(1))) | set(flatten(record(4))) == set(
        columns(LOSSES, ["test", "heldout"])
    )


def test_jsonl_gives_the_records_back_to_the_last_bit(tmp_path):
    records = [record(epoch) for epoch in range(1, 5)]
    records[0]["train_loss"] = 0.1 + 0.2
    write_log(tmp_path, records)
    assert read_epochs(tmp_path) == records
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("line", ['{"epoch": 2, "pha', "[" * 100_000], ids=len)
def test_records_end_before_a_line_that_cannot_be_read(line, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n' + line)
    assert read_epochs(tmp_path) == [{"epoch": 1}]


def test_records_of_a_folder_without_a_run_are_none(tmp_path):
    assert read_epochs(tmp_path) == []


def test_records_are_on_disk_after_each_epoch(tmp_path):
    log = EpochLog(tmp_path, LOSSES, ["test", "heldout"], 0)
    for epoch in (1, 2):
        log.add(record(epoch))
        assert [r["epoch"] for r in read_epochs(tmp_path)] == list(range(1, epoch + 1))
        assert len(read_csv(tmp_path)) == epoch
    log.close()


@pytest.mark.parametrize("done_epochs", [0, 2, 4])
def test_resuming_drops_the_rows_beyond_the_finished_epochs(tmp_path, done_epochs):
    interrupted, uninterrupted = tmp_path / "interrupted", tmp_path / "uninterrupted"
    for folder in (interrupted, uninterrupted):
        folder.mkdir()
    records = [record(epoch) for epoch in range(1, 6)]
    discarded = {**record(4), "train_loss": 99.0}
    write_log(interrupted, [*records[:3], discarded][: done_epochs + 1])
    assert len(read_epochs(interrupted)) == min(done_epochs + 1, 4)
    finished = read_epochs(interrupted)[:done_epochs]
    write_log(interrupted, records[done_epochs:], done_epochs)
    write_log(uninterrupted, [*finished, *records[done_epochs:]])
    for name in ("log.csv", "log.jsonl"):
        assert (interrupted / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_a_row_outlives_a_power_cut_as_the_checkpoint_of_its_epoch_does(tmp_path, monkeypatch):
    synchronised = []
    fsync = os.fsync

    def remember(descriptor):
        fsync(descriptor)
        synchronised.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", remember)
    write_log(tmp_path, [record(1)])
    assert {"log.jsonl", "log.csv"} <= set(synchronised)


def test_a_new_run_starts_with_empty_logs(tmp_path):
    write_log(tmp_path, [record(1), record(2)])
    write_log(tmp_path, [])
    assert read_epochs(tmp_path) == [] and read_csv(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_last_line_that_was_cut_off_is_dropped(tmp_path, cut):
    write_log(tmp_path, [record(1), record(2), record(3)])
    path = tmp_path / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: -cut - 1])
    # One character less than a line is a line without its closing bracket.
    assert [r["epoch"] for r in read_epochs(tmp_path)] == [1, 2]
    with open(tmp_path / "log.csv", "a") as file:
        file.write("4,featu")
    write_log(tmp_path, [record(3)], done_epochs=2)
    assert path.read_bytes() == whole
    assert [row["epoch"] for row in read_csv(tmp_path)] == ["1", "2", "3"]


def test_a_value_that_json_lacks_comes_back_too(tmp_path):
    """A test loss that overflowed must not make the log unreadable."""
    entry = record(1)
    entry["results"]["test"]["linear"]["loss"] = float("inf")
    write_log(tmp_path, [entry, record(2)])
    assert [r["epoch"] for r in read_epochs(tmp_path)] == [1, 2]
    assert read_epochs(tmp_path)[0] == entry


def test_the_console_line_says_how_the_epoch_went():
    entry = record(2, heldout=False)
    assert console_line(entry, 100, 3725.9) == (
        "features 2/100 | ce_lt 0.5000, robust_loss 1.0000 | test 32.00 %, NCM 33.00 % | "
        "margins 0.80 to 0.85 | 4000 images/s | 14.5 s, 1:02:05 left"
    )


def test_the_console_line_leaves_out_what_was_not_read():
    line = console_line(record(4, margins=False, ncm=False), 5, 0)
    assert "NCM" not in line and "margins" not in line and "\n" not in line
    assert line.startswith("classifier 4/5 | ce 0.2500 | test 34.00 % | heldout 34.00 % | ")


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00"), (61.9, "01:01"), (7325, "2:02:05")])
def test_durations_are_hours_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text
