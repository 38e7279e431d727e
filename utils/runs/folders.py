"""Where runs are: the folder of the run that options name, and the checkpoints that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.options.flags import FIELDS, PRECISIONS, Options, flag_of, with_role
from utils.options.roles import Role
from utils.options.run_names import (
    DIGITS,
    LONGEST_NAME,
    digested,
    earlier_name,
    released_name,
    stage_1_name,
    stage_2_name,
)
from utils.runs.run_folder import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    RunFolder,
    best_by,
    is_seed_folder,
    recorded_options,
    seed_folder,
)

PRETRAINED = Path("pretrained")
"""Where checkpoints come with the code, below the names of their runs' folders."""


def run_folder(options: Options) -> RunFolder:
    """The folder of the run that the options name; of the runs with `--seeds`, the one above
    theirs, or that of one of them if the options have its seed. A run that an earlier version made
    keeps the folder that it has."""
    parent = None if options.stage == 1 else place_of_pretrained(options)
    folder = _below(options, parent, run_name(options, parent))
    earlier = _below(options, parent, earlier_name(options))
    if earlier != folder and not folder.holds_a_run() and _is_run_of(options, earlier):
        return earlier
    return folder


def run_name(options: Options, parent: Path | None) -> str:
    """The name of the run's folder, of a stage 2 inside `parent`."""
    if parent is None:
        return stage_1_name(options)
    return stage_2_name(options, parent.parts[0])


def digest_of(options: Options, folder: RunFolder) -> str:
    """What the digest in the folder's name stands for, as flags; empty where it has none."""
    parent = None if options.stage == 1 else place_of_pretrained(options).parts[0]
    counted = digested(options, parent)
    name = folder.records.name
    if is_seed_folder(name):
        name = folder.records.parent.name
    if not counted or not _is_digest(name.rpartition("-")[2]):
        return ""
    return ", ".join(
        f"{flag_of(name) if name in FIELDS else name} {value}" for name, value in counted.items()
    )


def _below(options: Options, parent: Path | None, name: str) -> RunFolder:
    """The folders of a name below the roots."""
    parts = [parent or "", name]
    if options.seeds is not None and options.seed is not None:
        parts.append(seed_folder(options.seed))
    return RunFolder(Path(options.root_model, *parts), Path(options.root_log, *parts))


def _is_run_of(options: Options, folder: RunFolder) -> bool:
    """Whether the folder's record is of the same run; a stage 1 may go on with more epochs."""
    try:
        differing = differences(options, recorded_options(folder))
    except UserError:
        return False
    return not set(differing) - ({"epochs"} if options.stage == 1 else set())


def differences(options: Options, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recorded values of the options that decide the result and differ from them.

    A flag that the record lacks did not exist when the run was made, which counts as its default.
    The seed, and the size of the images, are the recorded ones where they are not given.
    """
    taken = {name for name in ("seed", "image_size") if getattr(options, name) is None}
    before = {
        name: recorded[name] if name in recorded else options.default_here(name)
        for name in options.decisive()
        if name not in taken
    }
    return {name: value for name, value in before.items() if value != getattr(options, name)}


def place_of_pretrained(options: Options) -> Path:
    """The stage-1 folder's name, below that of its run where it is one of several seeds: of the
    folder that `--pretrained` names, or of the folder that the file is in; a file that is not named
    as a run names its checkpoints goes by its own name."""
    path = _find_place(options) or Path(str(options.pretrained))
    folder = path.resolve()
    if path.name.endswith(".pth.tar") or path.is_file():
        if not (path.name.startswith("ckpt") and path.name.endswith(".pth.tar")):
            name = path.name.removesuffix(".tar")
            # A file without a suffix may lie where the folder would be made.
            return Path(Path(name).stem if Path(name).suffix else f"{name}_run")
        folder = folder.parent
    return Path(*folder.parts[-2 if is_seed_folder(folder.name) else -1 :])


def find_pretrained(options: Options) -> Path:
    """The stage-1 checkpoint file that `--pretrained` names, best by `--select_on`.

    Raises:
        UserError: nothing by that name, several runs whose names begin with it, or no checkpoint
            in the folder.
    """
    place = _find_place(options)
    if place is None:
        tried = ", ".join(str(p) for p in dict.fromkeys(_places(options)))
        raise UserError(
            f"--pretrained {options.pretrained}: no such folder or file (looked for {tried})"
        )
    if place.is_file():
        return place
    found = _checkpoint_in(place, options)
    if found is None:
        raise UserError(f"--pretrained {options.pretrained}: no {BEST_CHECKPOINT} in {place}")
    return found


def _places(options: Options) -> list[Path]:
    name = str(options.pretrained)
    return [Path(name), Path(options.root_model, name), Path(".", name), PRETRAINED / name]


def _find_place(options: Options) -> Path | None:
    """The file or folder that `--pretrained` names: in the first place that has any, the one of
    that name, or else the only one with a digest behind it. A folder without a checkpoint only
    where there is nothing else; None where there is nothing at all.

    Raises:
        UserError: there are several with a digest.
    """
    empty = None
    for place in _places(options):
        if _exists(place):
            if place.is_file() or _checkpoint_in(place, options):
                return place
            empty = empty or place
        named = [path for path in _with_digest(place) if _checkpoint_in(path, options)]
        if len(named) > 1:
            found = _set_apart(named)
            raise UserError(f"--pretrained {options.pretrained} may mean {found}: name one of them")
        if named:
            return named[0]
    return empty


def _checkpoint_in(folder: Path, options: Options) -> Path | None:
    """The folder's checkpoint that is best by `--select_on`; where the options have several seeds
    and the folder too, that of the options' seed, or of the first."""
    seed = options.by_seed()[0].seed if options.seed is None else options.seed
    if options.seeds is not None and seed is not None and _exists(folder / seed_folder(seed)):
        folder = folder / seed_folder(seed)
    candidates = [folder / name for name in _chosen_by(options.select_on)]
    return next((path for path in candidates if _exists(path)), None)


def _chosen_by(protocol: str) -> list[str]:
    """Names of a stage 1's checkpoint that is best by the protocol, the likeliest first."""
    chosen = LAST_CHECKPOINT if protocol == "last" else best_by(protocol)
    return [chosen, BEST_CHECKPOINT]


def find_evaluated(options: Options) -> tuple[Path, RunFolder]:
    """Returns the checkpoint file that `--evaluation` reads, and the folder of its run.

    It is the best one of the run that the options name (of a stage 1 by `--select_on`), or where
    this machine has not made the run, the one that comes with the code; or else one of the same run
    in another precision of training, as weights have none; or else that of the only run with the
    released name which has every flag that was given, those of the data aside if need be.

    Raises:
        UserError: there is none, or several; it names the runs that there are.
    """
    parent = None if options.stage == 1 else place_of_pretrained(options)
    files = [BEST_CHECKPOINT] if options.stage == 2 else _chosen_by(options.select_on)
    folders = []
    # A stage 1 keeps the checkpoints of every protocol, whichever is the run's own.
    protocols = [options.select_on, "test"] if options.stage == 1 else [options.select_on]
    variants = product(dict.fromkeys(protocols), dict.fromkeys([options.precision, *PRECISIONS]))
    for select_on, precision in variants:
        variant = replace(options, select_on=select_on, precision=precision)
        folder = run_folder(variant)
        folders.append(folder)
        for name in (run_name(variant, parent), earlier_name(variant)):
            shipped = _below(variant, parent, name).models.relative_to(options.root_model)
            folders.append(RunFolder(PRETRAINED / shipped, folder.records))
    folders += _runs_like(options, parent)
    for folder in folders:
        for name in files:
            if _exists(folder.models / name):
                return folder.models / name, folder
    own = run_folder(options).models
    above = [own.parent, PRETRAINED / own.relative_to(options.root_model).parent]
    found = (path for place in above for path in sorted(place.glob(f"*/{BEST_CHECKPOINT}")))
    runs = [str(path.parent) for path in found]
    there = f"; the runs there are {', '.join(runs)}" if runs else ""
    raise UserError(f"no checkpoint {run_folder(options).best_checkpoint}{there}")


def _runs_like(options: Options, parent: Path | None) -> list[RunFolder]:
    """The only run with the released name whose record agrees with every flag that is not at its
    default, or else with those that are not of the data; none where there is no such run.

    Raises:
        UserError: there are several.
    """
    released = _below(options, parent, released_name(options))
    is_of_seeds = options.seeds is not None and options.seed is not None
    named = released.models.parent if is_of_seeds else released.models
    runs = []
    for path in (named, *_with_digest(named)):
        models = path / released.models.name if is_of_seeds else path
        records = Path(options.root_log, models.relative_to(options.root_model))
        runs.append(RunFolder(models, records))
    for asides in ((), with_role(Role.DATA)):
        like = [run for run in runs if _has_given_flags(options, run, {"precision", *asides})]
        if len(like) > 1:
            found = _set_apart([run.records for run in like])
            raise UserError(
                f"--evaluation True may mean {found}: give the flags that tell them apart"
            )
        if like:
            return like
    return []


def _has_given_flags(options: Options, run: RunFolder, asides: set[str]) -> bool:
    """Whether a run's record agrees with every flag that is not at its default, some aside."""
    if not _exists(run.best_checkpoint):
        return False
    try:
        differing = differences(options, recorded_options(run))
    except UserError:
        return False
    return all(options.is_at_default(name) for name in set(differing) - asides)


def _with_digest(place: Path) -> list[Path]:
    """The folders whose names are that of `place` and a digest."""
    start = f"{place.name[: LONGEST_NAME - DIGITS - 1]}-"
    try:
        paths = sorted(path for path in place.parent.iterdir() if path.name.startswith(start))
    except OSError:
        return []
    return [path for path in paths if _is_digest(path.name.removeprefix(start))]


def _is_digest(text: str) -> bool:
    return len(text) == DIGITS and set(text) <= set("0123456789abcdef")


def _set_apart(folders: Sequence[Path]) -> str:
    """The folders, and what sets their runs apart: the recorded flags in which they differ."""
    records = []
    for path in folders:
        try:
            records.append(recorded_options(RunFolder(path, path)))
        except UserError:
            records.append({})
    differing = [
        name
        for name in FIELDS
        if name not in with_role(Role.FREE)
        and any(record.get(name) != records[0].get(name) for record in records)
    ]
    lines = []
    for path, record in zip(folders, records, strict=True):
        flags = [f"{flag_of(name)} {record.get(name)}" for name in differing]
        lines.append(f"{path} ({', '.join(flags) or 'of other data'})")
    return f"{', '.join(lines[:-1])} or {lines[-1]}"


def _exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # such as a name that is too long for the file system
        return False
