"""What several test files share: the devices, and the released code's golden vectors."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

# Equal bits need equal numbers of threads, of the processes that tests start too.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from tests.support.helpers import without_gpus

pytest_plugins = [
    "tests.support.fake_cuda",
    "tests.support.fake_graphs",
    "tests.support.page_fixtures",
    "tests.support.run_fixtures",
]

# The tensors of the tests are small: more threads cost more than they give, above all where other
# work has the cores.
torch.set_num_threads(1)

HAS_CUDA = torch.cuda.is_available()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out tests/slow, whose tests take minutes, unless the command line names it."""
    is_named = any("slow" in argument for argument in config.args)
    return True if collection_path.name == "slow" and not is_named else None


GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def tf32_switches() -> Iterator[tuple]:
    """Gives torch's switches of TF32, for convolutions and for matrix products, and resets them
    after the test. `monkeypatch` would delete the second, which is no attribute of its object."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    yield switches
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device"),
        ),
    ]
)
def device(request, tf32_switches) -> torch.device:
    """Every device there is, with float32 meaning float32 (TF32 has ten bits of mantissa)."""
    if request.param == "cuda":
        for switch in tf32_switches:
            switch.allow_tf32 = False
    return torch.device(request.param)


@pytest.fixture
def cuda() -> torch.device:
    """For what only a CUDA device can show."""
    if not HAS_CUDA:
        pytest.skip("no CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture
def deterministic(cuda, monkeypatch) -> Iterator[torch.device]:
    """Gives the CUDA device, on which kernels now have a fixed order and float32 means float32."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield cuda
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def gpus_for_those_who_ask(request) -> Iterator[None]:
    """Tests that take neither `cuda` nor `device` find no GPU, nor do processes that they start:
    they hold on a CPU, many to the last bit."""
    asks = {"cuda", "device"} & set(request.fixturenames)
    with contextlib.nullcontext() if asks or not HAS_CUDA else without_gpus():
        yield


@pytest.fixture(autouse=True)
def equal_random_numbers() -> None:
    """Each test draws the same numbers in every run, so that a failure can be seen again."""
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits():
    """The handwritten digits, balanced."""
    from datasets.sources.digits import load_digits

    return load_digits()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden(name)` gives the arrays of golden/<name>.npz, read once and not writable."""
    files: dict[str, dict[str, np.ndarray]] = {}

    def load(name: str) -> dict[str, np.ndarray]:
        if name not in files:
            with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
                files[name] = {key: arrays[key] for key in arrays.files}
            for array in files[name].values():
                array.setflags(write=False)
        return files[name]

    return load


@pytest.fixture
def python_random() -> Iterator[None]:
    """For tests that seed Python's global generator: leaves it as it was."""
    state = random.getstate()
    yield
    random.setstate(state)
