"""Which checkpoint an evaluation reads."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import PRECISIONS, Options, flag_of, with_role
from utils.options.roles import Role
from utils.options.run_names import SPELT_OUT
from utils.runs.folders import (
    below,
    differences,
    differing_flags,
    in_digest,
    named_alike,
    run_folder,
    run_names,
)
from utils.runs.lookup import PRETRAINED, best_files, set_apart
from utils.runs.run_folder import BEST_CHECKPOINT, RunFolder, recorded_options
from utils.text import listed


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
            shipped = below(variant, name).models.relative_to(options.root_model)
            yield RunFolder(PRETRAINED / shipped, folder.records)
    yield from _runs_like(options)


def _shipped_names(options: Options) -> list[str]:
    """Returns the names under which the run may come with the code. No record there tells what a
    name lacks, so an earlier name counts only if it lacks nothing but the seed."""
    name, _, by_paths, earlier = run_names(options)
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
