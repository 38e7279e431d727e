"""What all runs of a table share: flags and training images."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import FIELDS, flag_of, names_of, with_role
from utils.options.parse import parse_options
from utils.options.recipes import RECIPES
from utils.options.roles import Role
from utils.reproduce.plan import DataSet
from utils.runs.contents import contents_of

HELDOUT_FRACTION = "0.1"
"""The part of the training images that is set aside if own data have no held-out images."""


def check_passed_on(extra: Sequence[str], dataset: str | None) -> None:
    """Checks the flags for all runs.

    Args:
        extra: the flags.
        dataset: the name of the own data set; None for the paper's table.

    Raises:
        UserError: main.py does not know a flag, the data set does not have it, or the rows set it.
    """
    # Some flags go only with some data sets.
    parse_options([*([] if dataset is None else DataSet(dataset).flags), *extra])
    allowed = [*with_role(Role.PLACE, Role.FREE), *([] if dataset is None else _of_own_data())]
    known = {name for option in allowed for name in names_of(option)}
    # Behind a short flag, which has one letter, its value may follow at once.
    given = [w.split("=")[0] if w.startswith("--") else w[:2] for w in extra if w.startswith("-")]
    refused = [word for word in given if word not in known]
    if refused:
        raise UserError(
            f"{', '.join(refused)}: set by the rows; flags for all runs are "
            f"{', '.join(map(flag_of, allowed))}"
        )


def _of_own_data() -> list[str]:
    """Returns the options that all rows on own data share and that can change their results."""
    return [
        name
        for name, option in FIELDS.items()
        if name != "dataset" and (option.metadata["is_shared"] or name in with_role(Role.DATA))
    ]


def with_subset(
    data: DataSet, extra: list[str], records: Path, rows: Sequence[str] = ()
) -> tuple[DataSet, list[str]]:
    """Returns the data set with its `subset`, and the flags for all runs.

    If own data have no held-out images, the flags set some aside. If the images of the paper's data
    set are missing, the subset is that of the records, if these have only one.

    Args:
        data: the data set, without its subset.
        extra: the flags for all runs.
        records: the folder of all records.
        rows: the rows that will be trained on it.

    Raises:
        UserError: the images of own data are missing or cannot be read, or they are streamed and a
            row needs them in memory.
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
    if data.ratio:
        return replace(data, subset=found.fingerprint[:8]), extra
    contrastive = [row for row in rows if "--contrastive" in RECIPES[row].stage_1]
    if found.is_streamed and contrastive:
        raise UserError(f"{contrastive[0]} needs images held in memory: add --stream False")
    images = {"train": found.fingerprint, **found.evaluation_fingerprints}
    return replace(data, subset=_digest([*data.flags, *extra], images)), extra


def _digest(flags: Sequence[str], images: Mapping[str, str]) -> str:
    """Returns a digest of the images, given by the fingerprints of their splits, and of the options
    that all rows share. A file that an option names counts by its content."""
    options = parse_options(flags)
    # This recipe sets all shared options that recipes set, --arch and --augment. A given flag
    # overrides a recipe, even with its default.
    overridden = parse_options(["--recipe", "bs_resnet56", *flags])
    shared = {name: [getattr(o, name) for o in (options, overridden)] for name in _of_own_data()}
    text = json.dumps([shared | contents_of(options), images], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
