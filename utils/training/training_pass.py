"""The training of one epoch: a step for each batch."""

import math
from collections.abc import Callable, Generator, Iterable
from itertools import chain, islice
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from datasets.splits import StreamedSplit
from losses import Objective
from models.network import Network
from utils.errors import RunError
from utils.evaluation.features import extract_features
from utils.evaluation.parts import VALUES_AT_ONCE
from utils.machine import collectives, signals
from utils.machine.device import Machine, Stopwatch
from utils.progress import Progress
from utils.training.phase import Phase, Stage
from utils.training.steps import Step, batches_counted_at_once, make_step

BATCHES_A_PASS = 20
"""Number of batches whose features are in memory at the same time if those of an epoch may not
fit."""


class TrainingPass:
    """Trains single epochs of any phase of a stage. A step, which may be a captured graph, is made
    once for each objective and used until another objective takes its place.

    Args:
        stage: the network, and what trains beside it.
        machine: device, precision and processes.
        images_a_pass: how many images go through the network at once without gradients.
        kept: returns which checkpoint is left when the training fails, as text.
    """

    def __init__(
        self, stage: Stage, machine: Machine, images_a_pass: int, kept: Callable[[], str]
    ) -> None:
        self.stage, self.machine = stage, machine
        self.images_a_pass, self.kept = images_a_pass, kept
        self._objective: Objective | None = None
        self._step: Step | None = None

    def run(
        self, phase: Phase, epoch: int, centroids: Tensor | None, bar: Progress
    ) -> Generator[None, None, dict]:
        """Trains one epoch and returns its statistics. It stops after each step (`yield`), so that
        several runs can take turns.

        Args:
            phase: the phase that trains.
            epoch: counted from 1 over the whole stage.
            centroids: ``[K, D]`` for the robust loss, or None.
            bar: the progress bar.

        Returns:
            The epoch's statistics as `log.jsonl` has them: ``images_per_second``; ``train_loss``,
            the mean of the objective; ``losses``, the mean of each of its losses, by name;
            ``train_top1``, the share of the training images that was predicted right, in percent.

        Raises:
            RunError: a loss is not finite, or a weight after the last step.
            Interrupted: a signal came.
        """
        stopwatch = Stopwatch(self.machine.device)
        model, is_frozen = self.stage.model, phase.features_are_frozen
        model.train(not is_frozen)
        objective = phase.objective(epoch).to(self.machine.device)
        step = self._step_of(phase, objective)
        batches = self._frozen_batches(phase) if is_frozen else phase.loader.pixels()
        sizes = phase.loader.batch_sizes
        statistics = torch.zeros(len(sizes), 2 + len(objective.names), device=self.machine.device)
        if phase.mixup is not None:
            batches = phase.mixup.along(batches, epoch, sizes)
        with bar, batches_counted_at_once(model):
            for i, (inputs, targets) in enumerate(batches):
                statistics[i] = step(inputs, targets, centroids)
                bar.advance(statistics[i, 0])
                signals.check()
                yield
        statistics = self._finish(statistics, objective.names, phase, epoch)
        images = torch.tensor(sizes, dtype=torch.float32)
        weighted = statistics * images.unsqueeze(1)
        total, *parts, correct = (weighted.sum(dim=0) / images.sum()).tolist()
        speed = len(phase.loader.order) / stopwatch.stop()
        return {
            "images_per_second": round(speed, 1),
            "train_loss": total,
            "losses": dict(zip(objective.names, parts, strict=True)),
            "train_top1": round(100 * correct, 4),
        }

    def release(self) -> None:
        """Lets go of the step and of all gradients. Captured graphs keep the memory of their
        activations, and gradients that lie in this memory keep it too."""
        self._step = self._objective = None
        for phase in self.stage.phases:
            phase.optimizer.zero_grad(set_to_none=True)

    def _finish(self, statistics: Tensor, names: list[str], phase: Phase, epoch: int) -> Tensor:
        """Gives all processes the weights of the main process, and returns the statistics of the
        epoch's steps on the host. This is the only wait of an epoch's training for the device.

        Raises:
            RunError: a loss is not finite, or a weight after the last step.
        """
        world = self.machine.world
        # Each process has batch-norm statistics of its own images; the main process's count.
        margins = [] if self.stage.margins is None else self.stage.margins.parameters()
        trained = (self.stage.model, *self.stage.beside.values())
        state = [t for module in trained for t in module.state_dict().values()] + [*margins]
        collectives.copy_from_main(state, world)
        # The last update is in no loss of this epoch.
        weights = [tensor.detach() for tensor in state if tensor.is_floating_point()]
        largest = get_total_norm(weights, math.inf).to(statistics.dtype)
        values = torch.cat([statistics.flatten(), largest.view(1)]).cpu()
        statistics, largest = values[:-1].view_as(statistics), values[-1]

        def require_finite() -> None:
            bad = (~statistics[:, :-1].isfinite().all(dim=1)).nonzero()
            if len(bad):
                step = int(bad[0])
                named = zip(["loss", *names], statistics[step].tolist(), strict=False)
                losses = ", ".join(f"{name} {value:.6g}" for name, value in named)
                raise RunError(
                    f"the loss is not finite at step {step + 1} of epoch {epoch} ({phase.name}): "
                    f"{losses}; {self.kept()}"
                )
            if not largest.isfinite():
                raise RunError(
                    f"a weight is not finite after epoch {epoch} ({phase.name}); {self.kept()}"
                )

        collectives.from_main(require_finite, world)
        return statistics

    def _step_of(self, phase: Phase, objective: Objective) -> Step:
        if self._step is None or objective is not self._objective:
            self.release()  # before the next step is made
            network = self.stage.model if phase.features_are_frozen else self.stage.network
            self._step = make_step(network, phase, objective, self.machine)
            self._objective = objective
        return self._step

    def _frozen_batches(self, phase: Phase) -> Iterable[tuple[Tensor, Tensor]]:
        """Yields batches of features and targets, for a phase that trains only the classifier.

        One pass without gradients computes the features of the whole epoch. If they may not fit
        into memory, as those of streamed images or of many, each pass computes a part of them.
        """
        size = phase.loader.batch_size
        batches_a_pass = None
        images_a_pass = self.images_a_pass
        values = len(phase.loader.order) * cast(Network, self.stage.model).num_features
        if isinstance(phase.loader.split, StreamedSplit) or values > VALUES_AT_ONCE:
            batches_a_pass = BATCHES_A_PASS - 1  # beside the first
            # A part must end with a whole batch.
            images_a_pass = max(1, images_a_pass // size) * size
        batches = phase.loader.batches(images_a_pass)
        for first in batches:
            part = chain([first], islice(batches, batches_a_pass))
            features, targets = extract_features(self.stage.model, part, self.machine)
            sizes = phase.loader.sizes(len(targets), size)
            yield from zip(features.split(sizes), targets.split(sizes), strict=True)
