"""What all runs of a table share: the flags that are passed on to them, and the training images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import FIELDS, Options, flag_of, with_role
from utils.options.parse import parse_options
from utils.options.roles import Role
from utils.reproduce.plan import DataSet

HELDOUT_FRACTION = "0.1"
"""Of the training images, set aside where other data have no held-out images of their own."""


def check_passed_on(extra: Sequence[str], is_own: bool) -> None:
    """Checks flags that are given for all runs.

    Args:
        extra: the flags.
        is_own: True if the table is one of other data than the paper's.

    Raises:
        UserError: a flag that main.py does not know, or that the rows decide.
    """
    parse_options(extra)
    allowed = [*with_role(Role.PLACE, Role.FREE), *(_of_own_data() if is_own else [])]
    known = {name for option in allowed for name in FIELDS[option].metadata["names"]}
    given = [word.split("=")[0] for word in extra if word.startswith("-")]
    refused = [word for word in given if word not in known]
    if refused:
        raise UserError(
            f"{', '.join(refused)}: decided by the rows; flags for all runs are "
            f"{', '.join(map(flag_of, allowed))}"
        )


def _of_own_data() -> list[str]:
    """What rows on other data share and what decides their results."""
    return [
        name
        for name, option in FIELDS.items()
        if name != "dataset" and (option.metadata["is_shared"] or name in with_role(Role.DATA))
    ]


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
    subset = found.fingerprint[:8] if data.ratio else _digest(options, found.fingerprint)
    return replace(data, subset=subset), extra


def _digest(options: Options, fingerprint: str) -> str:
    """Of the images and of what all rows share."""
    shared = {name: getattr(options, name) for name in _of_own_data()}
    text = json.dumps(shared | {"fingerprint": fingerprint}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
