"""The settings that all sides of a benchmark share: flags of `main.py`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from utils.errors import UserError
from utils.machine.cores import usable_cores
from utils.options.flags import CIFAR_DATASETS, FIELDS, Options, flag_of
from utils.options.parse import parse_options
from utils.options.recipes import FULL_STAGE_1, FULL_STAGE_2

SHARED = (
    *("dataset", "data_root", "imb_factor", "arch", "batch_size"),
    *("precision", "step", "gpu", "workers"),
)
"""The options of `main.py` that a benchmark takes. The plain loop ignores precision and step."""

RELEASED_WORKERS = 20
QUICK = ("--dataset", "cifar10", "--imb_factor", "0.5", "--arch", "resnet8", "--batch-size", "16")
PHASES: tuple[str, ...] = ("pretraining", "features", "classifier")
RECIPE: dict[str, int] = dict(zip(PHASES, (FULL_STAGE_1, *FULL_STAGE_2), strict=True))
"""The published number of epochs of each phase."""


@dataclass(frozen=True)
class Settings:
    """The settings of a benchmark.

    Args:
        flags: flags of `main.py`. If a flag is there twice, the later one counts.
        persistent_workers: True if the plain loop keeps its workers between epochs.
        quick: True for few, made-up images.
    """

    flags: tuple[str, ...]
    persistent_workers: bool = False
    quick: bool = False

    @cached_property
    def options(self) -> Options:
        """The options that the flags stand for."""
        return parse_options(self.flags)

    def with_flags(self, *flags: str) -> "Settings":
        """Returns these settings with more flags."""
        return replace(self, flags=(*self.flags, *flags))

    def command(self, lengths: dict[str, int], root: str | Path) -> list[str]:
        """Returns the arguments of `main.py` that train both stages of the paper.

        Args:
            lengths: the number of epochs of each phase.
            root: the folder of the runs.
        """
        pretraining, features, classifier = (lengths[phase] for phase in PHASES)
        rest = (
            f"--recipe dro_lt --schedule scaled --seed 0 --pretrain_epochs {pretraining} "
            f"--epochs {features + classifier} --balanced_clf_nepochs {classifier}"
        )
        return [*self.flags, *rest.split(), "--root_log", str(root), "--root_model", str(root)]


def settings_of(
    flags: Sequence[str], persistent_workers: bool = False, quick: bool = False
) -> Settings:
    """Returns the settings that these flags of `main.py` stand for. The defaults are a benchmark's
    own: CIFAR-100, and one worker a core, but not more than the released code has.

    Raises:
        UserError: a flag is unknown, or benchmarks do not take it or its value.
    """
    workers = min(RELEASED_WORKERS, usable_cores())
    flags = ["--dataset", "cifar100", "--workers", str(workers), *flags, *(QUICK if quick else ())]
    options = parse_options(flags)
    others = [n for n in FIELDS if n not in SHARED and not options.is_at_default(n)]
    if others:
        allowed = ", ".join(map(flag_of, SHARED))
        raise UserError(f"{flag_of(others[0])}: not a flag of benchmarks, which take {allowed}")
    if options.dataset not in CIFAR_DATASETS:
        raise UserError(
            f"--dataset {options.dataset}: benchmarks take {' or '.join(CIFAR_DATASETS)}"
        )
    return Settings(tuple(flags), persistent_workers, quick)


def on_this_machine(settings: Settings, precision: str) -> Settings:
    """Returns the settings with the device by name, so that later checks of the machine do not warn
    again, and with the precision. `auto` is `bf16` if the machine has it natively, else `float32`.

    Raises:
        UserError: the machine lacks the device, the precision or the kind of step.
    """
    from utils.machine.device import choose_machine, has_native_bf16

    options = settings.options
    device = choose_machine(options.gpu, "float32", options.step).device
    if precision == "auto":
        precision = "bf16" if has_native_bf16(device) else "float32"
    choose_machine(str(device), precision)
    gpu = "cpu" if device.index is None else str(device.index)
    return settings.with_flags("--gpu", gpu, "--precision", precision)
