"""`python -m benchmarks.throughput`: a whole quick run, what it prints and writes, bad input."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import report, rounds, throughput
from benchmarks.data import benchmark_data, scaled
from benchmarks.measure import PHASES, Measurements, line_through
from benchmarks.memory import memory_of_tree
from benchmarks.settings import Settings
from benchmarks.sides import PLAIN, side_names

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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--budget", "0"], "--budget"),
        (["--fraction", "2"], "--fraction"),
        (["--precision", "fp8"], "--precision fp8"),
        (["--step", "fast"], "--step fast"),
        (["--workers", "-1"], "-1"),
        (["--lengths", "1,2"], "--lengths 1,2"),
        (["--data_root", "/nowhere"], "--data_root /nowhere"),
        (["--end_to_end", "--data_root", "/nowhere"], "/nowhere"),
        (["--end_to_end", "--quick"], "--quick"),
        (["--unknown"], "--unknown"),
        (["--quick", "--output", "/dev/null/results"], "/dev/null"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv, said, capsys, tmp_path):
    folder = tmp_path / "results"
    assert throughput.main(["--output", str(folder), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("throughput: error: ") and said in err
    assert err.count("\n") == 1
    assert not folder.exists()


def test_scaled_data_keep_their_shape():
    settings = Settings(dataset="cifar10", imb_factor=0.5, quick=True)
    data, _ = benchmark_data(settings)
    for factor in (0.5, 1, 2, 4):
        part = scaled(data, factor)
        expected = [int(np.ceil(factor * count)) for count in data.class_counts]
        assert part.class_counts == expected
        assert len(part.test) == factor * len(data.test)
        assert len(part.heldout) == np.ceil(factor * len(data.heldout))
    assert scaled(data, 1).fingerprint == data.fingerprint
    half = scaled(data, 0.5).test.labels
    assert torch.equal(half, torch.arange(10))  # spread over the classes


def test_made_up_images_have_the_sizes_of_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, images = benchmark_data(Settings())
    assert "made-up" in images
    assert len(data.train) == 10_847 and len(data.test) == 10_000 and len(data.heldout) == 1_980
    assert max(data.class_counts) == 500 and min(data.class_counts) == 5


def test_a_line_with_a_fixed_part_that_is_not_negative():
    assert line_through([1, 2, 4], [7, 9, 13]) == pytest.approx((5, 2))
    fixed, slope = line_through([1, 2, 4], [1, 2.5, 6])
    assert fixed == 0 and slope == pytest.approx(30 / 21)


def test_medians_and_quartiles():
    found = Measurements()
    for value in (1, 5, 2, 4, 3):
        found.add("speed", "ours", value, 2)
    found.add("speed", "plain", 100)
    ours, plain = found.summary()
    assert (ours["median"], ours["quartiles"], ours["size"]) == (3, [2, 4], 2)
    assert plain["values"] == [100]
    assert found.text("speed", "ours", 2) == "3 (2 to 4)"
    assert found.text("speed", "plain") == "100" and found.text("speed", "nobody") == ""


def test_rounds_end_in_time(monkeypatch):
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: 30.0)
    assert rounds._time_left(began=10.0, rounds=2, deadline=41.0)
    assert not rounds._time_left(began=10.0, rounds=2, deadline=39.0)


@pytest.mark.parametrize(
    ("seconds", "left", "expected"), [(1, 1e9, 0.02), (10, 150, 0.008), (2, 60, 0.008 * 60 / 42)]
)
def test_no_more_images_than_there_is_time_for(seconds, left, expected, monkeypatch):
    """A warm-up and two rounds of one, two and four times the images: 21 visits of a side."""
    data, _ = benchmark_data(Settings(dataset="cifar10", imb_factor=0.5, quick=True))
    now = [0.0]

    class Visited:
        settings = Settings()

        def visit(self, name, data):
            now[0] += seconds / 2  # of two sides

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])
    found = rounds.affordable(Visited(), data, (1, 2, 4), deadline=left + seconds)
    assert found == pytest.approx(expected)


def test_the_memory_of_workers_counts():
    """A child that holds 200 MB of its own is seen from here, as long as it lives."""
    code = "x = b'1' * 200_000_000; print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    before = memory_of_tree(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        child.stdout.readline()
        during = memory_of_tree(os.getpid())
        child.communicate(b"\n")
    assert 190e6 < during - before < 400e6
    assert memory_of_tree(os.getpid()) - before < 50e6


def test_tables():
    rows = [["", "a"], ["long", "1.00"]]
    assert report.as_text(rows) == "         a\nlong  1.00"
    assert report.as_markdown(rows) == "|  | a |\n|---|---|\n| long | 1.00 |"
