"""The training step: eager, on a batch in parts, or captured as a CUDA graph and replayed."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from losses import Objective
from models import Network, NormedLinear
from utils.machine import collectives
from utils.machine.device import Machine
from utils.training.phase import Phase

WARM_UP_STEPS = 3

Step = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def make_step(model: nn.Module, phase: Phase, objective: Objective, machine: Machine) -> Step:
    """Returns the step that `machine.step` names: `eager`, `graph` (only on CUDA) or `compile`
    (torch.compile's forward and backward, which are also captured on CUDA).

    Several processes share the batches of images. If only the classifier trains, each process
    computes the whole step on the frozen features.
    """
    network = model
    if machine.step == "compile":
        network = cast(nn.Module, torch.compile(model, dynamic=False))
    is_split = machine.micro_batches > 1 or machine.world.size > 1
    if is_split and not phase.features_are_frozen:
        return SplitStep(network, phase, objective, machine)
    step = EagerStep(network, phase, objective, machine)
    is_captured = machine.device.type == "cuda" and machine.step != "eager"
    return GraphStep(step) if is_captured else step


class EagerStep:
    """One step of stochastic gradient descent: forward, objective, backward, update.

    It never waits for the device.
    """

    def __init__(
        self, model: nn.Module, phase: Phase, objective: Objective, machine: Machine
    ) -> None:
        self.model = model
        self.phase = phase
        self.objective = objective
        self.machine = machine

    def __call__(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        """Returns the objective, each of its losses, and the share of images predicted right, as
        one tensor ``[2 + number of losses]``.

        Args:
            inputs: images, uint8 from the loader's `pixels` or normalised; or features ``[B, D]``
                if these are frozen.
            targets: ``[B]``.
            centroids: ``[K, D]`` for the robust loss, or None.
        """
        if self.phase.features_are_frozen:
            features, logits = inputs, cast(Network, self.model).classify(inputs)
        else:
            inputs = self.prepared(inputs)
            features, logits = self.forward(self.model, inputs)
        beside = self.beside([inputs], targets)
        if self.phase.views > 1:
            count = len(targets)
            beside["views"] = features[count:], class_weights(self.model)
            features, logits = features[:count], logits[:count]
        loss, losses = self.objective(features, logits, targets, centroids, **beside)
        self.phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update()
        return self.statistics(loss, losses, logits, targets)

    def prepared(self, images: Tensor) -> Tensor:
        """Returns the batch normalised and mixed with mixup, normalised with a teacher, and
        unchanged otherwise, because `forward` normalises it."""
        phase = self.phase
        is_shared = phase.mixup is not None or phase.teacher is not None
        if is_shared and images.dtype == torch.uint8:
            images = phase.loader.normalise(images)
        return images if phase.mixup is None else phase.mixup.images(images)

    def beside(self, parts: Sequence[Tensor], targets: Tensor) -> dict:
        """Returns further arguments of the objective: the second targets of mixed images, and the
        teacher's logits of the batch, which is given in parts."""
        beside = {}
        if self.phase.mixup is not None:
            beside["mixed"] = self.phase.mixup.targets(targets)
        if self.phase.teacher is not None:
            with torch.no_grad():
                logits = [self.forward(self.phase.teacher, part)[1] for part in parts]
            beside["teacher_logits"] = torch.cat(logits)
        return beside

    def forward(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features and logits. uint8 images are normalised here, inside the step, so that a
        captured step includes it."""
        if images.dtype == torch.uint8:
            images = self.phase.loader.normalise(images)
        with self.machine.autocast():
            return network(images)

    def update(self) -> None:
        """Updates the parameters from their gradients."""
        self.phase.optimizer.step()
        if self.phase.after_update is not None:
            self.phase.after_update()

    @staticmethod
    def statistics(loss: Tensor, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns what a step returns, from the objective, its losses and the logits."""
        correct = (logits.detach().argmax(dim=1) == targets).float().mean()
        return torch.cat([loss.detach().view(1), losses, correct.view(1)])

    def state(self) -> list[Tensor]:
        """Returns all tensors that a step changes."""
        optimizer = self.phase.optimizer
        momenta = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        return [*self.model.state_dict().values(), *trained, *momenta]


def class_weights(model: nn.Module) -> Tensor:
    """Returns the weights of the classifier as rows ``[K, D]``, with gradient."""
    head = cast(Network, model).linear
    return head.weight.T if isinstance(head, NormedLinear) else head.weight


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
    Memory Limited Setup", RepL4NLP 2021).
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
        if len(parts) == 1:
            outputs = [self.forward(self.network, inputs)]
        else:
            with torch.no_grad(), running_statistics_kept(self.model):
                outputs = [self.forward(self.model, part) for part in parts]
        features, logits = (
            collectives.gather(torch.cat(own).detach(), count, self.world).requires_grad_()
            for own in zip(*outputs, strict=True)
        )
        beside = self.beside(parts, targets)
        if "teacher_logits" in beside:
            own = beside["teacher_logits"]
            beside["teacher_logits"] = collectives.gather(own, count, self.world)
        loss, losses = self.objective(features, logits, targets, centroids, **beside)
        self.phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # They are equal in all processes, except for rounding in sums on a GPU.
        collectives.copy_from_main([p.grad for p in self.outside_model], self.world)
        gradients = [self._own(features.grad, count), self._own(logits.grad, count)]
        if len(parts) == 1:
            self._backward(outputs[0], gradients)
        else:
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


@contextmanager
def batches_counted_at_once(model: nn.Module) -> Iterator[None]:
    """Inside, only the first batch-norm layer counts its batches (`num_batches_tracked`). At the
    end the count is added to the other layers.

    All layers see all batches, so the counts end the same as without this. But a step launches only
    one addition, instead of one for each layer.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    counting: list[Any] = [norm for norm in norms if norm.num_batches_tracked is not None]
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
        batch = [inputs, targets] if centroids is None else [inputs, targets, centroids]
        if inputs.shape not in self.graphs:
            self.graphs[inputs.shape] = _Captured(self.step, batch, self.pool, self.stream)
        return self.graphs[inputs.shape].replay(batch)


class _Captured:
    """One graph, the memory that it reads and the memory for its statistics."""

    def __init__(
        self, step: EagerStep, batch: Sequence[Tensor], pool: tuple, stream: torch.cuda.Stream
    ) -> None:
        self.batch = [tensor.clone() for tensor in batch]
        self.centroids: Tensor | None = None
        inputs, targets = self.batch[:2]
        centroids = self.batch[2] if len(batch) == 3 else None
        with preserved(step.state()):
            # cuDNN must choose kernels, and libraries take workspaces, before the capture.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    step(inputs, targets, centroids)
            torch.cuda.current_stream().wait_stream(stream)
        # The capture must allocate the gradients, so that they lie in the graph's own memory.
        step.phase.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        # Another thread may pin the memory of streamed images at the same time.
        capture = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self.graph, **capture):
            self.statistics = step(inputs, targets, centroids)

    def replay(self, batch: Sequence[Tensor]) -> Tensor:
        """Runs the graph on a batch and returns its statistics, which the next replay
        overwrites."""
        for own, given in zip(self.batch[:2], batch[:2], strict=True):
            own.copy_(given)
        # The centroids are the same tensor in the whole epoch, so they are copied once.
        if len(batch) == 3 and batch[2] is not self.centroids:
            self.batch[2].copy_(batch[2])
            self.centroids = batch[2]
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
