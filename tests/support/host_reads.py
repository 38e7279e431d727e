"""Whole epochs on a CUDA device without memory, and every wait of the host for it, counted.

Tensors on the device are fake: they have a shape and no values. Tensors of the host are real, and
what is read back is made up of ones.
"""

import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.fake_cuda import CUDA
from tests.support.helpers import REPOSITORY

PROJECT = tuple(f"{REPOSITORY / room}/" for room in ("losses", "models", "datasets", "utils"))


class HostReads(TorchDispatchMode):
    """Counts in `where` the reads of each function, as `file.function`: copies to the host, and
    single values. It is entered inside of a `FakeTensorMode` that allows other tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.where: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        of_device = [t for t in leaves if isinstance(t, FakeTensor)]
        name = function.__name__.split(".")[0]
        target = kwargs.get("device")
        if of_device and name == "_local_scalar_dense":
            self._count()
            return {torch.bool: True}.get(of_device[0].dtype, 1)
        if of_device and name == "_to_copy" and target is not None and target.type == "cpu":
            self._count()
            return self._ones(of_device[0], kwargs.get("dtype"))
        if name == "copy_" and of_device and not isinstance(args[0], FakeTensor):
            self._count()
            with unset_fake_temporarily():
                return args[0].fill_(1)
        if of_device or (target is not None and torch.device(target).type == "cuda"):
            return function(*args, **kwargs)
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    @staticmethod
    def _ones(like: Tensor, dtype: torch.dtype | None) -> Tensor:
        with unset_fake_temporarily():
            return torch.ones(like.shape, dtype=dtype or like.dtype)

    def _count(self) -> None:
        frame = sys._getframe(2)
        while not frame.f_code.co_filename.startswith(PROJECT):
            assert frame.f_back is not None, "a read outside of the project"
            frame = frame.f_back
        code = frame.f_code
        self.where[f"{Path(code.co_filename).stem}.{code.co_name}"] += 1


class NoClock:
    """In the place of `Stopwatch`, whose events need a GPU."""

    def __init__(self, device: torch.device) -> None:
        assert device == CUDA

    def stop(self) -> float:
        return 1.0
