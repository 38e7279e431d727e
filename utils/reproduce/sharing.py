"""What all runs of a table share: the flags that are passed on to them, and the training images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import FIELDS, Options, with_role
from utils.options.parse import build_parser, parse_options
from utils.options.roles import Role
from utils.reproduce.plan import DataSet

PASSED_ON = (
    "data_root",
    "gpu",
    "workers",
    "precision",
    "step",
    "print_freq",
    "checkpoint_every",
    "list_root",
)
"""Flags of main.py that change no row and may be given for all runs."""

SHARED = ("arch", "batch_size", "lr", "augment", "backbone", "backbone_lr")
"""Flags beside those of the data that all rows on other data may share."""

HELDOUT_FRACTION = "0.1"
"""Of the training images, set aside where other data have no held-out images of their own."""


def check_passed_on(extra: Sequence[str], is_own: bool) -> str:
    """Checks flags that are given for all runs; returns their precision.

    Args:
        extra: the flags.
        is_own: whether the table is one of other data than the paper's.

    Raises:
        UserError: a flag that main.py does not know, or that a row decides.
    """
    options = parse_options(extra).as_dict()
    allowed = [*PASSED_ON, *(_of_own_data() if is_own else [])]
    refused = [
        word
        for word in (word.split("=")[0] for word in extra if word.startswith("-"))
        if _destinations().get(word) not in allowed
    ]
    if refused:
        names = ", ".join(f"--{name}" for name in allowed if name in options)
        raise UserError(
            f"{', '.join(refused)}: decided by the rows; flags for all runs are {names}"
        )
    return options["precision"]


def _destinations() -> dict[str, str]:
    return {name: a.dest for a in build_parser()._actions for name in a.option_strings}


def _of_own_data() -> list[str]:
    names = (*with_role(Role.DATA), *SHARED)
    return [name for name in dict.fromkeys(names) if name in FIELDS and name != "dataset"]


def with_subset(data: DataSet, extra: list[str], records: Path) -> tuple[DataSet, list[str]]:
    """Returns the data set with its training images told, and the flags for all runs, with held-out
    images set aside where other data have none. Where there are no images here, the subset is
    the one that the records are of, if they are of one.

    Raises:
        UserError: there are no images, and other data are asked for.
    """
    from datasets import load_data

    options = parse_options([*data.flags, *extra])
    try:
        found = load_data(options)
        if found.heldout is None and not data.ratio:
            extra = [*extra, "--heldout_fraction", HELDOUT_FRACTION]
            options = parse_options([*data.flags, *extra])
            found = load_data(options)
    except UserError:
        if not data.ratio:
            raise
        known = [path.name for path in records.glob(f"{data.folder}*") if path.is_dir()]
        subset = known[0].removeprefix(data.folder) if len(known) == 1 else "unknown"
        return replace(data, subset=subset), extra
    subset = found.fingerprint[:8]
    if not data.ratio:
        subset = _digest(options, found.fingerprint)
    return replace(data, subset=subset), extra


def _digest(options: Options, fingerprint: str) -> str:
    """Of what all rows on other data share and what decides their results."""
    shared = {name: getattr(options, name) for name in _of_own_data()}
    text = json.dumps(shared | {"fingerprint": fingerprint}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
