"""Stages and whole runs on a GPU: what only a driver can refuse, and what only its kernels compute.

`make gpu-check` runs them. The slowest are last.
"""

import importlib.util
import json
import math
import shutil

import pytest
import torch
from torch.testing import assert_close

from tests.support import streamed_sets
from tests.support.helpers import (
    read_records,
    read_summary,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
    without,
)
from tests.support.stages import CASES
from tests.utils.training.test_graph_step import trained
from utils.machine.device import Machine, has_native_bf16
from utils.training.graph_step import GraphStep

pytestmark = pytest.mark.usefixtures("no_figures")

TOLERANCE = {"float32": 1e-4, "bf16": 2e-2}
"""Absolute and relative. The kernels should be the same, so that no digit differs."""


@pytest.fixture(params=TOLERANCE)
def precision(request, cuda):
    """Every precision that the GPU has."""
    if request.param == "bf16" and not has_native_bf16(cuda):
        pytest.skip("the GPU has no native bfloat16")
    return request.param


@pytest.mark.parametrize("case", CASES)
def test_a_captured_stage_trains_as_an_eager_one(case, precision, deterministic, monkeypatch):
    machine = Machine(deterministic, precision)
    results = []
    for kind in (lambda step: step, GraphStep):
        epochs, weights = trained(case, monkeypatch, kind, machine)
        losses = [[epoch.loss, *epoch.losses.values()] for epoch in epochs]
        results.append(([torch.tensor(of_epoch) for of_epoch in losses], weights))
    tolerance = TOLERANCE[precision]
    assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)


def assert_finished(folder, epochs, step):
    """Asserts that a run of these epochs has finished with finite losses and this kind of step."""
    arguments = json.loads((folder / "args.json").read_text())
    machine = arguments["machine"]
    assert (machine["device"], machine["step"]) == ("cuda:0", step)
    assert read_summary(folder)["epochs"] == epochs
    records = read_records(folder)
    assert [record["epoch"] for record in records] == list(range(1, epochs + 1))
    assert all(math.isfinite(record["train_loss"]) for record in records)


def test_runs_train_resume_and_are_evaluated(precision, tree, tmp_path):
    flags = ("--precision", precision)
    first = stage_1(tree, tmp_path, "--schedule", "absolute", *flags)
    succeed([*first, "--epochs", 1], on_gpu=True)
    assert "resumes after epoch 1 of 2" in succeed([*first, "--resume", "True"], on_gpu=True).out
    assert_finished(stage_1_folder(tmp_path), 2, "graph")
    second = stage_2(tree, tmp_path, "--pretrained", stage_1_folder(tmp_path).name, *flags)
    succeed(second, on_gpu=True)
    assert_finished(stage_2_folder(tmp_path), 3, "graph")
    succeed([*second, "--evaluation", "True", "--readings", "all"], on_gpu=True)
    assert (stage_2_folder(tmp_path) / "readings.json").exists()


def test_parts_of_batches_train_both_stages(cuda, tree, tmp_path):
    argv = without(stage_2(tree, tmp_path, "--accumulate", 2), "--pretrained")
    succeed([*argv, "--pretrain_epochs", 1], on_gpu=True)
    assert_finished(stage_1_folder(tmp_path), 1, "eager")
    assert_finished(stage_2_folder(tmp_path), 3, "eager")


def test_streamed_images_train_both_stages(cuda, tmp_path):
    data = streamed_sets.write_imagenet_lt(tmp_path / "data")
    for stage in (streamed_sets.stage_1, streamed_sets.stage_2):
        command = stage(data, tmp_path / "root")
        succeed(command, on_gpu=True)
        assert_finished(streamed_sets.records_of(command), 2, "graph")


def test_a_compiled_step_trains(cuda, tree, tmp_path, monkeypatch):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("torch.compile needs triton")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("triton needs a C compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    root = tmp_path / "root"
    succeed(stage_1(tree, root, "--step", "compile", "--epochs", 1), on_gpu=True)
    assert_finished(stage_1_folder(root), 1, "compile")
