"""What a run leaves behind: logs, TensorBoard events, tables, the report, files that are whole."""

import csv
import io
import json
import os
import stat
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorboardX
import torch
from PIL import Image
from tensorboardX.proto import event_pb2

from utils import report
from utils.files import atomic_write, write_json
from utils.progress import Progress
from utils.report import write_report
from utils.report.records import read_epochs
from utils.runlog import RunLog, columns, console_line, duration, flatten
from utils.summary import accuracy_table, per_class_table

LOSSES = ["ce_lt", "robust_loss", "ce"]
COUNTS = [150, 120, 60, 25, 19, 4]
EMPTY_GROUP_COUNTS = [150, 120, 60, 25, 24, 20]


def reading(base, counts=COUNTS):
    """Accuracies as `accuracy_record` gives them, a group without classes as None."""
    has_few = min(counts) < 20
    return {
        "top1": base,
        "top5": base + 20,
        "many": base + 10,
        "medium": base + 0.5,
        "few": base - 10 if has_few else None,
        "per_class": [base + 10 - 3 * k for k in range(len(counts))],
    }


def record(epoch, margins=True, heldout=True, ncm=True, counts=COUNTS, phase=None):
    """An epoch as the trainer records it: features up to epoch 3, then the classifier."""
    phase = phase or ("features" if epoch <= 3 else "classifier")
    splits = ("test", "heldout") if heldout else ("test",)
    names = ["ce_lt", "robust_loss"] if phase == "features" else ["ce"]
    return {
        "epoch": epoch,
        "phase": phase,
        "lr": 0.005,
        "seconds": 12.5 + epoch,
        "images_per_second": 4000.5,
        "train_loss": 3.25 / epoch,
        "losses": {name: (i + 1) / epoch for i, name in enumerate(names)},
        "train_top1": 40.0 + epoch,
        "results": {
            split: {
                "linear": {**reading(30.0 + epoch, counts), "loss": 2.0 / epoch},
                "ncm": reading(31.0 + epoch, counts) if ncm else None,
            }
            for split in splits
        },
        "margins": [1 - 0.1 * epoch + 0.01 * k for k in range(len(counts))] if margins else None,
    }


def write_log(folder, records, done_epochs=0, splits=("test", "heldout")):
    log = RunLog(folder, LOSSES, list(splits), done_epochs)
    for entry in records:
        log.add(entry)
    log.close()


def rows_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


# -------- log.csv and log.jsonl --------


def test_the_csv_has_a_row_an_epoch_with_every_column(tmp_path):
    records = [record(epoch) for epoch in range(1, 5)]
    write_log(tmp_path, records)
    rows = rows_of(tmp_path)
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
                *(f"linear_{a}" for a in ("top1", "top5", "many", "medium", "few")),
                *(f"ncm_{a}" for a in ("top1", "top5", "many", "medium", "few")),
            )
        ),
        *("margin_min", "margin_mean", "margin_max"),
    ]
    assert list(rows[0]) == columns(LOSSES, ["test", "heldout"])


def test_a_row_holds_the_epochs_values_and_nothing_where_there_is_none(tmp_path):
    without = record(4, margins=False, ncm=False, counts=EMPTY_GROUP_COUNTS)
    write_log(tmp_path, [record(2), without])
    first, second = rows_of(tmp_path)
    assert float(first["lr"]) == 0.005 and float(first["seconds"]) == 14.5
    assert float(first["train_loss"]) == 3.25 / 2
    assert (float(first["train_ce_lt"]), float(first["train_robust_loss"])) == (0.5, 1.0)
    assert float(first["test_linear_top1"]) == 32 and float(first["test_ncm_few"]) == 23
    assert float(first["heldout_linear_many"]) == 42 and float(first["test_loss"]) == 1
    margins = record(2)["margins"]
    found = [float(first[f"margin_{name}"]) for name in ("min", "mean", "max")]
    assert found == pytest.approx([min(margins), np.mean(margins), max(margins)], rel=1e-12)
    assert first["train_ce"] == ""
    empty = {name for name, value in second.items() if value == ""}
    assert empty == {
        *("train_ce_lt", "train_robust_loss", "test_linear_few", "heldout_linear_few"),
        *("margin_min", "margin_mean", "margin_max"),
        *(
            f"{split}_ncm_{a}"
            for split in ("test", "heldout")
            for a in ("top1", "top5", "many", "medium", "few")
        ),
    }
    assert float(second["train_ce"]) == 0.25


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


def test_records_of_a_folder_without_a_run_are_none(tmp_path):
    assert read_epochs(tmp_path) == []


def test_records_are_on_disk_after_each_epoch(tmp_path):
    log = RunLog(tmp_path, LOSSES, ["test", "heldout"], 0)
    for epoch in (1, 2):
        log.add(record(epoch))
        assert [r["epoch"] for r in read_epochs(tmp_path)] == list(range(1, epoch + 1))
        assert len(rows_of(tmp_path)) == epoch
    log.close()


@pytest.mark.parametrize("done_epochs", [0, 2, 4])
def test_going_on_drops_the_rows_beyond_the_finished_epochs(tmp_path, done_epochs):
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


def test_a_new_run_starts_with_empty_logs(tmp_path):
    write_log(tmp_path, [record(1), record(2)])
    write_log(tmp_path, [])
    assert read_epochs(tmp_path) == [] and rows_of(tmp_path) == []


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
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1", "2", "3"]


def test_a_value_that_json_lacks_comes_back_too(tmp_path):
    """A test loss that overflowed must not make the log unreadable."""
    entry = record(1)
    entry["results"]["test"]["linear"]["loss"] = float("inf")
    write_log(tmp_path, [entry, record(2)])
    assert [r["epoch"] for r in read_epochs(tmp_path)] == [1, 2]
    assert read_epochs(tmp_path)[0] == entry


# -------- TensorBoard --------


def events_of(folder):
    """Events of the folder's files: length (8 bytes), checksum (4), event, checksum (4)."""
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def scalars_of(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events_of(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_tensorboard_gets_every_number_of_an_epoch(tmp_path):
    records = [record(2), record(4, ncm=False)]
    write_log(tmp_path, records)
    scalars = scalars_of(tmp_path)
    expected = {}
    for entry in records:
        for name, value in flatten(entry).items():
            if name not in ("epoch", "phase") and value is not None:
                expected[name.replace("_", "/", 1), entry["epoch"]] = value
    assert scalars.keys() == expected.keys()
    assert len(expected) > 50
    for key, value in expected.items():
        assert scalars[key] == pytest.approx(value, rel=1e-6), key
    assert scalars["test/linear_top1", 2] == 32 and scalars["lr", 4] == pytest.approx(0.005)


def test_tensorboard_gets_the_distribution_of_the_margins(tmp_path):
    write_log(tmp_path, [record(1), record(2), record(3, margins=False)])
    histograms = {
        event.step: value.histo
        for event in events_of(tmp_path)
        for value in event.summary.value
        if value.tag == "margins"
    }
    assert histograms.keys() == {1, 2}
    assert histograms[2].num == len(COUNTS)
    assert histograms[2].min == pytest.approx(min(record(2)["margins"]))


def test_tensorboard_hides_the_epochs_that_are_done_again(tmp_path):
    write_log(tmp_path, [record(1), record(2)])
    write_log(tmp_path, [record(3)], done_epochs=2)
    starts = [
        event.step
        for event in events_of(tmp_path)
        if event.session_log.status == event_pb2.SessionLog.START
    ]
    assert sorted(starts) == [1, 3]


def test_going_on_within_a_second_keeps_the_earlier_events(tmp_path, monkeypatch):
    """tensorboardX names its files by the second, and replaces one of the same name."""
    stopped_clock = SimpleNamespace(time=lambda: 1.7e9)
    monkeypatch.setattr(tensorboardX.event_file_writer, "time", stopped_clock)
    write_log(tmp_path, [record(1)])
    write_log(tmp_path, [record(2)], done_epochs=1)
    assert {step for _, step in scalars_of(tmp_path)} == {1, 2}


# -------- the console --------


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


# -------- tables --------


def test_the_table_of_accuracies_has_group_sizes_and_two_decimals():
    table = accuracy_table({"linear": reading(40.123), "NCM by cosine": reading(41)}, COUNTS)
    head, linear, ncm = table.splitlines()
    assert head.split() == ["top-1", "top-5", "many", "(2)", "medium", "(2)", "few", "(2)"]
    assert linear.split() == ["linear", "40.12", "60.12", "50.12", "40.62", "30.12"]
    assert ncm.split() == ["NCM", "by", "cosine", "41.00", "61.00", "51.00", "41.50", "31.00"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_an_empty_group_reads_not_available():
    table = accuracy_table({"linear": reading(40, EMPTY_GROUP_COUNTS)}, EMPTY_GROUP_COUNTS)
    head, linear = table.splitlines()
    assert head.split() == ["top-1", "top-5", "many", "(2)", "medium", "(4)", "few", "(0)"]
    assert linear.split() == ["linear", "40.00", "60.00", "50.00", "40.50", "n/a"]


def test_the_table_of_classes_goes_from_the_largest_to_the_smallest():
    class Data:
        class_counts = (5, 500, 50)
        class_names = ("owl", "apple", "aquarium_fish")

    linear = {"per_class": [10.0, 99.96, None]}
    ncm = {"per_class": [20.0, 30.25, 50.0]}
    lines = [line.split() for line in per_class_table(linear, ncm, Data()).splitlines()]
    assert lines == [
        ["class", "images", "linear", "NCM"],
        ["apple", "500", "100.0", "30.2"],
        ["aquarium_fish", "50", "n/a", "50.0"],
        ["owl", "5", "10.0", "20.0"],
    ]


# -------- the report --------


@pytest.fixture
def drawn(monkeypatch):
    """The titles of the panels that `write_report` drew, and their axes."""
    panels = {}
    close = report.plt.close

    def keep(figure):
        panels.clear()
        panels.update({a.get_title(): a for a in figure.axes if a.get_title()})
        close(figure)

    monkeypatch.setattr(report.plt, "close", keep)
    return panels


@pytest.fixture
def unrendered(monkeypatch):
    """The page is laid out and drawn, but not turned into pixels, which takes a second."""
    monkeypatch.setattr(
        report.plt.Figure, "savefig", lambda self, file, **settings: file.write(b"pixels")
    )


def finished_run(folder, counts=COUNTS, **settings):
    write_log(folder, [record(epoch, counts=counts, **settings) for epoch in range(1, 6)])
    labels = np.repeat(np.arange(6), 10)
    preds = np.where(np.arange(60) % 3 == 0, 0, labels)
    np.savez(folder / "predictions.npz", labels=labels, preds=preds)
    selected = record(4, counts=counts)["results"]["test"]
    return {"epoch": 4, **selected}


def check_png(path, rows):
    """A page of three columns, which shows something."""
    assert path.name == "report.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert (width, height) == (1650, pytest.approx(484 * rows, abs=2))
    assert 0.01 < (pixels != 255).any(axis=2).mean() < 0.9
    assert 20_000 < path.stat().st_size < 1_000_000


TRAINING = {"Losses", "Accuracy on the test set"}
BY_SIZE = "Accuracy of each class against its size"
MARGINS = {"Margins: mean and range of each group", "Margins against class size, epoch 5"}
CONFUSION = "Confusion on the test set, classes by size"


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_report_of_a_finished_run_shows_everything(tmp_path, drawn):
    selected = finished_run(tmp_path)
    path = write_report(tmp_path, COUNTS, selected)
    check_png(path, rows=2)
    assert drawn.keys() == {*TRAINING, BY_SIZE, *MARGINS, CONFUSION}
    assert legend_of(drawn["Losses"]) == [
        "train ce_lt",
        "train robust_loss",
        "train ce",
        "test cross-entropy",
    ]
    assert legend_of(drawn[BY_SIZE]) == ["many (2)", "medium (2)", "few (2)"]
    robust = drawn["Losses"].get_lines()[1]
    np.testing.assert_allclose(robust.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(robust.get_ydata(), [2, 1, 2 / 3])
    many = drawn[BY_SIZE].collections[0].get_offsets()
    np.testing.assert_allclose(many, [[150, 44], [120, 41]])  # of the selected epoch, 4
    few = drawn["Margins: mean and range of each group"].get_lines()[2]
    expected = [np.mean(record(epoch)["margins"][4:]) for epoch in range(1, 6)]
    np.testing.assert_allclose(few.get_ydata(), expected)
    shares = drawn[CONFUSION].images[0].get_array()
    assert shares.shape == (6, 6)
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    np.testing.assert_allclose(shares[0, 0], 100)
    assert shares[1, 0] + shares[1, 1] == pytest.approx(100)


def test_the_confusion_matrix_is_ordered_by_class_size(tmp_path, drawn, unrendered):
    selected = finished_run(tmp_path, counts=COUNTS[::-1])
    write_report(tmp_path, COUNTS[::-1], selected)
    shares = drawn[CONFUSION].images[0].get_array()
    assert shares[5, 5] == 100  # class 0, the smallest here, is always right
    assert (shares[:5, 5] > 0).all()


def test_the_report_of_an_unfinished_run_shows_its_last_epoch(tmp_path, drawn):
    write_log(tmp_path, [record(epoch) for epoch in range(1, 4)])
    check_png(write_report(tmp_path, COUNTS, None), rows=2)
    assert drawn.keys() == {*TRAINING, BY_SIZE} | {
        "Margins: mean and range of each group",
        "Margins against class size, epoch 3",
    }
    points = drawn[BY_SIZE].collections[0].get_offsets()
    np.testing.assert_allclose(points, [[150, 43], [120, 40]])


def test_the_report_of_a_run_without_margins_has_no_margins(tmp_path, drawn):
    selected = finished_run(tmp_path, margins=False)
    check_png(write_report(tmp_path, COUNTS, selected), rows=2)
    assert drawn.keys() == {*TRAINING, BY_SIZE, CONFUSION}


def test_the_report_of_a_run_with_an_empty_group_leaves_it_out(tmp_path, drawn):
    counts = EMPTY_GROUP_COUNTS
    selected = finished_run(tmp_path, counts=counts)
    check_png(write_report(tmp_path, counts, selected), rows=2)
    assert legend_of(drawn[BY_SIZE]) == ["many (2)", "medium (4)"]
    accuracies = legend_of(drawn["Accuracy on the test set"])
    assert accuracies == ["linear, all", "linear, many", "linear, medium", "NCM, all"]
    assert legend_of(drawn["Margins: mean and range of each group"]) == ["many", "medium"]


def test_the_report_of_a_class_without_test_images_leaves_it_out(tmp_path, drawn, unrendered):
    selected = finished_run(tmp_path)
    selected["linear"]["per_class"][0] = None
    write_report(tmp_path, COUNTS, selected)
    points = drawn[BY_SIZE].collections[0].get_offsets()
    assert np.isnan(np.ma.filled(points, np.nan)[0, 1]) and points[1, 1] == 41


def test_the_report_of_a_run_without_epochs_is_a_page_still(tmp_path, drawn):
    path = write_report(tmp_path, COUNTS, None)
    assert drawn == {}
    with Image.open(path) as image:
        assert image.size[0] == 1650


def test_the_same_records_give_the_same_report(tmp_path):
    selected = finished_run(tmp_path)
    first = write_report(tmp_path, COUNTS, selected).read_bytes()
    assert write_report(tmp_path, COUNTS, selected).read_bytes() == first
    assert report.plt.get_fignums() == []


# -------- files --------


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


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_the_disk_leaves_the_old_file_and_no_other(tmp_path, step, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
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


# -------- progress --------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_progress(every=2, losses=(4.0, 3.0, 2.0, 1.0)):
    """The texts that stood beside the bar, one for each batch."""
    shown = []
    with Progress("features 1/3", len(losses), every) as bar:
        for loss in losses:
            bar.advance(torch.tensor(loss))
            shown.append(getattr(bar.bar, "postfix", None))
    return shown


def test_without_a_terminal_progress_prints_nothing(capsys):
    run_progress()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_on_a_terminal_progress_shows_title_count_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run_progress()
    assert "features 1/3" in terminal.getvalue() and "0/4" in terminal.getvalue()
    assert "batch/s" in terminal.getvalue()


def test_the_bar_moves_every_so_many_batches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    counts = []
    with Progress("title", 7, 3) as bar:
        for _ in range(7):
            bar.advance(torch.tensor(1.0))
            counts.append(bar.bar.n)
    assert counts == [0, 0, 3, 3, 3, 6, 6]


def test_the_bar_shows_only_losses_that_a_batch_had(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = [text for text in run_progress() if text]
    assert shown
    assert set(shown) <= {f"loss={loss:.4f}" for loss in (4.0, 3.0, 2.0, 1.0)}
