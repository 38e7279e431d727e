"""`python -m benchmarks.throughput --quick`: what a whole run prints and writes; its processes."""

import contextlib
import io
import json
import os
import re
import signal
from contextlib import closing

import numpy as np
import pytest
import torch

from benchmarks import throughput
from benchmarks.settings import PHASES, settings_of
from benchmarks.side_process import PLAIN, SideProcess, side_names
from utils.errors import RunError, UserError

QUICK = settings_of(["--gpu", "cpu"], quick=True)

RATIO = r"training ratio: (\d+\.\d\d)\naugmentation ratio: (\d+\.\d\d)\n$"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run printed, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("throughput") / "results"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = throughput.main(["--quick", "-j", "1", "--output", str(folder)])
    assert status == 0
    return out.getvalue(), folder


@pytest.fixture(scope="module")
def record(quick):
    return json.loads((quick[1] / "throughput.json").read_text())


def test_the_last_two_lines_are_the_ratios(quick, record):
    ratios = re.search(RATIO, quick[0])
    assert [float(r) for r in ratios.groups()] == [
        pytest.approx(record[f"{kind}_ratio"], abs=0.006) for kind in ("training", "augmentation")
    ]


def test_every_quantity_is_measured_for_every_side(record):
    names = side_names(record["settings"]["precision"])
    assert names[0] == PLAIN and record["compared"] == [names[-1], PLAIN]
    found = {(m["quantity"], m["side"], m["size"]): m for m in record["measurements"]}
    for name in names:
        for phase in PHASES:
            for size in (1, 2, 4):
                whole, training = (
                    np.array(found[f"{phase} {quantity}", name, size]["values"])
                    for quantity in ("seconds", "training seconds")
                )
                assert (whole > training).all() and (training > 0).all()
        for kind in ("pretraining", "features", "evaluation", "augmentation"):
            assert len(found[f"{kind} images/s", name, None]["values"]) == 2
        assert 0.5 < found["start-up seconds", name, None]["median"] < 120
        assert 100 < found["peak MiB of process and workers", name, None]["median"] < 20_000
    for measured in found.values():
        assert measured["median"] == pytest.approx(np.median(measured["values"]))
        assert measured["quartiles"][0] <= measured["median"] <= measured["quartiles"][1]


def test_ratios_and_projection_follow_from_the_measurements(record):
    median = {(m["quantity"], m["side"], m["size"]): m["median"] for m in record["measurements"]}
    ours, plain = record["compared"]
    for kind, quantity in (
        ("training", "features images/s"),
        ("augmentation", "augmentation images/s"),
    ):
        expected = median[quantity, ours, None] / median[quantity, plain, None]
        assert record[f"{kind}_ratio"] == pytest.approx(expected)
    # At fraction 1 the first size is the whole set.
    for name, projected in record["projection"].items():
        seconds = [median[f"{phase} seconds", name, 1] for phase in PHASES]
        assert list(projected["epoch_seconds"].values()) == pytest.approx(seconds)
        expected = np.dot([200, 80, 20], seconds)
        assert projected["recipe_seconds"] == pytest.approx(expected)


def test_what_it_says_of_itself(quick, record):
    out, folder = quick
    assert "made-up" in out and "made-up" in record["images"]
    assert "PROJECTION" in out
    assert record["machine"]["torch"] == torch.__version__ and "threads" in record["machine"]
    assert record["images_per_epoch"]["full"] == record["images_per_epoch"]["1"]
    assert record["images_per_epoch"]["4"]["features"] == 160
    assert "command" in record and "commit" in record
    text = (folder / "throughput.md").read_text()
    assert re.search(RATIO.replace(r"\n", r" *\n"), text)
    assert all(cell in text for cell in ("PROJECTION", "start-up", "x4", "made-up"))


def test_a_side_works_in_its_own_process(tmp_path):
    with closing(SideProcess("ours float32", QUICK, tmp_path)) as side:
        process = side.ask("process_id", part=0.5)
        assert process != os.getpid() and side.ask("process_id") == process
        assert side.ask("device_memory", part=0.5) is None
        os.kill(process, signal.SIGKILL)
        with pytest.raises(RunError, match="ours float32: its process has ended"):
            side.ask("device_memory", part=0.5)


def test_an_error_in_the_process_of_a_side_is_raised_here(tmp_path):
    settings = settings_of(["--gpu", "cpu", "--data_root", "/nowhere"])
    with (
        closing(SideProcess("plain float32", settings, tmp_path)) as side,
        pytest.raises(UserError, match="/nowhere"),
    ):
        side.ask("process_id")
