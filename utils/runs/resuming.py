"""What to do with a run's folder: begin, go on, replace, or leave as it is."""

import json

from utils.errors import UserError
from utils.options.flags import Options, flag_of
from utils.runs.folders import check_files_unchanged, differences
from utils.runs.records import read_epochs
from utils.runs.run_folder import RunFolder, check_writable, recorded_options


def prepare(options: Options, folder: RunFolder) -> str:
    """What to do with the run's folder: `start`, `continue`, `finished` or `replace`.

    Raises:
        UserError: it cannot be written into, or holds a run that is neither to be resumed nor to
            be overwritten, or one that these options do not continue.
    """
    check_writable(folder.models)
    check_writable(folder.records)
    if not folder.holds_a_run():
        if options.resume:
            check_files_unchanged(options)
        return "start"
    if options.overwrite:
        return "replace"
    if not options.resume:
        raise UserError(
            f"{folder.records} already holds a run: --resume True continues it, "
            "--overwrite True replaces it"
        )
    recorded = recorded_options(folder)
    differing = differences(options, recorded)
    if options.stage == 1 and list(differing) == ["epochs"]:
        _check_length(options, recorded["epochs"], folder)
        return "continue"
    if differing:
        raise UserError(
            f"--resume True: the run in {folder.records} was made with other options: "
            + ", ".join(
                f"{flag_of(name)} {getattr(options, name)} (recorded: {before})"
                for name, before in differing.items()
            )
        )
    return "finished" if _is_finished(options, folder) else "continue"


def _is_finished(options: Options, folder: RunFolder) -> bool:
    """Whether the folder has the summary of a run of this length: that of a shorter one may be left
    where a longer one was killed at its very start."""
    try:
        return json.loads(folder.summary.read_text())["epochs"] == options.epochs
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_length(options: Options, before: int, folder: RunFolder) -> None:
    """Whether a stage 1 may go on to another number of epochs.

    Raises:
        UserError: it has more epochs already, or their rates would have been others.
    """
    epochs = read_epochs(folder.records)
    done = epochs[-1]["epoch"] if epochs else 0
    if options.epochs < done:
        raise UserError(
            f"--epochs {options.epochs}: the run in {folder.records} has {done} epochs already"
        )
    if done and options.schedule != "absolute":
        raise UserError(
            f"--epochs {options.epochs} (recorded: {before}): with --schedule {options.schedule} "
            f"the {done} finished epochs of the run in {folder.records} would have been different "
            "at the new length; --exp_str gives the longer run a folder of its own"
        )


def check_holds_no_run(folder: RunFolder) -> None:
    """Whether the folder is free for the sub-folders of several seeds.

    Raises:
        UserError: it is that of a single run.
    """
    if folder.arguments.exists() or folder.last_checkpoint.exists():
        raise UserError(f"--seeds: {folder.records} holds a run of a single seed")
