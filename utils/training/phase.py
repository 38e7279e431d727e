"""A stage and its phases: what trains, on which images, with which loss."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from datasets.loading.loader import Loader
from losses import Margins, Objective
from models.layers import LayerFeatures
from utils.training.mixup import Mixup

RATE_FACTOR = "rate_factor"
"""Key of an optimiser's group: the factor by which the phase's rate is multiplied there."""


@dataclass
class Phase:
    """Which parameters train, on what, and at what rate.

    Args:
        name: `pretraining`, `features` or `classifier`.
        epochs: the phase's epochs, counted from 1 over the whole stage.
        loader: training batches.
        objective: from an epoch to its objective.
        optimizer: holds the parameters that train.
        learning_rate: from an epoch to its rate.
        features_are_frozen: True if only the classifier trains (batch-norm in eval mode).
        after_update: called after each update of the optimiser; changes parameters in place and
            does not wait for the device. None if there is nothing to do.
        mixup: mixes the images of each batch, or None.
        teacher: a network in eval mode whose logits of the same batch the objective takes, or None.
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

    @property
    def loss_names(self) -> list[str]:
        """Names of the losses of all epochs; a loss may join or leave between them."""
        names = (name for epoch in self.epochs for name in self.objective(epoch).names)
        return list(dict.fromkeys(names))

    @property
    def images_seen(self) -> int:
        """Images in all training steps of the phase; each view of an image counts."""
        return len(self.epochs) * len(self.loader.order) * self.loader.views

    def free(self, model: nn.Module) -> None:
        """Makes exactly the parameters that the phase trains require gradients."""
        model.requires_grad_(False)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)

    def set_learning_rate(self, epoch: int) -> float:
        """Sets the rate of an epoch and returns it. A rate that is a tensor on the device is
        changed in place, because a captured step reads it there."""
        rate = self.learning_rate(epoch)
        for group in self.optimizer.param_groups:
            of_group = rate * group.get(RATE_FACTOR, 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(of_group)
            else:
                group["lr"] = of_group
        return rate

    def load_optimizer(self, saved: dict) -> None:
        """Loads the momenta of an optimiser's state. Rate, weight decay and the way of updating
        stay this run's own, because the state may come from another device.

        Raises:
            KeyError, TypeError, ValueError: the state is one of other parameters.
        """
        own = self.optimizer.state_dict()["param_groups"]
        if [len(group["params"]) for group in saved["param_groups"]] != [
            len(group["params"]) for group in own
        ]:
            raise ValueError("the optimiser's state is one of other parameters")
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
        # SGD would notice momenta of other shapes only in its first update.
        for parameter, momenta in self.optimizer.state.items():
            for name, momentum in momenta.items():
                if isinstance(momentum, Tensor) and momentum.shape != parameter.shape:
                    raise ValueError(
                        f"the optimiser's {name} has the shape {list(momentum.shape)}, its "
                        f"parameter {list(parameter.shape)}"
                    )


@dataclass(frozen=True)
class Stage:
    """A network on its device, the phases that train it, and what trains beside it.

    Args:
        model: the network.
        phases: the phases, in their order.
        margins: the margins of the robust loss, or None.
        layers: the network with features of several layers for the robust loss, or None.
        beside: other modules that losses train, on the device, by their names in the checkpoint
            with which a run is resumed.
    """

    model: nn.Module
    phases: list[Phase]
    margins: Margins | None = None
    layers: LayerFeatures | None = None
    beside: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        margins = [] if self.margins is None else [self.margins]
        modules = (self.model, *margins, *self.beside.values())
        kept = {id(p) for module in modules for p in module.parameters()}
        for phase in self.phases:
            trained = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
            for epoch in phase.epochs:
                of_losses = {id(p) for p in phase.objective(epoch).parameters() if p.requires_grad}
                assert of_losses <= trained, "no optimiser has the parameters of a loss"
                assert of_losses <= kept, "put the module of a loss into Stage.beside"

    @property
    def network(self) -> nn.Module:
        """The network that computes the features and logits of the losses."""
        return self.model if self.layers is None else self.layers

    @property
    def layer_names(self) -> list[str]:
        return [] if self.layers is None else list(self.layers.columns)

    def margins_record(self) -> dict:
        """Returns the margins ``[K]`` as `log.jsonl` has them. With several layers, ``margins`` has
        those of the last named layer, and ``layer_margins`` those of each layer."""
        if self.margins is None:
            return {"margins": None}
        values = self.margins.values().cpu().tolist()
        if self.layers is None:
            return {"margins": values}
        by_layer = dict(zip(self.layer_names, values, strict=True))
        return {"margins": values[-1], "layer_margins": by_layer}
