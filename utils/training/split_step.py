"""The training step on a batch in parts: shared by processes, in micro-batches, or both."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states

from losses import Objective
from utils.machine import collectives
from utils.machine.device import Machine
from utils.training.eager_step import EagerStep
from utils.training.phase import Phase


class SplitStep(EagerStep):
    """The step for a batch that several processes share (`World.share`), that one process computes
    in micro-batches, or both.

    Class weights normalise over the batch, and the robust loss contrasts its samples, so the loss
    is not a mean of the parts' losses. Therefore each process computes the objective from the
    outputs of all parts, and takes the gradient of its own outputs back through the network. With
    frozen batch-norm this is exactly the gradient of the whole batch. In training mode batch-norm
    normalises each part by the part's own statistics.

    A process with several parts keeps no activations of the first pass; it passes each part through
    the network a second time (Gao et al., "Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup", RepL4NLP 2021). Dropout then drops the same values as in the first pass.
    """

    def __init__(
        self, model: nn.Module, phase: Phase, objective: Objective, machine: Machine
    ) -> None:
        super().__init__(model, phase, objective, machine)
        self.world = machine.world
        self.network = model
        if self.world.size > 1:
            with warnings.catch_warnings():
                # Newer versions of torch warn that the setting has another name.
                warnings.simplefilter("ignore", FutureWarning)
                # The training pass copies running statistics from process 0 after the epoch.
                self.network = DistributedDataParallel(model, broadcast_buffers=False)
        of_model = set(map(id, model.parameters()))
        trained = [p for group in phase.optimizer.param_groups for p in group["params"]]
        self.outside_model = [p for p in trained if id(p) not in of_model]

    def __call__(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        """Returns what `EagerStep` returns, from this process's images and all targets of the
        batch."""
        count = len(targets)
        inputs = self.prepared(inputs)
        parts = inputs.tensor_split(self._number_of_parts(count))
        cpu_state, device_states = torch.get_rng_state(), get_device_states(inputs)
        if len(parts) == 1:
            outputs = [self.forward(self.network, inputs)]
        else:
            with torch.no_grad(), running_statistics_kept(self.model):
                outputs = [self.forward(self.model, part) for part in parts]
        features, logits = (
            collectives.gather(torch.cat(own).detach(), count, self.world).requires_grad_()
            for own in zip(*outputs, strict=True)
        )
        extras = self.extras(parts, targets)
        if "teacher_logits" in extras:
            own = extras["teacher_logits"]
            extras["teacher_logits"] = collectives.gather(own, count, self.world)
        loss, losses = self.objective(features, logits, targets, centroids, **extras)
        self.phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # They are equal in all processes, except for rounding in sums on a GPU.
        collectives.copy_from_main([p.grad for p in self.outside_model], self.world)
        gradients = [self._own(features.grad, count), self._own(logits.grad, count)]
        if len(parts) == 1:
            self._backward(outputs[0], gradients)
        else:
            with torch.random.fork_rng(device_states[0]):
                torch.set_rng_state(cpu_state)
                set_device_states(*device_states)
                self._backward_by_parts(parts, gradients)
        self.update()
        return self.statistics(loss, losses, logits, targets)

    def _number_of_parts(self, count: int) -> int:
        """Returns the number of micro-batches: the same in all processes, and none is empty."""
        smallest_share = count // self.world.size if self.world.divides(count) else count
        return min(self.machine.micro_batches, smallest_share)

    def _own(self, gradient: Tensor | None, count: int) -> Tensor | None:
        """Returns this process's rows, times the number of processes, because
        `DistributedDataParallel` takes the mean of gradients that must be summed."""
        if gradient is None or not self.world.divides(count):
            return gradient
        return gradient[self.world.share(count)] * self.world.size

    @staticmethod
    def _backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        reached = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
        torch.autograd.backward([o for o, _ in reached], [g for _, g in reached])

    def _backward_by_parts(
        self, parts: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        by_part = [
            [None] * len(parts) if g is None else g.tensor_split(len(parts)) for g in gradients
        ]
        network = self.network
        is_shared = isinstance(network, DistributedDataParallel)
        for i, (part, *part_gradients) in enumerate(zip(parts, *by_part, strict=True)):
            is_last = i == len(parts) - 1
            # The processes exchange gradients only once, after the last part.
            with network.no_sync() if is_shared and not is_last else nullcontext():
                self._backward(self.forward(network, part), part_gradients)


@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, batch-norm normalises as usual, but its running statistics do not change."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
