"""Which training step a machine takes, and what goes on around the steps of an epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from losses import Objective
from utils.machine.device import Machine
from utils.training.eager_step import EagerStep
from utils.training.graph_step import GraphStep
from utils.training.phase import Phase
from utils.training.split_step import SplitStep

Step = Callable[[Tensor, Tensor, Tensor | None], Tensor]

COMPILATIONS = 256
"""How often torch.compile may compile the networks of one process. Each network, batch size and
phase takes one. After 8, which is torch's limit, torch goes on without compiling."""


def make_step(model: nn.Module, phase: Phase, objective: Objective, machine: Machine) -> Step:
    """Returns the step that `machine.step` names: `eager`, `graph` (only on CUDA) or `compile`
    (torch.compile's forward and backward, which are also captured on CUDA).

    Several processes share the batches of images. If only the classifier trains, each process
    computes the whole step on the frozen features.
    """
    network = model
    if machine.step == "compile":
        network = cast(nn.Module, torch.compile(model, dynamic=False))
        torch._dynamo.config.recompile_limit = COMPILATIONS  # after compile: that imports _dynamo
    is_split = machine.micro_batches > 1 or machine.world.size > 1
    if is_split and not phase.features_are_frozen:
        return SplitStep(network, phase, objective, machine)
    step = EagerStep(network, phase, objective, machine)
    is_captured = machine.device.type == "cuda" and machine.step != "eager"
    return GraphStep(step) if is_captured else step


@contextmanager
def batches_counted_at_once(model: nn.Module) -> Iterator[None]:
    """Inside, only the first batch-norm layer counts its batches (`num_batches_tracked`). At the
    end the count is added to the other layers.

    All layers see all batches, so the counts end the same as without this. But a step launches only
    one addition, instead of one for each layer. `SyncBatchNorm` refuses to train without a count,
    so each such layer counts by itself.
    """
    counting: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    ]
    if not (model.training and counting):
        yield
        return
    first, *others = counting
    before = first.num_batches_tracked.clone()
    counts = [norm.num_batches_tracked for norm in others]
    for norm in others:
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, count in zip(others, counts, strict=True):
            norm.num_batches_tracked = count
        batches = first.num_batches_tracked - before
        for count in counts:
            count.add_(batches)
