"""Where runs are: the folder of the run that options name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.options.flags import FIELDS, Options, flag_of
from utils.options.run_names import (
    DIGITS,
    digested,
    earlier_name,
    name_by_paths,
    released_name,
    run_name,
)
from utils.runs.contents import contents_of, is_same_file, named_files
from utils.runs.lookup import is_digest, other_start, place_of_pretrained, with_digest
from utils.runs.run_folder import RunFolder, is_seed_folder, recorded_options, seed_folder


def run_folder(options: Options) -> RunFolder:
    """Returns the folder of the run that the options name.

    With `--seeds` it is the folder above the folders of the seeds, or, if the options have one
    seed, the folder of this seed. If an earlier version has begun the run, or if the file of
    `--backbone` or `--teacher` is gone, it is the folder in which the run is.

    Raises:
        UserError: `--pretrained` may mean several runs; or the file of `--backbone` or `--teacher`
            is gone, and several runs were made with a file at its place.
    """
    if options.seeds is not None and options.seed is None:
        of_seed = run_folder(options.by_seed()[0])
        return RunFolder(of_seed.models.parent, of_seed.records.parent)
    folder, *earlier = (below(options, name) for name in dict.fromkeys(run_names(options)))
    if folder.holds_a_run():
        return folder
    for earlier_run in earlier:
        if is_run_of(options, earlier_run):
            return earlier_run
    if contents_of(options).keys() == named_files(options).keys():
        return folder
    found = [run for run in named_alike(options) if is_run_of(options, run)]
    if len(found) > 1:
        runs = ", ".join(str(run.records) for run in found)
        raise UserError(
            f"{_missing(options)} is not there, and several runs were made with a file of this "
            f"name: {runs}"
        )
    return found[0] if found else folder


def run_names(options: Options) -> list[str]:
    """Returns the name of the run's folder, and then the names that earlier versions gave it. The
    first of these left some checkpoints that `--pretrained` names out of the digest."""
    counted = in_digest(options)
    without_start = {name: value for name, value in counted.items() if name != "pretrained"}
    names = [run_name(options, counted), run_name(options, without_start)]
    return [*names, name_by_paths(options, _above(options)), earlier_name(options)]


def linked(stages: Sequence[Options]) -> list[Options]:
    """Returns the options of a command's stages. A stage 2 among them gets the folder of its stage
    1 as `--pretrained`, whether that folder is there yet or not.

    Raises:
        UserError: what `run_folder` raises.
    """
    if len(stages) == 1:
        return list(stages)
    first, second = stages
    return [first, replace(second, pretrained=str(run_folder(first).models))]


def digest_of(options: Options, folder: RunFolder) -> str:
    """Returns the flags that the digest in the folder's name stands for, as text; empty if the name
    has no digest."""
    contents, counted = contents_of(options), in_digest(options)
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


def in_digest(options: Options) -> dict[str, Any]:
    """Returns the options that the digest in the name of the run's folder stands for, as
    `digested`."""
    start = other_start(options, options.pretrained)
    return digested(options, _above(options), contents_of(options), start)


def _parent(options: Options) -> Path:
    """Returns the place below the roots in which the run's folder is: for a stage 2 that of its
    stage 1, for a stage 1 the roots themselves."""
    return Path() if options.stage == 1 else place_of_pretrained(options)


def _above(options: Options) -> str | None:
    """Returns the name of a stage 2's stage-1 folder, without that of a seed; None for a stage
    1."""
    return None if options.stage == 1 else _parent(options).parts[0]


def below(options: Options, name: str) -> RunFolder:
    """Returns the run folder of this name below `--root_model` and `--root_log`."""
    parts = [_parent(options), name]
    if options.seeds is not None and options.seed is not None:
        parts.append(seed_folder(options.seed))
    return RunFolder(Path(options.root_model, *parts), Path(options.root_log, *parts))


def named_alike(options: Options) -> list[RunFolder]:
    """Returns the folders with the run's released name, with and without a digest."""
    released = Path(options.root_model, _parent(options), released_name(options))
    return [below(options, path.name) for path in (released, *with_digest(released))]


def is_run_of(options: Options, folder: RunFolder) -> bool:
    """Returns True if the folder's record is that of the same run. A stage 1 may have another
    number of epochs, because it can be continued with more."""
    differing = differing_flags(options, folder)
    return differing is not None and not differing - ({"epochs"} if options.stage == 1 else set())


def differing_flags(options: Options, folder: RunFolder) -> set[str] | None:
    """Returns the names of the `differences` from the folder's record; None if it has no record."""
    try:
        return set(differences(options, recorded_options(folder)))
    except UserError:
        return None


def differences(options: Options, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recorded values of the options that decide the result and differ from them.

    If the record lacks a flag, the flag did not exist when the run was made, and its default
    counts. Seed and image size are only compared if they are given. Files are compared by their
    content. `--pretrained` only counts if the two name different checkpoints of a run
    (`other_start`), and `--pretrain_epochs` only in stage 2, if it is given and recorded.
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

    found = {name: value for name, value in before.items() if not is_same(name, value)}
    started_from = recorded.get("pretrained")
    if other_start(options, options.pretrained) != other_start(options, started_from):
        found["pretrained"] = started_from
    lengths = options.pretrain_epochs, recorded.get("pretrain_epochs")
    if options.stage == 2 and None not in lengths and lengths[0] != lengths[1]:
        found["pretrain_epochs"] = lengths[1]
    return found


def _missing(options: Options) -> str:
    """Returns the flags whose files are not there, as text."""
    contents = contents_of(options)
    gone = {name: path for name, path in named_files(options).items() if name not in contents}
    return ", ".join(f"{flag_of(name)} {path}" for name, path in gone.items())
