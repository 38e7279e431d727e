"""`python -m benchmarks.throughput`: its parts, and bad input. tests/slow has a whole quick run."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch

from benchmarks import end_to_end, rounds, throughput
from benchmarks.data import benchmark_data, scaled
from benchmarks.measurements import Measurements, line_through
from benchmarks.memory import PeakMemory, memory_of_tree
from benchmarks.report import Report, markdown
from benchmarks.settings import PHASES, RECIPE, settings_of
from benchmarks.side import EpochTime
from benchmarks.side_process import SIZES, SideProcess, side_names
from datasets.samplers import visits_every_class
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
        (["--lengths", "1,2"], "--lengths: '1,2' is not"),
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


def test_made_up_data_have_the_sizes_of_real_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, images = benchmark_data(settings_of([]))
    assert "made-up" in images
    assert len(data.train) == 10_847 and len(data.test) == 10_000 and len(data.heldout) == 1_980
    assert max(data.class_counts) == 500 and min(data.class_counts) == 5


def test_the_fixed_part_of_a_line_is_not_negative():
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
    assert found.text("speed", "ours", 2) == "3 (2 to 4)"
    assert found.text("speed", "plain") == "100"
    assert found.median("speed", "ours", 2) == 3
    assert found.without_size() == ["speed"]


def test_a_table_in_markdown_has_columns_of_equal_width():
    table = markdown([["", "seconds"], ["stage 1", "3"]])
    assert table == "|         | seconds |\n| ------- | ------- |\n| stage 1 | 3       |"


def test_a_command_of_main_trains_both_stages_for_the_lengths():
    command = settings_of(["-a", "resnet20"]).command(RECIPE | {"pretraining": 7}, "runs")
    first, second = parse_stages(command)
    assert (first.epochs, first.arch, first.root_log) == (7, "resnet20", "runs")
    assert (second.epochs, second.balanced_clf_nepochs, second.feat_lr) == (100, 20, 0.005)


def made_up_measurements(seconds):
    """Returns epochs of 1 + images · `seconds` of a side, and a rate that is twice the plain
    loop's."""
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


def cells(text):
    """Returns the cells of each row of Markdown tables, by the first cell."""
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    return {title: row for title, *row in rows}


def test_the_tables_of_a_report(tmp_path, monkeypatch):
    """A line through the sizes projects the full length from parts of the images."""
    settings = QUICK.with_flags("--precision", "bf16")
    monkeypatch.setattr("utils.machine.device.has_native_bf16", lambda device: True)
    data, _ = benchmark_data(QUICK)  # 25 training images, and 40 in an epoch of stage 2
    seconds = {"plain float32": 3.0, "ours float32": 2.0, "ours bf16": 1.0}
    report = Report(settings, "noise", data, {1: 0.1, 2: 0.5}, made_up_measurements(seconds))
    report.sizes = {1: {"pretraining": 3, "features": 10, "classifier": 10}}
    report.sizes[2] = {phase: 2 * images for phase, images in report.sizes[1].items()}
    for name, each in seconds.items():
        projected = report.projection(name)
        assert list(projected["epoch_seconds"].values()) == pytest.approx(
            [1 + 25 * each, *[1 + 40 * each] * 2]
        )
        expected = 200 * (1 + 25 * each) + 100 * (1 + 40 * each)
        assert projected["recipe_seconds"] == pytest.approx(expected)
    assert report.ratio_lines() == "training ratio: 2.00\naugmentation ratio: 1.00"
    medians, training, epochs, projection = map(cells, report.text().split("\n## "))
    assert medians["augmentation images/s"] == ["7", "7", "7", "1"]
    assert medians["features images/s"] == ["50", "100", "100", "2"]
    row = ["20", "30.5, 1.97", "20.5, 1.95", "10.5, 1.91", "2.00"]
    assert training["features, x2"] == row
    assert epochs["pretraining, x1"] == ["3", "10, 1.00", "7, 1.00", "4, 1.00", "1.00"]
    assert projection["all, minutes"] == ["455", "305", "155", "2.94"]
    report.write(tmp_path)
    text = (tmp_path / "throughput.md").read_text()
    assert report.text() in text
    assert text.endswith("training ratio: 2.00  \naugmentation ratio: 1.00\n")


def test_a_report_without_epochs_has_the_rates_alone(tmp_path):
    data, _ = benchmark_data(QUICK)
    found = Measurements()
    for name in side_names("float32"):
        found.add("features images/s", name, 50.0 if name.startswith("plain") else 75.0)
        found.add("augmentation images/s", name, 7.0)
    report = Report(QUICK.with_flags("--precision", "float32"), "noise", data, {}, found)
    report.write(tmp_path)
    text = (tmp_path / "throughput.md").read_text()
    assert "Medians" in text and "training ratio: 1.50" in text
    assert not any(word in text for word in ("PROJECTION", "Seconds of", "measured on"))
    record = json.loads((tmp_path / "throughput.json").read_text())
    assert record["projection"] == {} and list(record["images_per_epoch"]) == ["full"]


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        (["--step", "compile"], ()),
        (["--step", "compile", "--fraction", "0.5"], SIZES),
        (["--step", "eager"], SIZES),
    ],
)
def test_parts_of_epochs_are_not_compiled_unless_asked_for(flags, sizes, monkeypatch):
    """Each size of a last batch takes a compilation, which takes longer than the epoch."""
    measured = []

    @contextmanager
    def no_sides(settings):
        yield []

    def rates(found, sides, part, quantities, *rest):
        for name in side_names("float32"):
            for quantity in quantities:
                found.add(f"{quantity} images/s", name, 1.0)

    def epochs(found, sides, parts, deadline):
        measured.extend(parts)
        for i, size in enumerate(parts):
            for name in side_names("float32"):
                for phase in PHASES:
                    found.add(f"{phase} seconds", name, 2.0 + i, size)
                    found.add(f"{phase} training seconds", name, 1.0 + i, size)

    small = benchmark_data(QUICK)
    monkeypatch.setattr("benchmarks.data.benchmark_data", lambda settings: small)
    monkeypatch.setattr("benchmarks.side_process.both_sides", no_sides)
    monkeypatch.setattr(rounds, "measure_processes", lambda *args, **flags: None)
    monkeypatch.setattr(rounds, "affordable", lambda *args: 0.5)
    monkeypatch.setattr(rounds, "measure_rates", rates)
    monkeypatch.setattr(rounds, "measure_epochs", epochs)
    assert throughput.main(["--gpu", "cpu", "--precision", "float32", *flags]) == 0
    assert tuple(measured) == sizes


@pytest.mark.parametrize(("deadline", "expected"), [(math.inf, 5), (0, 2), (13, 3)])
def test_rates_take_two_rounds_and_more_if_there_is_time(deadline, expected, monkeypatch):
    """Two sides of two quantities take 3.2 seconds a round; the first round is the warm-up."""
    now = [0.0]

    class Asked:
        name = "asked"

        def ask(self, method, *arguments, **settings):
            now[0] += 0.8
            return 5.0

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])
    found = Measurements()
    rounds.measure_rates(found, [Asked(), Asked()], 1.0, ["features", "training"], 5, deadline)
    assert len(found.values("features images/s", "asked")) == 2 * expected


@pytest.mark.parametrize(
    ("seconds", "left", "expected"),
    [(1, 1e9, 0.02), (10, 150, 0.008), (2, 60, 0.008), (2, 64, 0.012)],
)
def test_there_is_time_for_the_part_of_the_images(seconds, left, expected, monkeypatch):
    """A warm-up and two rounds, each on one, two and four times the images, take 21 times as long
    as a first measurement."""
    now = [0.0]

    class Asked:
        def ask(self, method, part):
            now[0] += seconds / 2  # there are two sides

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])
    found = rounds.affordable([Asked(), Asked()], (1, 2, 4), deadline=left + seconds)
    assert found == pytest.approx(expected)


def test_the_epochs_of_a_size_are_on_its_part_of_the_images():
    class Asked:
        name = "asked"

        def ask(self, method, part):
            return {"features": [EpochTime(10 * part, part)]}

    found = Measurements()
    rounds.measure_epochs(found, [Asked()], {1: 0.5, 2: 1.0}, deadline=0)
    for size, part in ((1, 0.5), (2, 1.0)):
        assert found.values("features seconds", "asked", size) == [10 * part]
        assert found.values("features training seconds", "asked", size) == [part]


@pytest.mark.parametrize("epochs", [2, None])
def test_the_time_of_the_plain_loop_is_that_of_all_its_epochs(epochs, monkeypatch):
    class Asked:
        def __init__(self, *_):
            pass

        def start_up_seconds(self):
            return 3.0

        def ask(self, method, phase):
            return EpochTime({"pretraining": 2.0, "features": 5.0}[phase], 1.0)

        def close(self):
            pass

    monkeypatch.setattr(end_to_end, "SideProcess", Asked)
    lengths = {"pretraining": 10, "features": 4, "classifier": 0}
    assert end_to_end.run_plain(QUICK, lengths, epochs)["wall_seconds"] == 3 + 10 * 2 + 4 * 5


def test_each_side_has_the_precision_of_its_name(tmp_path):
    settings = QUICK.with_flags("--precision", "bf16")
    for name in side_names("bf16"):
        with closing(SideProcess(name, settings, tmp_path)) as side:  # its process has not started
            assert side.settings.options.precision == name.split()[1]


@pytest.mark.parametrize("part", [*rounds.PARTS, *throughput.RATE_PARTS, throughput.MEMORY_PART])
def test_the_sampler_visits_every_class_of_a_part_of_the_images(part):
    """The largest class of CIFAR-100 has 500 images."""
    for size in SIZES if part in rounds.PARTS else (1,):
        assert visits_every_class(100, math.ceil(500 * part * size), 4)


def test_the_memory_of_workers_counts():
    """The 200 MB of a child count as long as it lives."""
    code = "x = b'1' * 200_000_000; print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    before = memory_of_tree(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        child.stdout.readline()
        during = memory_of_tree(os.getpid())
        child.communicate(b"\n")
    assert 190e6 < during - before < 400e6
    assert memory_of_tree(os.getpid()) - before < 50e6


def test_the_peak_is_the_largest_value(monkeypatch):
    seen = iter([2 * 2**20, 5 * 2**20])
    monkeypatch.setattr("benchmarks.memory.INTERVAL", 0.001)
    monkeypatch.setattr("benchmarks.memory.memory_of_tree", lambda process: next(seen, 3 * 2**20))
    end = time.monotonic() + 10
    with PeakMemory(1) as peak:
        while peak.mebibytes < 5:
            assert time.monotonic() < end
            time.sleep(0.001)
    assert peak.mebibytes == 5 and not peak.is_alive()
