"""What `python -m benchmarks.gpu_check` measures of a kind of step, here on a CPU."""

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_kinds import measure_kind
from benchmarks.settings import RECIPE, settings_of
from tests.support.helpers import without_gpus


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The record of a kind of step on a CPU, on which the profiler sees no kernels."""
    settings = settings_of(["--gpu", "cpu"], quick=True)
    records = []
    with without_gpus():
        measure_kind(settings, tmp_path_factory.mktemp("kind"), records.append)
    return records[-1]


def test_every_phase_is_measured(measured):
    assert measured.keys() == RECIPE.keys()
    for phase, found in measured.items():
        assert found["step_ms"] > 0 and found["epoch_seconds"] > 0
        assert found["kernels"] == found["busy_ms"] == 0
        # Without kernels, all of the training is idle. Evaluation and records are beside it.
        assert 0 < found["other_seconds"] < found["epoch_seconds"]
        training = found["epoch_seconds"] - found["other_seconds"]
        assert found["idle_seconds"] == pytest.approx(training)
        assert found["projected_seconds"] == pytest.approx(
            found["epoch_seconds"] * {"pretraining": 200, "features": 80, "classifier": 20}[phase]
        )
    assert measured["features"]["steps"] == measured["classifier"]["steps"] == 3


def test_the_report_adds_up_the_recipe_and_compares_with_the_plain_loop(measured):
    record = {
        "tests": {"passed": 7, "status": 0},
        "kinds": {"bf16, graph": measured},
        "images_per_second": {"features": {"plain float32": 50.0, "ours bf16": 200.0}},
        "left_out": ["tf32, graph"],
        "failures": {"float32, graph": "RuntimeError: no kernel"},
    }
    lines = gpu_check.report(record).splitlines()
    heading, _, *phases, recipe = [[cell.strip() for cell in line.split("|")] for line in lines[:6]]
    assert heading[3:6] == ["kernels", "busy_ms", "step_ms"]
    assert [row[2] for row in phases] == list(measured)
    total = sum(found["projected_seconds"] for found in measured.values())
    assert recipe[2] == "recipe" and recipe[heading.index("projected_seconds")] == f"{total:.4g}"
    assert "features, images/s: plain float32 50, ours bf16 200: ratio 4.00" in lines
    assert lines[-3:] == [
        "tests on CUDA: 7 passed",
        "left out: tf32, graph",
        "failed: float32, graph: RuntimeError: no kernel",
    ]
