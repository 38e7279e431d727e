"""What a run consists of; both stages share it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from datasets import LongTailedData
from datasets.loading.loader import Loader, Normalise
from datasets.loading.make import make_loader
from datasets.samplers import Order
from losses import Margins
from models.layers import LayerFeatures
from utils.errors import UserError
from utils.machine.device import Machine, choose_machine
from utils.machine.processes import World
from utils.options.data_paths import expanded
from utils.options.flags import Options
from utils.runs.backbone import load_backbone
from utils.runs.run_folder import RunFolder
from utils.training.phase import RATE_FACTOR, Phase
from utils.training.sgd import Sgd
from utils.training.smallest_batch import smallest_batch


def machine_of(options: Options, world: World) -> Machine:
    """Returns the machine that the options name, and sets torch up for it."""
    return choose_machine(options.gpu, options.precision, options.step, options.accumulate, world)


@dataclass(frozen=True)
class Run:
    """The options of a run, its folder, machine and data, and the CPU generator of its orders and
    augmentation."""

    options: Options
    folder: RunFolder
    machine: Machine
    data: LongTailedData
    generator: torch.Generator

    def training_loader(
        self, order: Order, model: nn.Module | None = None, views: int = 1
    ) -> Loader:
        """Returns the loader of augmented training batches. Images held in memory move to the
        device.

        Args:
            order: the images of an epoch, in order.
            model: the network whose batch-norm these batches train; None if it is frozen.
            views: how often each image is in a batch.

        Raises:
            UserError: the batches are too small for the network.
            RunError: the images do not fit into the memory of the device.
        """
        train, side = self.data.train, self.data.image_size
        smallest = 1
        if model is not None:
            parts = self.machine.micro_batches * self.machine.world.size
            smallest = smallest_batch(model, side, parts)
            if min(self.options.batch_size, len(order)) < smallest:
                raise UserError(
                    f"-b {self.options.batch_size} with {len(order)} images per epoch: a batch "
                    f"must have at least {smallest} images, because {self.options.arch} leaves one "
                    f"value per channel of an image of {side} x {side} pixels and batch-norm "
                    "needs two, in each process and each part of --accumulate"
                )
        return make_loader(
            train,
            Normalise(self.data.normalisation, self.machine.device),
            self.options.batch_size,
            order=order,
            augment=self.options.augment,
            generator=self.generator,
            world=self.machine.world,
            smallest_batch=smallest,
            views=views,
        )

    def place(self, model: nn.Module) -> nn.Module:
        """Returns the network on the device, in the memory layout (channels-last) in which
        convolutions are fastest.

        Raises:
            UserError: `--sync_bn True` without a GPU.
        """
        if self.options.sync_bn:
            if self.machine.device.type != "cuda":
                raise UserError(
                    f"--sync_bn True works on CUDA devices, not on {self.machine.device}"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model.to(self.machine.device).to(memory_format=torch.channels_last)

    def take_backbone(self, model: nn.Module) -> None:
        """Loads the weights of `--backbone`, if it is given, for everything but the head. A resumed
        run has its weights in its last checkpoint and does not need the file.

        Raises:
            UserError: the file cannot be read or is one of another network.
        """
        goes_on = self.options.resume and self.folder.last_checkpoint.exists()
        if self.options.backbone is not None and not goes_on:
            loaded = load_backbone(model, expanded(self.options.backbone))
            print(f"--backbone {self.options.backbone}: {loaded}")

    def backbone_group(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        """Returns the optimiser's group of these parameters, which are not the head's. Their rate
        is the phase's rate times `--backbone_lr`."""
        factor = self.options.backbone_lr
        return {"params": parameters} | ({} if factor == 1 else {RATE_FACTOR: factor})

    def margins(self, num_layers: int | None = None) -> Margins:
        """Returns the margins of the robust loss before the first step, on the device. `num_layers`
        is that of `Margins`."""
        kind, start = self.options.margin_type, self.options.starting_margin
        return Margins(kind, start, self.data.class_counts, num_layers).to(self.machine.device)

    def margins_group(self, margins: Margins) -> dict[str, Any]:
        """Returns the optimiser's group of learned margins, with their own `--margin_wd`."""
        decay = self.options.margin_wd
        return {"params": margins.trained} | ({} if decay is None else {"weight_decay": decay})

    def projection(self, margins: Margins) -> Callable[[], None] | None:
        """Returns the function that raises the margins to `--margin_min` after each update, or None
        without the flag."""
        lowest = self.options.margin_min
        return None if lowest is None else partial(margins.keep_above, lowest)

    def sgd(self, parameters: Iterable[Tensor] | list[dict], lr: float) -> torch.optim.SGD:
        """Returns SGD with `--momentum` and `--weight-decay`.

        On CUDA one kernel updates all parameters, and the rate is a tensor, so that a captured step
        reads each new rate.

        Args:
            parameters: parameters, or groups of them, which may have their own weight decay.
            lr: the rate.
        """
        device = self.machine.device
        is_cuda = device.type == "cuda"
        optimizer = Sgd(
            parameters,
            lr,
            momentum=self.options.momentum,
            weight_decay=self.options.weight_decay,
            fused=is_cuda or None,
        )
        if is_cuda:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(lr, device=device)
        return optimizer


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
            for epoch in phase.epochs[-1:]:  # it has all losses, since a loss that joins stays
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
