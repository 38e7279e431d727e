"""`python -m benchmarks.gpu_check`, as far as a machine without a GPU can tell."""

import pytest

from benchmarks import gpu_check
from benchmarks.arguments import QUICK, RECIPE
from benchmarks.data import benchmark_data
from benchmarks.settings import Settings
from tests.support.helpers import without_gpus


def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(tmp_path, capsys):
    with without_gpus():
        assert gpu_check.main(["--output", str(tmp_path / "found.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "gpu_check: error: no CUDA device here: nothing to check\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A kind of step measured on the CPU, where the profiler sees no kernels."""
    settings = Settings(**QUICK, quick=True)
    data, _ = benchmark_data(settings)
    with without_gpus():
        return gpu_check.measure_kind(settings, data, tmp_path_factory.mktemp("kind"))


def test_every_phase_is_measured(measured):
    assert measured.keys() == RECIPE.keys()
    for phase, found in measured.items():
        assert found["step_ms"] > 0 and found["epoch_seconds"] > 0
        assert found["kernels"] == found["busy_ms"] == 0
        assert found["idle_seconds"] == found["epoch_seconds"]
        assert found["projected_seconds"] == pytest.approx(
            found["epoch_seconds"] * {"pretraining": 200, "features": 80, "classifier": 20}[phase]
        )
    assert measured["features"]["steps"] == measured["classifier"]["steps"] == 3


def test_the_table_adds_up_the_recipe_and_compares_with_the_plain_loop(measured):
    record = {
        "kinds": {"bf16, graph": measured},
        "images_per_second": {"features": {"plain float32": 50.0, "ours bf16": 200.0}},
        "left_out": ["tf32, graph"],
    }
    lines = gpu_check.report(record).splitlines()
    total = sum(found["projected_seconds"] for found in measured.values())
    assert lines[4].split()[-1] == f"{total:.1f}" and "projected" in lines[4]
    assert "features, images/s: plain float32 50, ours bf16 200: ratio 4.00" in lines
    assert lines[-1] == "left out: tf32, graph"


def test_on_a_gpu_kernels_are_counted(cuda, tmp_path):
    settings = Settings(**QUICK, quick=True, gpu=0, step="graph")
    data, _ = benchmark_data(settings)
    found = gpu_check.measure_kind(settings, data, tmp_path)
    assert found["features"]["kernels"] > 100 and found["features"]["busy_ms"] > 0
