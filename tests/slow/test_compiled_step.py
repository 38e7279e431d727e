"""The step that torch.compile makes. On a CPU it needs a C++ compiler and some time."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from tests.support.helpers import REPOSITORY, STAGE_1_NAME, stage_1
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


def test_without_a_compiler_the_run_ends_with_one_line(tree, tmp_path):
    argv = stage_1(tree, tmp_path, "--step", "compile")
    command = [sys.executable, "-m", "tests.support.small_images", "main", *map(str, argv)]
    names = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    environment = os.environ | names
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(errors) == 1
    assert "--step compile" in errors[0] and "C++ compiler" in errors[0]
    assert "--step auto" in errors[0]
    assert not (tmp_path / STAGE_1_NAME / "ckpt.pth.tar").exists()
