"""What both sides of a benchmark are told: flags of `main.py`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from utils.errors import UserError
from utils.machine.cores import usable_cores
from utils.options.flags import FIELDS, Options, flag_of
from utils.options.parse import parse_options
from utils.options.recipes import FULL_STAGE_1, FULL_STAGE_2

DATASETS = ("cifar10", "cifar100")
SHARED = (
    *("dataset", "data_root", "imb_factor", "arch", "batch_size"),
    *("precision", "step", "gpu", "workers"),
)
"""Options that make sense for a benchmark; precision and step are of this project's side alone."""

RELEASED_WORKERS = 20
QUICK = ("--dataset", "cifar10", "--imb_factor", "0.5", "--arch", "resnet20", "--batch-size", "16")
RECIPE = {
    "pretraining": FULL_STAGE_1,
    "features": FULL_STAGE_2[0],
    "classifier": FULL_STAGE_2[1],
}
"""Epochs of each phase, as published."""

PHASES = tuple(RECIPE)


@dataclass(frozen=True)
class Settings:
    """What the two sides of a benchmark have in common.

    Args:
        flags: of `main.py`.
        persistent_workers: whether the plain loop's loaders keep their processes between epochs.
        quick: whether the images are few and made up.
    """

    flags: tuple[str, ...]
    persistent_workers: bool = False
    quick: bool = False

    @cached_property
    def options(self) -> Options:
        """The flags, parsed."""
        return parse_options(self.flags)

    def with_flags(self, *flags: str) -> "Settings":
        """Returns the same with flags that win over those that are there."""
        return replace(self, flags=(*self.flags, *flags))

    def command(self, lengths: dict[str, int], root: str | Path) -> list[str]:
        """Returns the arguments of `main.py` for both stages of the paper with so many epochs of
        each phase; their runs go below `root`."""
        stage_2 = lengths["features"] + lengths["classifier"]
        numbers = {
            "--seed": 0,
            "--pretrain_epochs": lengths["pretraining"],
            "--epochs": stage_2,
            "--balanced_clf_nepochs": lengths["classifier"],
            "--root_log": root,
            "--root_model": root,
        }
        rest = [str(word) for pair in numbers.items() for word in pair]
        return [*self.flags, "--recipe", "dro_lt", "--schedule", "scaled", *rest]


def settings_of(
    flags: Sequence[str], persistent_workers: bool = False, quick: bool = False
) -> Settings:
    """Returns the settings that flags of `main.py` stand for, with a benchmark's own defaults:
    CIFAR-100, and as many workers as the released code has or the machine has cores.

    Raises:
        UserError: a flag is unknown or not of a benchmark, or the machine lacks what it asks for.
    """
    workers = min(RELEASED_WORKERS, usable_cores())
    flags = ["--dataset", "cifar100", "--workers", str(workers), *flags, *(QUICK if quick else ())]
    options = parse_options(flags)
    others = [n for n in FIELDS if n not in SHARED and not options.is_at_default(n)]
    if others:
        allowed = ", ".join(map(flag_of, SHARED))
        raise UserError(f"{flag_of(others[0])}: not a flag of benchmarks, which take {allowed}")
    if options.dataset not in DATASETS:
        raise UserError(f"--dataset {options.dataset}: it is {' or '.join(DATASETS)}")
    return Settings(tuple(flags), persistent_workers, quick)


def on_this_machine(settings: Settings, precision: str | None) -> Settings:
    """Returns the settings with the device that they mean by name, so that no later look at the
    machine warns again, and with the precision; None is `bf16` where it is native, else `float32`.

    Raises:
        UserError: the machine lacks the device, the precision or the kind of step.
    """
    from utils.machine.device import choose_machine, has_native_bf16

    options = settings.options
    device = choose_machine(options.gpu, "float32", options.step).device
    if precision is None:
        precision = "bf16" if has_native_bf16(device) else "float32"
    gpu = "cpu" if device.index is None else str(device.index)
    settings = settings.with_flags("--gpu", gpu, "--precision", precision)
    choose_machine(settings.options.gpu, precision)
    return settings
