"""CUDA graphs on a CPU, for machines without a GPU: a capture records the operations of a step, and
a replay runs them again on the same tensors.

As with real graphs, no Python runs in a replay. So what Python decided in the capture is fixed, and
a tensor that takes the place of another one is not read. What only a driver can refuse (a wait in a
capture, memory that was freed) cannot be seen in this way.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.stages import NOT_LAUNCHED
from utils.training import graph_step


class _Tape(TorchDispatchMode):
    """Records operations, with their arguments and results; views follow from their base."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.__name__
        if not (function.is_view or name.startswith(NOT_LAUNCHED) or "empty" in name):
            self.operations.append((function, args, kwargs or {}, result))
        return result


class _Graph:
    """In the place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[tuple] = []

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


class _Stream:
    def wait_stream(self, other: "_Stream") -> None:
        pass


@pytest.fixture
def fake_graphs(monkeypatch) -> None:
    """Makes `GraphStep` work on a CPU."""
    stream = _Stream()
    for name, replacement in {
        "graph_pool_handle": lambda: (0, 0),
        "current_stream": lambda: stream,
        "default_stream": lambda: stream,
        "Stream": _Stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": _Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    initialise, steps = graph_step._Captured.__init__, []

    def remember(captured, step, *arguments) -> None:
        steps.append(step)
        initialise(captured, step, *arguments)

    @contextmanager
    def capture_without_effect(graph: _Graph, **settings) -> Iterator[None]:
        """A real capture records the step and does not run it."""
        with graph_step.preserved(steps[-1].state()), _Tape() as tape:
            yield
        graph.operations = tape.operations

    monkeypatch.setattr(graph_step._Captured, "__init__", remember)
    monkeypatch.setattr(torch.cuda, "graph", capture_without_effect)
