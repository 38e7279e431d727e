"""`python -m benchmarks.throughput`: its parts and bad input; tests/slow has a whole quick run."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import report, rounds, throughput
from benchmarks.data import benchmark_data, scaled
from benchmarks.measure import Measurements, line_through
from benchmarks.memory import memory_of_tree
from benchmarks.settings import Settings


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
