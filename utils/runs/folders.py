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
    digested,
    earlier_name,
    name_by_paths,
    released_name,
    stage_1_name,
    stage_2_name,
)
from utils.runs.contents import contents_of, is_same_file, is_same_path, named_files
from utils.runs.lookup import (
    PRETRAINED,
    chosen_by,
    exists,
    is_digest,
    place_of_pretrained,
    set_apart,
    with_digest,
)
from utils.runs.run_folder import (
    BEST_CHECKPOINT,
    RunFolder,
    is_seed_folder,
    recorded_options,
    seed_folder,
)


def run_folder(options: Options) -> RunFolder:
    """The folder of the run that the options name; of the runs with `--seeds`, the one above
    theirs, or that of one of them if the options have its seed. A run that an earlier version made
    keeps the folder that it has, and so does a run whose `--backbone` or `--teacher` is gone.

    Raises:
        UserError: `--pretrained` may mean several runs; or such a file is gone, and several runs
            were made with one at its place.
    """
    if options.seeds is not None and options.seed is None:
        of_seed = run_folder(options.by_seed()[0])
        return RunFolder(of_seed.models.parent, of_seed.records.parent)
    parent = None if options.stage == 1 else place_of_pretrained(options)
    name, *earlier = dict.fromkeys(run_names(options, parent))
    folder = _below(options, parent, name)
    if folder.holds_a_run():
        return folder
    for earlier_run in (_below(options, parent, name) for name in earlier):
        if _is_run_of(options, earlier_run):
            return earlier_run
    if contents_of(options).keys() == named_files(options).keys():
        return folder
    found = [run for run in _named_alike(options, parent) if _is_run_of(options, run)]
    if len(found) > 1:
        runs = ", ".join(str(run.records) for run in found)
        raise UserError(
            f"{_missing(options)} is not there, and several runs were made with a file of this "
            f"name: {runs}"
        )
    return found[0] if found else folder


def run_names(options: Options, parent: Path | None) -> list[str]:
    """Returns the name of the run's folder, of a stage 2 inside `parent`, and behind it the names
    that earlier versions gave it."""
    contents = contents_of(options)
    above = None if parent is None else parent.parts[0]
    if parent is None:
        name = stage_1_name(options, contents)
    else:
        name = stage_2_name(options, above, contents)
    return [name, name_by_paths(options, above), earlier_name(options)]


def linked(stages: Sequence[Options]) -> list[Options]:
    """Returns the stages of one command, with a stage 2 that starts from the folder which its stage
    1 has or will have.

    Raises:
        UserError: as `run_folder`.
    """
    if len(stages) == 1:
        return list(stages)
    first, second = stages
    return [first, replace(second, pretrained=str(run_folder(first).models))]


def digest_of(options: Options, folder: RunFolder) -> str:
    """What the digest in the folder's name stands for, as flags; empty where it has none."""
    parent = None if options.stage == 1 else place_of_pretrained(options).parts[0]
    contents = contents_of(options)
    counted = digested(options, parent, contents)
    name = folder.records.name
    if is_seed_folder(name):
        name = folder.records.parent.name
    if not counted or not is_digest(name.rpartition("-")[2]):
        return ""

    def shown(name: str, value: object) -> str:
        if name in contents:
            return f"{flag_of(name)} {getattr(options, name)} (sha256 {contents[name][:DIGITS]})"
        return f"{flag_of(name) if name in FIELDS else name} {value}"

    return ", ".join(shown(name, value) for name, value in counted.items())


def _below(options: Options, parent: Path | None, name: str) -> RunFolder:
    """The folders of a name below the roots."""
    parts = [parent or "", name]
    if options.seeds is not None and options.seed is not None:
        parts.append(seed_folder(options.seed))
    return RunFolder(Path(options.root_model, *parts), Path(options.root_log, *parts))


def _named_alike(options: Options, parent: Path | None) -> list[RunFolder]:
    """The folders with the run's released name, and those with a digest behind it."""
    released = _below(options, parent, released_name(options))
    is_of_seeds = options.seeds is not None and options.seed is not None
    named = released.models.parent if is_of_seeds else released.models
    runs = []
    for path in (named, *with_digest(named)):
        models = path / released.models.name if is_of_seeds else path
        records = Path(options.root_log, models.relative_to(options.root_model))
        runs.append(RunFolder(models, records))
    return runs


def _is_run_of(options: Options, folder: RunFolder) -> bool:
    """Whether the folder's record is of the same run; a stage 1 may go on with more epochs."""
    differing = _differing(options, folder)
    return differing is not None and not differing - ({"epochs"} if options.stage == 1 else set())


def _differing(options: Options, folder: RunFolder) -> set[str] | None:
    """The names of the `differences` from the folder's record; None where it has none."""
    try:
        return set(differences(options, recorded_options(folder)))
    except UserError:
        return None


def differences(options: Options, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recorded values of the options that decide the result and differ from them.

    A flag that the record lacks did not exist when the run was made, which counts as its default.
    The seed, and the size of the images, are the recorded ones where they are not given. Of files
    that options name, the content counts.
    """
    taken = {name for name in ("seed", "image_size") if getattr(options, name) is None}
    before = {
        name: recorded[name] if name in recorded else options.default_here(name)
        for name in options.decisive()
        if name not in taken
    }
    files = named_files(options)

    def is_same(name: str, value: object) -> bool:
        if name in files:
            return is_same_file(options, name, recorded)
        return value == getattr(options, name)

    return {name: value for name, value in before.items() if not is_same(name, value)}


def check_files_unchanged(options: Options) -> None:
    """Refuses to resume a run with another content of a file than it began with.

    Raises:
        UserError: there is a run that differs from the options in the content of `--backbone` or
            `--teacher` alone, at the same path.
    """
    files = named_files(options)
    parent = None if options.stage == 1 else place_of_pretrained(options)
    for run in _named_alike(options, parent) if files else []:
        differing = (_differing(options, run) or set()) - {"epochs"}
        recorded = recorded_options(run) if differing else {}
        is_changed = [is_same_path(files.get(n), recorded.get(n)) for n in differing & set(files)]
        if is_changed and len(is_changed) == len(differing) and all(is_changed):
            named = ", ".join(f"{flag_of(name)} {files[name]}" for name in sorted(differing))
            raise UserError(
                f"--resume True: {named} has another content than when the run in {run.records} "
                "began; without --resume True a new run begins"
            )


def _missing(options: Options) -> str:
    """The flags whose files are not there."""
    contents = contents_of(options)
    gone = {name: path for name, path in named_files(options).items() if name not in contents}
    return ", ".join(f"{flag_of(name)} {path}" for name, path in gone.items())


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
    files = [BEST_CHECKPOINT] if options.stage == 2 else chosen_by(options.select_on)
    folders = []
    # A stage 1 keeps the checkpoints of every protocol, whichever is the run's own.
    protocols = [options.select_on, "test"] if options.stage == 1 else [options.select_on]
    variants = product(dict.fromkeys(protocols), dict.fromkeys([options.precision, *PRECISIONS]))
    for select_on, precision in variants:
        variant = replace(options, select_on=select_on, precision=precision)
        folder = run_folder(variant)
        folders.append(folder)
        for name in run_names(variant, parent):
            shipped = _below(variant, parent, name).models.relative_to(options.root_model)
            folders.append(RunFolder(PRETRAINED / shipped, folder.records))
    for candidates in (lambda: folders, lambda: _runs_like(options, parent)):
        for folder, name in product(candidates(), files):
            if exists(folder.models / name):
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
    runs = _named_alike(options, parent)
    for asides in ((), with_role(Role.DATA)):
        like = [run for run in runs if _has_given_flags(options, run, {"precision", *asides})]
        if len(like) > 1:
            found = set_apart([run.records for run in like])
            raise UserError(
                f"--evaluation True may mean {found}: give the flags that tell them apart"
            )
        if like:
            return like
    return []


def _has_given_flags(options: Options, run: RunFolder, asides: set[str]) -> bool:
    """Whether a run's record agrees with every flag that is not at its default, some aside."""
    if not exists(run.best_checkpoint):
        return False
    differing = _differing(options, run)
    return differing is not None and all(map(options.is_at_default, differing - asides))
