"""How a flag is declared: its group in `--help`, its names, its default, and its role."""

from dataclasses import field
from enum import Enum
from typing import Any


class Role(Enum):
    """What a flag affects. Resume checks, run names and headings of reports follow from it."""

    DATA = "data"
    """Which images are trained on, and how they look before augmentation."""
    STAGE_1 = "stage 1"
    """Stage 1 alone: a stage 2 is the same for every value."""
    FEATURES = "features"
    """Stage 2's feature phase, and with it what follows."""
    CLASSIFIER = "classifier"
    """Stage 2's classifier phase."""
    ROBUST_LOSS = "robust loss"
    """The robust loss, in runs that have one."""
    BOTH_STAGES = "both stages"
    """Training in either stage."""
    PLACE = "place of the data"
    """Where the data lie: runs are told apart by their images, not by the place of these."""
    FREE = "free"
    """No result: it may change when a run goes on."""


def flag(
    group: str, *names: str, role: Role, help: str, default: Any = None, **settings: Any
) -> Any:
    """A field of `Options`.

    Args:
        group: title of the group that `--help` shows the flag in.
        names: as written on the command line.
        role: what the flag affects.
        help: one sentence for `--help`.
        default: the value where the flag is not given; None where it depends on other flags.
        settings: what else argparse needs: `type`, `choices`, `metavar`, ...
    """
    metadata = {"group": group, "names": names, "role": role, "help": help, "settings": settings}
    return field(default=default, metadata=metadata)
