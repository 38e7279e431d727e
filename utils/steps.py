"""The step that training repeats: eager, or captured once as a CUDA graph and replayed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from losses import Objective
from utils.device import Machine
from utils.phases import Phase

WARM_UP_STEPS = 3

Step = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def make_step(model: nn.Module, phase: Phase, objective: Objective, machine: Machine) -> Step:
    """The step of the machine's kind: `eager`, `graph` (CUDA alone) or `compile` (forward and
    backward by torch.compile, captured too on CUDA)."""
    network = torch.compile(model, dynamic=False) if machine.step == "compile" else model
    step = EagerStep(network, phase, objective, machine)
    is_captured = machine.device.type == "cuda" and machine.step != "eager"
    return GraphStep(step) if is_captured else step


class EagerStep:
    """One step of stochastic gradient descent: forward, objective, backward, update.

    Nothing in it waits for the device.
    """

    def __init__(
        self, model: nn.Module, phase: Phase, objective: Objective, machine: Machine
    ) -> None:
        self.model = model
        self.phase = phase
        self.objective = objective
        self.machine = machine

    def __call__(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        """Loss, its parts, and the share of images predicted right, ``[2 + number of losses]``;
        inputs are images, or features where these are frozen."""
        if self.phase.features_are_frozen:
            features, logits = inputs, self.model.classify(inputs)
        else:
            with self.machine.autocast():
                features, logits = self.model(inputs)
        loss, parts = self.objective(features, logits, targets, centroids)
        self.phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.phase.optimizer.step()
        if self.phase.after_update is not None:
            self.phase.after_update()
        correct = (logits.detach().argmax(dim=1) == targets).float().mean()
        return torch.cat([loss.detach().view(1), parts, correct.view(1)])

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        optimizer = self.phase.optimizer
        momenta = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        return [*self.model.state_dict().values(), *trained, *momenta]


class GraphStep:
    """An `EagerStep` as CUDA graphs, one per shape of the batch: the same kernels on the same
    numbers, launched at once.

    A graph works on fixed memory. The batch is copied into it, the learning rate is a tensor on the
    device (`Run.sgd`), and what the step gives back is overwritten by the next one. The steps that
    warm up each shape leave no trace in the weights, the momenta or the batch-norm statistics.
    """

    def __init__(self, step: EagerStep) -> None:
        self.step = step
        self.graphs: dict[torch.Size, _Captured] = {}
        self.pool = torch.cuda.graph_pool_handle()
        add_momenta(step.phase.optimizer)

    def __call__(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        batch = [inputs, targets] if centroids is None else [inputs, targets, centroids]
        if inputs.shape not in self.graphs:
            self.graphs[inputs.shape] = _Captured(self.step, batch, self.pool)
        return self.graphs[inputs.shape].replay(batch)


class _Captured:
    """One graph, the memory it reads and the memory it writes its statistics to."""

    def __init__(self, step: EagerStep, batch: Sequence[Tensor], pool: tuple) -> None:
        self.batch = [tensor.clone() for tensor in batch]
        inputs, targets, centroids = (*self.batch, None)[:3]
        stream = torch.cuda.Stream()
        with preserved(step.state()):
            # cuDNN chooses kernels, and libraries take workspaces, outside of the capture.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    step(inputs, targets, centroids)
            torch.cuda.current_stream().wait_stream(stream)
        # The gradients are to live in the graph's own memory.
        step.phase.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        # Another thread may pin the memory of streamed images at the same time.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.statistics = step(inputs, targets, centroids)

    def replay(self, batch: Sequence[Tensor]) -> Tensor:
        torch._foreach_copy_(self.batch, list(batch))
        self.graph.replay()
        return self.statistics


@contextmanager
def preserved(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Gives the tensors back the values that they had, in place."""
    copies = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)


def add_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter of SGD the momentum zero where it has none yet, so that no memory is
    taken in a step. The first step's momentum is the gradient, with it or without."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if group["momentum"] and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
