"""The step that torch.compile makes. On a CPU it needs a C++ compiler and some time."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from tests.utils.training.test_steps import stage_2_step, step_inputs
from utils.machine.device import Machine
from utils.training.steps import make_step


def test_a_compiled_step_computes_the_eager_one(tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager, model, _ = stage_2_step("float32", lr=0.01)
    step, twin, _ = stage_2_step("float32", lr=0.01)
    machine = Machine(torch.device("cpu"), "float32", "compile")
    compiled = make_step(twin, step.phase, step.objective, machine)
    inputs = step_inputs()
    for _ in range(2):
        assert_close(compiled(*inputs), eager(*inputs), rtol=1e-4, atol=1e-5)
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-4)
