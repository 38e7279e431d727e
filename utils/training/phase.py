"""What a stage consists of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.loading.resident import Loader
from losses import Objective
from utils.training.mixup import Mixup
from utils.training.selection import monitor_of

RATE_FACTOR = "rate_factor"
"""Key of an optimiser's group: by what the phase's rate is multiplied there."""


@dataclass
class Phase:
    """Which parameters train, on what, and at what rate.

    Args:
        name: `pretraining`, `features` or `classifier`.
        epochs: the phase's epochs, counted from 1 over the whole stage.
        loader: training batches.
        objective: the objective of an epoch.
        optimizer: holds the parameters that train.
        learning_rate: of an epoch.
        features_are_frozen: whether only the classifier trains (batch-norm in eval mode).
        after_update: what follows each of the optimiser's updates, in place and without waiting
            for the device.
        mixup: mixes the images of each batch, or None.
        teacher: gives logits of the same batch to the objective, in eval mode, or None.
        views: how often each image is in a batch, augmented anew: the first view is classified, the
            others are for a contrastive loss.
    """

    name: str
    epochs: range
    loader: Loader
    objective: Callable[[int], Objective]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    features_are_frozen: bool = False
    after_update: Callable[[], None] | None = None
    mixup: Mixup | None = None
    teacher: nn.Module | None = None
    views: int = 1

    @property
    def monitor(self) -> str:
        """The classifier by which the phase's epochs are compared, `linear` or `ncm`."""
        return monitor_of(self.name)

    @property
    def loss_names(self) -> list[str]:
        """Those of all epochs; a loss that joins later is one of the last epoch's."""
        if not self.epochs:
            return []
        ends = (self.epochs[0], self.epochs[-1])
        return list(dict.fromkeys(name for epoch in ends for name in self.objective(epoch).names))

    @property
    def images_seen(self) -> int:
        """Images in all training steps of the phase; each view of an image counts."""
        return len(self.epochs) * len(self.loader.order) * self.views

    def free(self, model: nn.Module) -> None:
        """Lets gradients reach what the phase trains, and no other part of the model."""
        model.requires_grad_(False)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)

    def set_learning_rate(self, epoch: int) -> float:
        """Sets the rate of an epoch and returns it. A rate on the device is filled in place, where
        a captured step reads it."""
        rate = self.learning_rate(epoch)
        for group in self.optimizer.param_groups:
            of_group = rate * group.get(RATE_FACTOR, 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(of_group)
            else:
                group["lr"] = of_group
        return rate

    def load_optimizer(self, saved: dict) -> None:
        """Takes up the momenta of an optimiser's state. Rates, decay and the kind of the update are
        this run's own: the state may come from another device.

        Raises:
            KeyError, TypeError, ValueError: the state of other parameters.
        """
        own = self.optimizer.state_dict()["param_groups"]
        if [len(group["params"]) for group in saved["param_groups"]] != [
            len(group["params"]) for group in own
        ]:
            raise ValueError("the optimiser's state is one of other parameters")
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
        # SGD itself notices momenta of other shapes only when it uses them.
        for parameter, momenta in self.optimizer.state.items():
            for name, momentum in momenta.items():
                if isinstance(momentum, Tensor) and momentum.shape != parameter.shape:
                    raise ValueError(f"{name} of shape {list(momentum.shape)}")
