"""`python -m benchmarks.throughput`: its parts and bad input; tests/slow has a whole quick run."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import rounds, throughput
from benchmarks.data import benchmark_data, scaled
from benchmarks.measurements import Measurements, line_through
from benchmarks.memory import PeakMemory, memory_of_tree
from benchmarks.report import Report
from benchmarks.settings import PHASES, RECIPE, settings_of
from benchmarks.sides import SIZES, SideProcess, device_memory, process_of, side_names
from datasets.samplers import visits_every_class
from utils.errors import RunError, UserError
from utils.options.parse import parse_stages

QUICK = settings_of(["--gpu", "cpu"], quick=True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--budget", "0"], "--budget"),
        (["--fraction", "2"], "--fraction"),
        (["--precision", "fp8"], "--precision"),
        (["--step", "fast"], "--step"),
        (["--step", "graph", "--gpu", "cpu"], "--step graph"),
        (["--dataset", "digits"], "--dataset digits"),
        (["--mixup", "0.2"], "--mixup: not a flag of benchmarks"),
        (["--workers", "-1"], "-1"),
        (["--lengths", "1,2"], "--lengths: 1,2"),
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
    data, _ = benchmark_data(QUICK)
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
    data, images = benchmark_data(settings_of([]))
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
    assert plain["values"] == [100] and plain["size"] is None
    texts = found.texts()
    assert texts.loc[("speed", 2), "ours"] == "3 (2 to 4)"
    assert texts.loc[("speed", 0), "plain"] == "100"
    assert found.medians().loc[("speed", 2), "ours"] == 3


def test_a_command_of_main_trains_both_stages_for_the_lengths():
    command = settings_of(["-a", "resnet20"]).command(RECIPE | {"pretraining": 7}, "runs")
    first, second = parse_stages(command)
    assert (first.epochs, first.arch, first.root_log) == (7, "resnet20", "runs")
    assert (second.epochs, second.balanced_clf_nepochs, second.feat_lr) == (100, 20, 0.005)


def made_up_measurements(seconds):
    """Epochs that take 1 + images · `seconds` of a side, and twice the rate of the plain loop."""
    found = Measurements()
    for name in side_names("bf16"):
        found.add("features images/s", name, 50.0 if name.startswith("plain") else 100.0)
        found.add("augmentation images/s", name, 7.0)
        for size in (1, 2):
            for phase in PHASES:
                images = size * (3 if phase == "pretraining" else 10)
                value = 1 + images * seconds[name]
                found.add(f"{phase} seconds", name, value, size)
                found.add(f"{phase} training seconds", name, value / 2, size)
    return found


def test_the_tables_of_a_report(tmp_path, monkeypatch):
    """Of parts of the images, the full length is projected by a line through their sizes."""
    settings = QUICK.with_flags("--precision", "bf16")
    monkeypatch.setattr("utils.machine.device.has_native_bf16", lambda device: True)
    data, _ = benchmark_data(QUICK)  # 25 training images, and 40 in an epoch of stage 2
    seconds = {"plain float32": 3.0, "ours float32": 2.0, "ours bf16": 1.0}
    report = Report(settings, "noise", data, {1: 0.1, 2: 0.5}, made_up_measurements(seconds))
    report.sizes = {1: {"pretraining": 3, "features": 10, "classifier": 10}}
    report.sizes[2] = {phase: 2 * images for phase, images in report.sizes[1].items()}
    for name, each in seconds.items():
        assert report.projected[name].tolist() == pytest.approx(
            [1 + 25 * each, *[1 + 40 * each] * 2]
        )
        expected = 200 * (1 + 25 * each) + 100 * (1 + 40 * each)
        assert report.recipe_seconds[name] == pytest.approx(expected)
    assert report.ratio_lines() == "training ratio: 2.00\naugmentation ratio: 1.00"
    medians, growth, epochs, projection = report.tables.values()
    assert medians.loc["augmentation to batches, images/s"].tolist() == ["7", "7", "7", "1"]
    row = growth.loc["stage 2, features, x2"].tolist()
    assert row == [20, "30.5, 1.97", "20.5, 1.95", "10.5, 1.91", "2.00"]
    assert epochs.loc["stage 1, x1"].tolist() == ["10", "7", "4"]
    assert projection.loc["all, minutes", "plain / ours bf16"] == "2.94"
    report.write(tmp_path)
    text = (tmp_path / "throughput.md").read_text()
    assert "| stage 1, x1 | 10 | 7 | 4 |\n| stage 1, x2 |" in text
    assert text.endswith("training ratio: 2.00  \naugmentation ratio: 1.00\n")


def test_rounds_end_in_time(monkeypatch):
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: 30.0)
    assert rounds._time_left(began=10.0, rounds=2, deadline=41.0)
    assert not rounds._time_left(began=10.0, rounds=2, deadline=39.0)


@pytest.mark.parametrize(
    ("seconds", "left", "expected"),
    [(1, 1e9, 0.02), (10, 150, 0.008), (2, 60, 0.008), (2, 64, 0.012)],
)
def test_no_more_images_than_there_is_time_for(seconds, left, expected, monkeypatch):
    """A warm-up and two rounds of one, two and four times the images: 21 visits of a side."""
    now = [0.0]

    class Visited:
        def ask(self, function, part):
            now[0] += seconds / 2  # of two sides

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])
    found = rounds.affordable([Visited(), Visited()], (1, 2, 4), deadline=left + seconds)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("part", [*rounds.PARTS, *throughput.RATE_PARTS, throughput.MEMORY_PART])
def test_every_class_is_visited_on_a_part_of_the_images(part):
    """As the paper's sampler must; of CIFAR-100, whose largest class has 500 images."""
    for size in SIZES if part in rounds.PARTS else (1,):
        assert visits_every_class(100, math.ceil(500 * part * size), 4)


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


def test_the_most_memory_is_remembered(monkeypatch):
    seen = iter([2 * 2**20, 5 * 2**20])
    monkeypatch.setattr("benchmarks.memory.INTERVAL", 0.001)
    monkeypatch.setattr("benchmarks.memory.memory_of_tree", lambda process: next(seen, 3 * 2**20))
    with PeakMemory(1) as peak:
        while peak.mebibytes < 5:
            time.sleep(0.001)
    assert peak.mebibytes == 5 and not peak.is_alive()


def failing(side):
    raise UserError(f"{type(side).__name__} on {len(side.data.train)} images")


def ending(side):
    os._exit(3)


def test_a_side_works_in_a_process_of_its_own(tmp_path):
    """What fails there fails here; a process that ends is a failure of the run."""
    side = SideProcess("ours float32", QUICK, tmp_path)
    try:
        process = side.ask(process_of, 0.5)
        assert process != os.getpid() and side.ask(process_of, 0.5) == process
        assert side.ask(device_memory, 0.5) is None
        with pytest.raises(UserError, match="OurSide on 14 images"):
            side.ask(failing, 0.5)
        with pytest.raises(RunError, match="ours float32: its process has ended"):
            side.ask(ending)
    finally:
        side.close()
