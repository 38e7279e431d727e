"""How a flag is declared: its group in `--help`, its names, its default, and its role."""

from dataclasses import field
from enum import Enum
from typing import Any


class Role(Enum):
    """What a flag affects. Resume checks, run names and headings of reports follow from it."""

    DATA = "data"
    """The training images, and how they look before augmentation."""
    STAGE_1 = "stage 1"
    """Stage 1 alone: no value changes a stage 2."""
    FEATURES = "features"
    """Stage 2's feature phase, and so the classifier phase after it."""
    CLASSIFIER = "classifier"
    """Stage 2's classifier phase."""
    ROBUST_LOSS = "robust loss"
    """The robust loss, in runs that have one."""
    BOTH_STAGES = "both stages"
    """Training in either stage."""
    PLACE = "place of the data"
    """The place of the data. It does not tell runs apart: their images do."""
    FREE = "free"
    """No result. The flag may change when a run goes on."""


def flag(
    group: str,
    *names: str,
    role: Role,
    help: str,
    default: Any = None,
    content: str | None = None,
    **settings: Any,
) -> Any:
    """Returns a field of `Options`.

    Args:
        group: title of the group that `--help` shows the flag in.
        names: the flag's names on the command line.
        role: what the flag affects.
        help: the text that `--help` shows.
        default: the value if the flag is not given; None if it depends on other flags.
        content: what the flag's value names, if the content decides and not the path: `file`, or
            `checkpoint` of a run or by its file.
        settings: other arguments of argparse: `type`, `choices`, `metavar`, ...
    """
    metadata = {"group": group, "names": names, "role": role, "help": help, "settings": settings}
    return field(default=default, metadata=metadata | {"content": content})
