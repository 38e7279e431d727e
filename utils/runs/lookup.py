"""Which run or file a flag means: `--pretrained` and `--teacher` take a path, a name, or the
beginning of a name."""

from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import FIELDS, Options, flag_of, with_role
from utils.options.roles import Role
from utils.options.run_names import DIGITS, LONGEST_NAME
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


def place_of_pretrained(options: Options) -> Path:
    """The stage-1 folder's name, below that of its run where it is one of several seeds: of the
    folder that `--pretrained` names, or of the folder that the file is in; a file that is not named
    as a run names its checkpoints goes by its own name."""
    path = _find_place(options, "pretrained") or Path(str(options.pretrained))
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
    return find_checkpoint(options, "pretrained")


def find_checkpoint(options: Options, flag: str) -> Path:
    """The checkpoint file that `--pretrained` or `--teacher` names; of a run's folder the one that
    is best by `--select_on`.

    Args:
        options: of a run.
        flag: the name of the option.

    Raises:
        UserError: as `find_pretrained`.
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


def _places(options: Options, flag: str) -> list[Path]:
    name = str(getattr(options, flag))
    return [Path(name), Path(options.root_model, name), Path(".", name), PRETRAINED / name]


def _find_place(options: Options, flag: str) -> Path | None:
    """The file or folder that the flag names: in the first place that has any, the one of that
    name, or else the only one with a digest behind it. A folder without a checkpoint only where
    there is nothing else; None where there is nothing at all.

    Raises:
        UserError: there are several with a digest.
    """
    empty = None
    for place in _places(options, flag):
        if exists(place):
            if place.is_file() or _checkpoint_in(place, options):
                return place
            empty = empty or place
        named = [path for path in with_digest(place) if _checkpoint_in(path, options)]
        if len(named) > 1:
            raise UserError(
                f"--{flag} {getattr(options, flag)} may mean {set_apart(named)}: name one of them"
            )
        if named:
            return named[0]
    return empty


def _checkpoint_in(folder: Path, options: Options) -> Path | None:
    """The folder's checkpoint that is best by `--select_on`; where the options have several seeds
    and the folder too, that of the options' seed, or of the first."""
    seed = options.by_seed()[0].seed if options.seed is None else options.seed
    if options.seeds is not None and seed is not None and exists(folder / seed_folder(seed)):
        folder = folder / seed_folder(seed)
    candidates = [folder / name for name in chosen_by(options.select_on)]
    return next((path for path in candidates if exists(path)), None)


def chosen_by(protocol: str) -> list[str]:
    """Names of a stage 1's checkpoint that is best by the protocol, the likeliest first."""
    chosen = LAST_CHECKPOINT if protocol == "last" else best_by(protocol)
    return [chosen, BEST_CHECKPOINT]


def with_digest(place: Path) -> list[Path]:
    """The folders whose names are that of `place` and a digest."""
    start = f"{place.name[: LONGEST_NAME - DIGITS - 1]}-"
    try:
        paths = sorted(path for path in place.parent.iterdir() if path.name.startswith(start))
    except OSError:
        return []
    return [path for path in paths if is_digest(path.name.removeprefix(start))]


def is_digest(text: str) -> bool:
    return len(text) == DIGITS and set(text) <= set("0123456789abcdef")


def set_apart(folders: Sequence[Path]) -> str:
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


def exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # such as a name that is too long for the file system
        return False
