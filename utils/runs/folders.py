"""Where runs are: the folder of the run that options name, and the checkpoint of an evaluation."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.options.flags import FIELDS, PRECISIONS, Options, flag_of, with_role
from utils.options.roles import Role
from utils.options.run_names import (
    DIGITS,
    SPELT_OUT,
    digested,
    earlier_name,
    name_by_paths,
    released_name,
    run_name,
)
from utils.runs.contents import contents_of, is_same_file, named_files
from utils.runs.lookup import (
    PRETRAINED,
    best_files,
    is_digest,
    other_start,
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
from utils.text import listed


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
    # An earlier version left some checkpoints that `--pretrained` names out of the digest.
    without_start = run_name(options, _above(options), contents_of(options))
    name, *earlier_names = run_names(options)
    names = dict.fromkeys([name, without_start, *earlier_names])
    folder, *earlier = (_below(options, name) for name in names)
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
    """Returns the name of the run's folder, and then the names that earlier versions gave it."""
    above, start = _above(options), other_start(options, options.pretrained)
    name = run_name(options, above, contents_of(options), start)
    return [name, name_by_paths(options, above), earlier_name(options)]


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


def _below(options: Options, name: str) -> RunFolder:
    """Returns the run folder of this name below `--root_model` and `--root_log`."""
    parts = [_parent(options), name]
    if options.seeds is not None and options.seed is not None:
        parts.append(seed_folder(options.seed))
    return RunFolder(Path(options.root_model, *parts), Path(options.root_log, *parts))


def named_alike(options: Options) -> list[RunFolder]:
    """Returns the folders with the run's released name, with and without a digest."""
    released = Path(options.root_model, _parent(options), released_name(options))
    return [_below(options, path.name) for path in (released, *with_digest(released))]


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


def find_evaluated(options: Options) -> tuple[Path, RunFolder]:
    """Returns the checkpoint file that `--evaluation` reads, and the folder of its run.

    It is the first of these that exists:

    1. the best checkpoint of the run that the options name (of a stage 1 by `--select_on`);
    2. the checkpoint of this run that comes with the code;
    3. those two for the same run with another `--precision`, because weights are float32 in any
       case, and for a stage 1 also with `--select_on test`;
    4. the checkpoint of the only run with the released name that has all flags that were given; if
       there is none, flags of the data may differ.

    Raises:
        UserError: there is none, or several runs fit; the message names the runs.
    """
    files = [BEST_CHECKPOINT] if options.stage == 2 else best_files(options.select_on)
    for folder in _candidates(options):
        for name in files:
            if os.path.exists(folder.models / name):
                return folder.models / name, folder
    own = run_folder(options)
    shipped = PRETRAINED / own.models.relative_to(options.root_model).parent
    places = RunFolder(own.models.parent, own.records.parent), RunFolder(shipped, shipped)
    runs = [
        RunFolder(path.parent, place.records / path.parent.name)
        for place in places
        for path in sorted(place.models.glob(f"*/{BEST_CHECKPOINT}"))
    ]
    there = f"; the runs there are {', '.join(str(run.models) for run in runs)}" if runs else ""
    raise UserError(f"no checkpoint {own.best_checkpoint}{there}{_nearest(options, runs)}")


def _nearest(options: Options, runs: Sequence[RunFolder]) -> str:
    """Returns the run with the fewest `differences` that matter to an evaluation, and those, as a
    clause; empty if no run has a record."""
    asides = {"precision", "pretrain_epochs", *(["epochs"] if options.stage == 1 else [])}
    found = []
    for run in runs:
        with suppress(UserError):
            found.append((run, differences(options, recorded_options(_with_record(run)))))
    if not found:
        return ""
    run, there = min(found, key=lambda pair: len(pair[1].keys() - asides))
    # Without a --seed, --epochs matters too: the run is then sought by the flags that are given.
    names = there.keys() - asides or there
    flags = [f"{flag_of(name)} {getattr(options, name)}, there {there[name]}" for name in names]
    return f"; the nearest is {run.models}" + (
        f" ({listed(sorted(flags), separator='; ')})" if flags else ""
    )


def _candidates(options: Options) -> Iterator[RunFolder]:
    """Yields the folders in which the run of an evaluation may be, in the order to try them.

    Raises:
        UserError: several runs have the flags that were given.
    """
    # Stage 1 keeps the best checkpoint of every protocol.
    protocols = [options.select_on, "test"] if options.stage == 1 else [options.select_on]
    variants = product(dict.fromkeys(protocols), dict.fromkeys([options.precision, *PRECISIONS]))
    for select_on, precision in variants:
        variant = replace(options, select_on=select_on, precision=precision)
        folder = run_folder(variant)
        yield folder
        for name in _shipped_names(variant):
            shipped = _below(variant, name).models.relative_to(options.root_model)
            yield RunFolder(PRETRAINED / shipped, folder.records)
    yield from _runs_like(options)


def _shipped_names(options: Options) -> list[str]:
    """Returns the names under which the run may come with the code. No record there tells what a
    name lacks, so an earlier name counts only if it lacks nothing but the seed."""
    name, by_paths, earlier = run_names(options)
    counted = in_digest(options).keys()
    spelt = set(SPELT_OUT) if options.stage == 2 else set()
    names = [name] if "pretrained" in counted else [name, by_paths]
    return [*names, earlier] if counted - spelt <= {"seed"} else names


def _runs_like(options: Options) -> list[RunFolder]:
    """Returns the only run with the released name whose record has all flags that are not at their
    defaults; if there is none, the only run that differs in flags of the data alone; else an empty
    list.

    Raises:
        UserError: there are several such runs.
    """
    runs = named_alike(options)
    for asides in ((), with_role(Role.DATA)):
        apart = {"precision", "pretrain_epochs", *asides}
        like = [run for run in runs if _has_given_flags(options, run, apart)]
        if len(like) > 1:
            found = set_apart([_with_record(run).records for run in like])
            raise UserError(
                f"--evaluation True may mean {found}: give the flags that tell them apart"
            )
        if like:
            return like
    return []


def _has_given_flags(options: Options, run: RunFolder, asides: set[str]) -> bool:
    """Returns True if a run's record has all flags that are not at their defaults, except for
    `asides`."""
    if not os.path.exists(run.best_checkpoint):
        return False
    differing = differing_flags(options, _with_record(run))
    return differing is not None and all(map(options.is_at_default, differing - asides))


def _with_record(run: RunFolder) -> RunFolder:
    """Returns the run with the folder in which its record is: that of the checkpoints if an
    evaluation has a `--root_log` of its own."""
    return run if run.arguments.exists() else RunFolder(run.models, run.models)
