"""What a stage consists of: phases, and the step that each of them repeats."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.pipeline import ResidentLoader
from losses import Objective
from utils.device import Machine


@dataclass
class Phase:
    """Which parameters train, on what, and by what their best checkpoint is known.

    Args:
        name: `pretraining`, `features` or `classifier`.
        epochs: the phase's epochs, counted from 1 over the whole stage.
        loader: training batches.
        objective: the objective of an epoch.
        optimizer: holds the parameters that train.
        learning_rate: of an epoch.
        monitor: the reading by which checkpoints are compared, `linear` or `ncm`.
        uses_centroids: whether the objective needs the epoch's class centroids.
        features_are_frozen: whether only the classifier trains (batch-norm in eval mode).
        after_update: what follows each of the optimiser's updates, in place and without waiting
            for the device.
    """

    name: str
    epochs: range
    loader: ResidentLoader
    objective: Callable[[int], Objective]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    monitor: str
    uses_centroids: bool = False
    features_are_frozen: bool = False
    after_update: Callable[[], None] | None = None

    @property
    def loss_names(self) -> list[str]:
        return self.objective(self.epochs.start).names if self.epochs else []


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
