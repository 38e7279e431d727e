"""`python -m benchmarks.gpu_check`, mostly on machines without a GPU."""

import json
import os
import subprocess
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext
from functools import partial

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.data import benchmark_data
from benchmarks.our_side import OurSide
from benchmarks.settings import settings_of
from tests.support.helpers import without_gpus
from utils.machine.device import choose_machine


def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(tmp_path, capsys):
    with without_gpus():
        assert gpu_check.main(["--output", str(tmp_path / "found.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "gpu_check: error: no CUDA device here: nothing to check\n"
    assert not list(tmp_path.iterdir())


PASSED = {"passed": 3, "failures": [], "status": 0}


@pytest.mark.parametrize(
    ("tests", "failures", "status"),
    [
        (PASSED, {}, 0),
        (PASSED, {"tf32, graph": "RuntimeError: no kernel"}, 1),
        ({"passed": 2, "failed": 1, "failures": ["a::b"], "status": 1}, {}, 1),
        ({"failures": [], "status": 1, "ended": "No module named pytest"}, {}, 1),
        ({"ended": "not within 150 s"}, {}, 1),
        ({"skipped": 9, "failures": [], "status": 0, "ended": "9 skipped"}, {}, 1),
    ],
)
def test_its_status_is_0_only_if_all_tests_passed_and_nothing_failed(
    tests, failures, status, tmp_path, monkeypatch, capsys
):
    record = {"tests": tests, "kinds": {}, "images_per_second": {}, "left_out": ["bf16, graph"]}
    record["failures"] = failures
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "check", lambda settings: record)
    path = tmp_path / "found.json"
    assert gpu_check.main(["--output", str(path)]) == status
    assert json.loads(path.read_text())["tests"] == tests
    last = "".join(f"failed: {name}: {error}\n" for name, error in failures.items())
    assert capsys.readouterr().out.endswith(f"left out: bf16, graph\n{last}")


def test_without_pytest_no_tests_have_passed(monkeypatch):
    ended = subprocess.CompletedProcess([], 1, stdout="", stderr="No module named pytest\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: ended)
    assert gpu_check.run_tests() == {
        "failures": [],
        "status": 1,
        "ended": "No module named pytest",
    }


def test_errors_outside_of_a_test_are_counted_and_named(monkeypatch):
    lines = "FAILED a.py::b - no", "ERROR a.py::c - no", "1 failed, 20 passed, 3 skipped, 2 errors"
    text = "\n".join(lines)
    ended = subprocess.CompletedProcess([], 1, stdout=text, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: ended)
    counts = {"failed": 1, "passed": 20, "skipped": 3, "error": 2}
    assert gpu_check.run_tests() == counts | {"failures": ["a.py::b", "a.py::c"], "status": 1}


def test_the_tests_that_pass_are_counted(monkeypatch):
    """With the project's own options, pytest must still print how many there were."""
    monkeypatch.setattr(gpu_check, "CUDA_TESTS", ("tests/losses/test_distillation.py",))
    found = gpu_check.run_tests()
    assert found["passed"] > 5 and found["status"] == 0 and "ended" not in found


def test_a_measurement_that_kills_its_process_is_an_error_of_this_one():
    assert gpu_check.in_own_process(partial(dict, kernels=3)) == {"kernels": 3}
    with pytest.raises(BrokenProcessPool):
        gpu_check.in_own_process(partial(os._exit, 1))


@pytest.fixture
def check(monkeypatch):
    """Gives `check(measure_kind, compare_with_plain)`: the record of a check by these functions, on
    a CPU and without tests."""

    def run(measure_kind, compare_with_plain):
        monkeypatch.setattr(gpu_check, "run_tests", lambda: {"status": 0})
        monkeypatch.setattr(gpu_check, "benchmark_data", lambda settings: (None, "made-up"))
        monkeypatch.setattr(gpu_check, "measure_kind", measure_kind)
        monkeypatch.setattr(gpu_check, "in_own_process", lambda measure: measure())
        monkeypatch.setattr(gpu_check, "compare_with_plain", compare_with_plain)
        monkeypatch.setattr(gpu_check, "choose_machine", lambda *a: choose_machine(None, "float32"))
        with without_gpus():
            return gpu_check.check(settings_of([]))

    return run


def test_if_no_kind_is_measured_it_still_compares_with_the_plain_loop(check):
    def refused(settings, data, folder):
        raise gpu_check.UserError("no such precision")

    compared = []
    record = check(refused, compared.append)
    assert record["kinds"] == {} and len(record["left_out"]) == len(gpu_check.KINDS)
    assert [settings.options.precision for settings in compared] == ["float32"]


def test_a_kind_that_fails_does_not_cost_the_others(check, capsys):
    def measured(settings, data, folder):
        if settings.options.precision == "tf32":
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return {"pretraining": {}}

    def failing(settings):
        raise OSError("no space")

    record = check(measured, failing)
    assert list(record["kinds"]) == ["bf16, graph", "bf16, eager", "float32, graph"]
    assert record["left_out"] == [] and record["images_per_second"] == {}
    assert record["failures"] == {
        "tf32, graph": "RuntimeError: operation not permitted when stream is capturing",
        "the plain loop": "OSError: no space",
    }
    assert "in measured" in capsys.readouterr().err  # the traceback


def test_the_comparison_with_the_plain_loop_warms_up_once(monkeypatch):
    class Asked:
        def __init__(self, name, rates):
            self.name, self.rates = name, iter(rates)

        def ask(self, method, phase, part, persistent_workers):
            assert (method, part, persistent_workers) == ("rate", 1.0, True)
            return next(self.rates)

    sides = [Asked("plain float32", [1, 2, 10, 20]), Asked("ours bf16", [3, 4, 30, 40])]
    monkeypatch.setattr(gpu_check, "both_sides", lambda settings: nullcontext(sides))
    assert gpu_check.compare_with_plain(settings_of([])) == {
        "pretraining": {"plain float32": 10, "ours bf16": 30},
        "features": {"plain float32": 20, "ours bf16": 40},
    }


def test_batches_are_counted_as_in_training(tmp_path):
    """All batch-norm layers but one leave the count to the end of an epoch. The count of a step
    would otherwise have more kernels than a step of training."""
    settings = settings_of(["--gpu", "cpu"], quick=True)
    data, _ = benchmark_data(settings)
    side = OurSide(settings, data, tmp_path)
    model = side._phases["pretraining"][0].model
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with closing(side.steps("pretraining")) as steps:
        next(steps)
        assert [norm.num_batches_tracked for norm in norms] == [1] + [None] * (len(norms) - 1)
    assert [norm.num_batches_tracked for norm in norms] == [1] * len(norms)


def test_on_a_gpu_kernels_are_counted(cuda, tmp_path):
    settings = settings_of(["--gpu", "0", "--step", "graph"], quick=True)
    data, _ = benchmark_data(settings)
    found = gpu_check.measure_kind(settings, data, tmp_path)
    assert found["features"]["kernels"] > 50 and found["features"]["busy_ms"] > 0
