"""CUDA tensors that have a shape but no memory, for machines without a GPU.

An operation on such a tensor and a CPU tensor raises "found two different devices". Reading its
values raises `DataDependentOutputException`. The backward pass, the fused update and bf16
convolutions need a real driver, so they cannot be tested in this way.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from utils.runs import checkpoint
from utils.training.setup import Run

CUDA = torch.device("cuda", 0)


def _apply(module: nn.Module, function, recurse: bool = True) -> nn.Module:
    """Does what `nn.Module._apply` does, but by assignment, because torch would swap the memory of
    fake tensors."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.device != CUDA:
                part._parameters[name] = nn.Parameter(function(parameter.detach()))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module


_sgd = Run.sgd


def _sgd_without_kernel(run: Run, *arguments) -> torch.optim.SGD:
    optimizer = _sgd(run, *arguments)
    optimizer.step = lambda: None
    return optimizer


@pytest.fixture
def fake_mode(monkeypatch) -> Iterator[FakeTensorMode]:
    """Gives the mode in which new tensors are fake, before it is entered."""
    if torch.version.cuda is None:
        pytest.skip("this torch has no CUDA build, whose fake tensors know their device")
    monkeypatch.setattr(nn.Module, "_apply", _apply)
    monkeypatch.setattr(Run, "sgd", _sgd_without_kernel)
    monkeypatch.setattr(checkpoint, "load_weights", lambda *_: None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "backward", lambda loss: None)
    yield FakeTensorMode(allow_non_fake_inputs=True)


@pytest.fixture
def fake_cuda(fake_mode) -> Iterator[torch.device]:
    """Gives a CUDA device. Until the test ends, all tensors are fake, those of the CPU too."""
    with fake_mode, torch.no_grad():
        yield CUDA
