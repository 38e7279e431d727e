"""What a run consists of; both stages share it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from datasets import LongTailedData
from datasets.loading.loader import Loader, Normalise
from datasets.loading.make import make_loader
from datasets.samplers import Order
from losses import Margins
from utils.errors import UserError
from utils.machine.device import Machine, choose_machine
from utils.machine.processes import World
from utils.options.data_paths import expanded
from utils.options.flags import Options
from utils.runs.backbone import load_backbone
from utils.runs.run_folder import RunFolder
from utils.training.phase import RATE_FACTOR
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
