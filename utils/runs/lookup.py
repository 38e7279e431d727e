"""Which run or file is meant: `--pretrained`, `--teacher` and the commands on a finished run take a
path, a run's name, or its name without the digest."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.options.data_paths import expanded
from utils.options.flags import FIELDS, Options, flag_of, with_role
from utils.options.roles import Role
from utils.options.run_names import DIGITS, before_digest
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
"""The folder of the checkpoints that come with the code; each has the name of its run's folder."""
RUNS = Path("checkpoint")
ROOTS = (Path(), RUNS, PRETRAINED)
"""The folders in which a run is looked up by its name alone."""


def place_of_pretrained(options: Options) -> Path:
    """Returns the place of stage 2's folder below the roots: the name of the stage-1 folder that
    `--pretrained` names, or that the named checkpoint file is in.

    If stage 1 is one of several seeds, it is two names, such as ``NAME/seed0``. A file that is not
    named like a run's checkpoint gives its own name.
    """
    path = _find_place(options, "pretrained") or Path(str(options.pretrained))
    folder = Path(os.path.realpath(path))  # `resolve` refuses a link to itself
    if path.name.endswith(".pth.tar") or path.is_file():
        if not (path.name.startswith("ckpt") and path.name.endswith(".pth.tar")):
            name = path.name.removesuffix(".tar")
            # Without a suffix, the file itself could lie where the folder must be made.
            return Path(Path(name).stem if Path(name).suffix else f"{name}_run")
        folder = folder.parent
    return Path(*folder.parts[-2 if is_seed_folder(folder.name) else -1 :])


def checkpoint_of_flag(options: Options, flag: str) -> Path:
    """Returns the checkpoint file that `--pretrained` or `--teacher` names. In a run folder it is
    the best by `--select_on`.

    Args:
        options: the options of the run.
        flag: `pretrained` or `teacher`.

    Raises:
        UserError: there is nothing by that name, several runs have that name with a digest, or the
            folder has no checkpoint.
    """
    place = _find_place(options, flag)
    name = getattr(options, flag)
    if place is None:
        tried = ", ".join(str(p) for p in dict.fromkeys(_places(options, flag)))
        raise UserError(f"--{flag} {name}: no such folder or file (looked for {tried})")
    if place.is_file():
        return place
    found = _checkpoint_in(place, options)
    if found is None:
        raise UserError(f"--{flag} {name}: no {BEST_CHECKPOINT} in {place}")
    return found


def checkpoint_of_run(name: Path) -> Path:
    """Returns the checkpoint file of a run, which the command line names without further flags; in
    a folder it is the best one.

    If a folder has no checkpoint, but only one run below it, it stands for that run. A stage 1 that
    has a stage 2 in its folder does not count then. A folder with neither, such as that of the
    records of an evaluation, is passed over.

    Args:
        name: a checkpoint file, a run folder, or the name of a run folder below `checkpoint` or
            `pretrained`, with or without its digest.

    Raises:
        UserError: there is no such run, or there are several.
    """
    places = [root / name for root in ROOTS]
    place = _first(places, _checkpoints_of, str(name))
    if place is None:
        tried = ", ".join(map(str, dict.fromkeys(places)))
        raise UserError(f"{name}: no such run or checkpoint (looked for {tried})")
    if place.is_file():
        return place
    found = _checkpoints_of(place)
    if len(found) == 1:
        return found[0]
    runs = ", ".join(str(path.parent) for path in found)
    hint = f"; the runs below it are {runs}" if found else ""
    if any((path.parent / "args.json").is_file() for path in found):
        hint += f"; python -m utils.runs {place} says what they are"
    raise UserError(f"{place}: no {BEST_CHECKPOINT} in this folder{hint}")


def _checkpoints_of(folder: Path) -> list[Path]:
    """Returns the checkpoint of a run's folder; if it has none, those of the runs below it, without
    a stage 1 that has a stage 2 in its folder."""
    for file in (BEST_CHECKPOINT, LAST_CHECKPOINT):
        if (folder / file).is_file():
            return [folder / file]
    runs = [path.parent for path in sorted(folder.rglob(BEST_CHECKPOINT))]
    ends = [run for run in runs if not any(run in other.parents for other in runs)]
    return [run / BEST_CHECKPOINT for run in ends]


def _places(options: Options, flag: str) -> list[Path]:
    name = expanded(str(getattr(options, flag)))
    return [Path(name), Path(options.root_model, name), PRETRAINED / name]


def _find_place(options: Options, flag: str) -> Path | None:
    """Returns the file or folder that the flag names, or None if there is none.

    Raises:
        UserError: a place has several folders with this name and a digest.
    """
    given = f"--{flag} {getattr(options, flag)}"
    return _first(_places(options, flag), lambda place: _checkpoint_in(place, options), given)


def _first(
    places: Sequence[Path], has_checkpoint: Callable[[Path], object], given: str
) -> Path | None:
    """Returns the file or folder that a name means, or None if there is none.

    Each place is searched in turn: first for this name, then for the only folder with this name and
    a digest. A folder without a checkpoint is only returned if no place has a checkpoint.

    Args:
        places: where the name may be, each with the name.
        has_checkpoint: gives something true for a folder with a checkpoint.
        given: the name in messages.

    Raises:
        UserError: a place has several folders with this name and a digest.
    """
    empty = None
    for place in places:
        if os.path.exists(place):
            if place.is_file() or has_checkpoint(place):
                return place
            empty = empty or place
        named = [path for path in with_digest(place) if has_checkpoint(path)]
        if len(named) > 1:
            raise UserError(f"{given} may mean {set_apart(named)}: name one of them")
        if named:
            return named[0]
    return empty


def _checkpoint_in(folder: Path, options: Options) -> Path | None:
    """Returns the folder's checkpoint that is best by `--select_on`, or None. If options and folder
    have several seeds, it is that of the options' seed, or of the first seed."""
    seed = options.by_seed()[0].seed if options.seed is None else options.seed
    if options.seeds is not None and seed is not None:
        of_seed = folder / seed_folder(seed)
        folder = of_seed if os.path.exists(of_seed) else folder
    candidates = [folder / name for name in best_files(options.select_on)]
    return next((path for path in candidates if os.path.exists(path)), None)


def best_files(protocol: str) -> list[str]:
    """Returns the names that stage 1's best checkpoint by the protocol may have, in the order to
    try them."""
    chosen = LAST_CHECKPOINT if protocol == "last" else best_by(protocol)
    return [chosen, BEST_CHECKPOINT]


def other_start(options: Options, named: object) -> str | None:
    """Returns the file name of a run's checkpoint that `--pretrained` names itself; None for a run
    folder, for the checkpoint that `--select_on` would take from it, and for other files.

    Args:
        options: their `--pretrained` is in the run's folder, and their `--select_on` counts.
        named: the `--pretrained` of these options, or that of a record of the same run.
    """
    name = Path(str(named)).name
    if not (name.startswith("ckpt") and name.endswith(".pth.tar")):
        return None
    place = _find_place(options, "pretrained")
    taken = place and _checkpoint_in(place.parent if place.is_file() else place, options)
    # Without the run, each checkpoint that it may have for the protocol could be the one.
    names = best_files(options.select_on) if taken is None else [taken.name]
    return None if name in names else name


def with_digest(place: Path) -> list[Path]:
    """Returns the folders beside `place` that have its name and a digest."""
    start = f"{before_digest(place.name)}-"
    try:
        paths = sorted(path for path in place.parent.iterdir() if path.name.startswith(start))
    except OSError:
        return []
    return [path for path in paths if is_digest(path.name.removeprefix(start))]


def is_digest(text: str) -> bool:
    """Returns True if a text has the form of a digest in a run's name."""
    return len(text) == DIGITS and set(text) <= set("0123456789abcdef")


def set_apart(folders: Sequence[Path]) -> str:
    """Returns the folders as text, each with the recorded flags in which the runs differ."""
    records = []
    for path in folders:
        try:
            records.append(recorded_options(RunFolder(path, path)))
        except UserError:
            records.append({})
    differing = [
        name
        for name in FIELDS
        if name not in with_role(Role.FREE, Role.COMMAND)
        and any(record.get(name) != records[0].get(name) for record in records)
    ]
    lines = []
    for path, record in zip(folders, records, strict=True):
        flags = [f"{flag_of(name)} {record.get(name)}" for name in differing]
        lines.append(f"{path} ({', '.join(flags) or 'of other data'})")
    return f"{', '.join(lines[:-1])} or {lines[-1]}"
