"""How a flag is declared: its group in `--help`, its names, its default, and its role."""

from dataclasses import field
from enum import Enum
from typing import Any


class Role(Enum):
    """What a flag affects, in the words of `docs/flags.md`. Resume checks, run names and headings
    of reports follow from it."""

    DATA = "data"
    """The training images, and how they look before augmentation."""
    STAGE_1 = "stage 1"
    """Only stage 1. Stage 2 does not change with it."""
    FEATURES = "features"
    """Stage 2's feature phase, and so the classifier phase after it."""
    CLASSIFIER = "classifier"
    """Stage 2's classifier phase."""
    ROBUST_LOSS = "robust loss"
    """The robust loss, in runs that have one."""
    BOTH_STAGES = "both stages"
    """Training in either stage."""
    PLACE = "place of the data"
    """The place of the data. Runs are told apart by their images, not by this place."""
    FREE = "nothing"
    """No result, only how the machine works and what it prints. It may change in a resumed run."""
    COMMAND = "the command"
    """What a command does, and which run it means. Resume checks do not compare it, except for the
    checkpoint that `--pretrained` names."""


def flag(
    group: str,
    *names: str,
    role: Role,
    help: str,
    default: Any = None,
    content: str | None = None,
    is_shared: bool = False,
    needs: str | None = None,
    excludes: tuple[str, ...] = (),
    only_stage: int | None = None,
    **settings: Any,
) -> Any:
    """Returns a field of `Options`.

    Args:
        group: title of the group that `--help` shows the flag in.
        names: the flag's names on the command line; without any, `--` and the name of the field.
        role: what the flag affects.
        help: the text that `--help` shows.
        default: the value if the flag is not given; None if it depends on other flags.
        content: what the flag names, if its content counts instead of its path: a `file`, or a
            `checkpoint` (a file or a run folder); None otherwise.
        is_shared: True if methods that are compared on other data may share a value of it. Flags
            of the data always may.
        needs: another option that must be given with the flag, such as `teacher`; or an option and
            the value that it must have, such as `margin_type learned`.
        excludes: options that cannot be combined with the flag.
        only_stage: the stage that the flag belongs to; None if the other stage accepts it too.
        settings: other arguments of argparse: `type`, `choices`, `metavar`, ...
    """
    metadata = {
        **{"group": group, "names": names, "role": role, "help": help, "settings": settings},
        **{"content": content, "is_shared": is_shared},
        **{"needs": needs, "excludes": excludes, "only_stage": only_stage},
    }
    return field(default=default, metadata=metadata)
