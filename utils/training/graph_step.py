"""The training step captured as CUDA graphs, and replayed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from utils.errors import RunError, is_out_of_memory
from utils.training.eager_step import EagerStep

WARM_UP_STEPS = 3


class GraphStep:
    """An `EagerStep` as CUDA graphs, one for each shape of the batch. A graph launches the same
    kernels on the same numbers, all at once.

    A graph works on fixed memory. The batch is copied into it, the learning rate is a tensor on the
    device (`Run.sgd`), and each step overwrites the statistics that the step before returned. The
    steps that warm up each shape change no weights, momenta or batch-norm statistics.
    """

    def __init__(self, step: EagerStep) -> None:
        self.step = step
        self.graphs: dict[torch.Size, _Captured] = {}
        self.pool = torch.cuda.graph_pool_handle()
        # A graph uses the workspaces that libraries have on the stream of its capture. By default
        # all graphs of a process share one stream; runs that train side by side must not.
        current = torch.cuda.current_stream()
        is_own = current != torch.cuda.default_stream()
        self.stream = current if is_own else torch.cuda.Stream()
        add_momenta(step.phase.optimizer)

    def __call__(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        batch = inputs, targets, centroids
        if inputs.shape not in self.graphs:
            self.graphs[inputs.shape] = _Captured(self.step, batch, self.pool, self.stream)
        return self.graphs[inputs.shape].replay(*batch)


class _Captured:
    """One graph, the memory that it reads and the memory for its statistics.

    Raises:
        RunError: CUDA refuses the capture.
    """

    def __init__(
        self,
        step: EagerStep,
        batch: tuple[Tensor, Tensor, Tensor | None],
        pool: tuple,
        stream: torch.cuda.Stream,
    ) -> None:
        inputs, targets, centroids = batch
        self.inputs, self.targets = inputs.clone(), targets.clone()
        self.centroids = None if centroids is None else centroids.clone()
        self.copied = centroids
        own = self.inputs, self.targets, self.centroids
        with preserved(step.state()):
            # cuDNN must choose kernels, and libraries take workspaces, before the capture.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    step(*own)
            torch.cuda.current_stream().wait_stream(stream)
        # The capture must allocate the gradients, so that they lie in the graph's own memory.
        step.phase.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        # Another thread may pin the memory of streamed images at the same time.
        capture = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(self.graph, **capture):
                self.statistics = step(*own)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a failed capture hides it
            if is_out_of_memory(cause):
                raise cause from None
            reason = str(cause).partition("\n")[0]
            raise RunError(
                f"--step graph: the capture failed ({reason}); use --step eager"
            ) from error

    def replay(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        """Runs the graph on a batch and returns its statistics, which the next replay
        overwrites."""
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        # The centroids are the same tensor in the whole epoch, so they are copied once.
        if self.centroids is not None and centroids is not None and centroids is not self.copied:
            self.centroids.copy_(centroids)
            self.copied = centroids
        self.graph.replay()
        return self.statistics


@contextmanager
def preserved(tensors: Sequence[Tensor]) -> Iterator[None]:
    """At the end, gives the tensors the values back that they had at the beginning, in place."""
    copies = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)


def add_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Gives each parameter of SGD a momentum of zero if it has none, so that a step allocates no
    memory for it. The momentum after the first step is the gradient in either case."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if group["momentum"] and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
