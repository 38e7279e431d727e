"""What a benchmark is told, in a form that child processes can be told too. Imports no torch."""

from dataclasses import dataclass, fields

from utils.errors import UserError
from utils.machine.cores import usable_cores
from utils.options.flags import Options

STAGE_2 = (
    "--feat_sampler resample,4 --feat_lr 0.005 --feat_loss ce_lt,robust_loss --cls_sampler none "
    "--cls_lr 0.01 --cls_loss ce --temperature 1 --margin 1 --margin_type learned"
)


@dataclass(frozen=True)
class Settings:
    """Of both sides of a benchmark; `precision` and `step` are of this project's side."""

    dataset: str = "cifar100"
    data_root: str | None = None
    imb_factor: float = 0.01
    arch: str = "resnet32"
    batch_size: int = 128
    gpu: int | None = None
    workers: int = 2
    persistent_workers: bool = False
    precision: str = "float32"
    step: str | None = None
    quick: bool = False

    def data_flags(self) -> list[str]:
        """The command line's flags for these images."""
        flags = ["--dataset", self.dataset, "--imb_factor", str(self.imb_factor)]
        return flags if self.data_root is None else [*flags, "--data_root", self.data_root]

    def training_flags(self) -> list[str]:
        """The command line's flags of both stages."""
        flags = [*self.data_flags(), "--arch", self.arch, "-b", str(self.batch_size)]
        flags += ["--seed", "0", "--precision", self.precision]
        if self.gpu is not None:
            flags += ["--gpu", str(self.gpu)]
        return flags if self.step is None else [*flags, "--step", self.step]

    def stage_2_flags(self, features: int, classifier: int) -> list[str]:
        """The paper's second command with that many epochs of its two phases."""
        lengths = ["--epochs", str(features + classifier)]
        lengths += ["--balanced_clf_nepochs", str(classifier)]
        return [*self.training_flags(), *STAGE_2.split(), *lengths]


def choices_of(flag: str) -> tuple[str, ...]:
    """The values that a flag of the command line allows; none if there is no such flag."""
    options = {field.name: field for field in fields(Options)}
    if flag not in options:
        return ()
    return tuple(options[flag].metadata["settings"].get("choices") or ())


def default_workers() -> int:
    """The released 20, or as many as there are cores."""
    return min(20, usable_cores())


def check_choice(flag: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """Raises UserError unless the value is None or allowed."""
    if value is not None and value not in allowed:
        known = f"one of {', '.join(allowed)}" if allowed else "not known here"
        raise UserError(f"--{flag} {value}: it is {known}")
