"""Whether a run begins in its folder, continues there, replaces an earlier run, or is finished."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from utils.errors import UserError, warn
from utils.files import check_writable, read_json
from utils.options.data_paths import expanded
from utils.options.flags import OWN_DATASETS, Options, flag_of
from utils.runs import checkpoint
from utils.runs.contents import file_of, is_same_path, named_files
from utils.runs.folders import (
    below,
    differences,
    differing_flags,
    is_run_of,
    named_alike,
    run_names,
)
from utils.runs.records import read_epochs
from utils.runs.run_folder import RunFolder, recorded_options


def prepare(options: Options, folder: RunFolder) -> str:
    """Returns what to do with the run's folder: `start`, `continue`, `finished` or `replace`.

    Raises:
        UserError: the folder is not writable; it holds a run, and neither `--resume` nor
            `--overwrite` is given; the run in it has other options, another start, a length that
            cannot change, or no checkpoint; or, with `--resume`, no run is in it because its files
            or data have changed since.
    """
    check_writable(folder.models)
    check_writable(folder.records)
    if not folder.holds_a_run():
        if options.resume:
            _check_files_unchanged(options)
            _check_data_unchanged(options)
        return "start"
    if options.overwrite:
        return "replace"
    if not options.resume:
        holder = folder.models if folder.last_checkpoint.exists() else folder.records
        raise UserError(
            f"{holder} already holds a run: --resume True continues it, "
            "--overwrite True replaces it"
        )
    recorded = recorded_options(folder)
    differing = differences(options, recorded)
    if options.stage == 1 and list(differing) == ["epochs"]:
        _check_length(options, recorded["epochs"], folder)
        _check_checkpoint(options, recorded, folder)
        return "continue"
    if differing:
        raise UserError(
            f"--resume True: the run in {folder.records} was made with other options: "
            + ", ".join(
                f"{flag_of(name)} {getattr(options, name)} (recorded: {before})"
                for name, before in differing.items()
            )
        )
    _check_start(options, recorded, folder)
    if _is_finished(options, folder):
        return "finished"
    _check_checkpoint(options, recorded, folder)
    return "continue"


def _check_files_unchanged(options: Options) -> None:
    """Checks that no run would be resumed with a file that has changed since the run began.

    Raises:
        UserError: there is a run that differs from the options only in the content of `--backbone`
            or `--teacher`, at the same path.
    """
    files = named_files(options)
    for run in named_alike(options) if files else []:
        differing = (differing_flags(options, run) or set()) - {"epochs"}
        if not differing or not differing <= files.keys():
            continue
        recorded = recorded_options(run)
        if all(is_same_path(files[name], recorded.get(name)) for name in differing):
            named = ", ".join(f"{flag_of(name)} {files[name]}" for name in sorted(differing))
            raise UserError(
                f"--resume True: {named} has changed since the run in {run.records} began; without "
                "--resume True a new run begins"
            )


def _check_data_unchanged(options: Options) -> None:
    """Checks that no new run would begin in the place of one that is not finished. That would
    happen if own data have changed since the run began, because its name has their digest. Warns if
    one begins beside a finished run.

    Raises:
        UserError: there is an unfinished run with these options, of data at the same path.
    """
    if options.dataset not in OWN_DATASETS or not expanded(options.data_root).exists():
        return
    for run in named_alike(options):
        if not is_run_of(options, run):
            continue
        recorded = recorded_options(run)
        taken = {n: recorded.get(n) for n in ("seed", "image_size") if getattr(options, n) is None}
        as_given = replace(options, **taken)
        if run.records in [below(as_given, name).records for name in run_names(as_given)]:
            continue  # the data are the same; this command leaves out a flag of that run
        if not is_same_path(options.data_root, recorded.get("data_root")):
            continue
        changed = (
            f"--resume True: the data in --data_root {options.data_root} have changed since the "
            f"run in {run.records} began"
        )
        if not run.summary.exists():
            raise UserError(
                f"{changed}, which is not finished; put them back to continue it; without --resume "
                "True a new run begins"
            )
        warn(f"{changed}, which is finished and stays; a new run begins in another folder")


def _check_start(options: Options, recorded: Mapping[str, Any], folder: RunFolder) -> None:
    """Checks that a stage 2 began with the weights that `--pretrained` names. They may be in
    another file, such as an exported copy. A warning says if the same file has other weights now.
    A run without a checkpoint has not begun with any.

    Raises:
        UserError: `--pretrained` leads to another file, with other weights.
    """
    if folder.written() is None and not folder.summary.exists():
        return
    before = recorded.get("start")
    start = file_of(options, "pretrained") if before else None  # earlier versions recorded none
    try:
        now = start and checkpoint.weights_digest(checkpoint.load(start)["state_dict"])
        if now in (None, before):
            return
    except UserError:  # it is not readable; a run that goes on reports that
        return
    if not is_same_path(start, recorded["start_file"]):
        raise UserError(
            f"--resume True: the run in {folder.records} began with {recorded['start_file']}, and "
            f"--pretrained {options.pretrained} is {start}, which has other weights; --overwrite "
            "True begins stage 2 anew"
        )
    warn(
        f"{start} has other weights than when the run in {folder.records} began with it: its stage "
        "1 was replaced or has gone on; --overwrite True begins stage 2 anew"
    )


def _check_checkpoint(options: Options, recorded: Mapping[str, Any], folder: RunFolder) -> None:
    """Checks that no run begins anew in the place of one whose checkpoint was moved or deleted.

    Raises:
        UserError: there is no checkpoint, but the log has more epochs than a run that is killed
            before its first checkpoint.
    """
    done = len(read_epochs(folder.records))
    every = max(options.checkpoint_every, recorded.get("checkpoint_every", 1))
    # While a thread writes the first checkpoint, the next epoch may come into the log.
    if done > every + 1 and not folder.last_checkpoint.exists():
        raise UserError(
            f"--resume True: the run in {folder.records} has {done} finished epochs, but its "
            f"checkpoint {folder.last_checkpoint} is not there (recorded: --root_model "
            f"{recorded.get('root_model')}); --overwrite True begins anew"
        )


def _is_finished(options: Options, folder: RunFolder) -> bool:
    """Returns True if the folder has the summary of a run of this length. A shorter run's summary
    may still be there if the longer run was killed at its start."""
    return read_json(folder.summary).get("epochs") == options.epochs


def _check_length(options: Options, before: int, folder: RunFolder) -> None:
    """Checks that stage 1 may continue to another number of epochs.

    Raises:
        UserError: it already has more epochs, or its rates would have been different.
    """
    epochs = read_epochs(folder.records)
    done = epochs[-1]["epoch"] if epochs else 0
    if options.epochs < done:
        raise UserError(
            f"--epochs {options.epochs}: the run in {folder.records} already has {done} epochs"
        )
    scaled = [f"--schedule {options.schedule}"] if options.schedule != "absolute" else []
    if options.has_robust_loss and options.robust_from < 1:
        scaled.append(f"--robust_from {options.robust_from}")
    if done and scaled:
        raise UserError(
            f"--epochs {options.epochs} (recorded: {before}): with {' and '.join(scaled)} "
            f"the {done} finished epochs of the run in {folder.records} would have been different "
            "at the new length; another --exp_str gives the longer run its own folder"
        )


def check_holds_no_run(folder: RunFolder) -> None:
    """Checks that the folder may have the sub-folders of several seeds.

    Raises:
        UserError: it holds a run with a single seed.
    """
    if folder.arguments.exists() or folder.last_checkpoint.exists():
        raise UserError(
            f"--seeds: {folder.records} holds a run with a single seed; choose another --root_log "
            "and --root_model, or move that run away"
        )
