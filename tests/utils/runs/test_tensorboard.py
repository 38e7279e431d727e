"""The TensorBoard events of a run, also of a resumed one."""

import json
import struct
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from tests.support.helpers import STAGE_1_NAME, read_summary, stage_1, succeed
from tests.support.made_up_records import COUNTS, record, write_log
from utils.runs import tensorboard
from utils.runs.epoch_log import flatten

tensorboardX = pytest.importorskip("tensorboardX", reason="no tensorboardX")
event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="no tensorboardX")


def events_of(folder):
    """Returns the events in the folder's files: length (8 bytes), checksum (4), event, checksum
    (4)."""
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


def test_tensorboard_hides_the_epochs_that_are_repeated(tmp_path):
    write_log(tmp_path, [record(1), record(2)])
    write_log(tmp_path, [record(3)], done_epochs=2)
    starts = [
        event.step
        for event in events_of(tmp_path)
        if event.session_log.status == event_pb2.SessionLog.START
    ]
    assert sorted(starts) == [1, 3]


def test_a_name_that_is_not_utf_8_is_shown_among_the_hyperparameters(tmp_path):
    with closing(tensorboard.EventFile(tmp_path, ".results")) as events:
        events.add_hyperparameters({"data_root": "caf\udce9"}, {}, 1)
    assert any(rb"caf\xe9" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_run_and_its_evaluation_add_their_results(tree, both):
    folder = both / STAGE_1_NAME
    succeed(stage_1(tree, both, "-e", "--readings", "linear,ncm_cosine"))
    values = [value for event in events_of(folder) for value in event.summary.value]
    assert [value.tag for value in values if value.HasField("image")] == ["report"]
    assert any(value.metadata.plugin_data.plugin_name == "hparams" for value in values)
    summary, readings = read_summary(folder), json.loads((folder / "readings.json").read_text())
    results, selected = summary["test"], summary["test"]["selected"]["epoch"]
    expected = {
        (f"test/{which}_{name}", summary["epochs"]): results[which][name]["top1"]
        for which in ("selected", "last")
        for name in ("linear", "ncm")
    }
    for name, accuracies in readings.items():
        for key in ("top1", "balanced", "worst"):
            expected[f"reading_{name}/{key}", selected] = accuracies[key]
    assert readings.keys() == {"linear", "ncm_cosine"}
    found = scalars_of(folder)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6)


def test_resuming_within_a_second_keeps_the_earlier_events(tmp_path, monkeypatch):
    """tensorboardX names its files by the second, and replaces one of the same name."""
    stopped_clock = SimpleNamespace(time=lambda: 1.7e9)
    monkeypatch.setattr(tensorboardX.event_file_writer, "time", stopped_clock)
    write_log(tmp_path, [record(1)])
    write_log(tmp_path, [record(2)], done_epochs=1)
    assert {step for _, step in scalars_of(tmp_path)} == {1, 2}


def test_a_machine_without_tensorboardx_trains_with_one_warning(tree, tmp_path, monkeypatch):
    """The module is hidden from this process. A run then writes everything except events."""
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboardX"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    tensorboard._has_tensorboard.cache_clear()
    try:
        outcome = succeed(stage_1(tree, tmp_path, "--epochs", 1))
    finally:
        tensorboard._has_tensorboard.cache_clear()
    said = [warning for warning in outcome.warnings if "tensorboardX" in warning]
    assert len(said) == 1 and not outcome.errors
    left = {path.name for path in (tmp_path / STAGE_1_NAME).iterdir()}
    assert {"summary.json", "log.csv", "report.png", "ckpt.pth.tar"} <= left
    assert not [name for name in left if name.startswith("events.")]
