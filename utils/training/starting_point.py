"""Whether a checkpoint suits the run that starts from it, or the data that evaluate it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import LongTailedData, load_data
from utils.errors import UserError, warn
from utils.options.flags import Options
from utils.runs.records import read_run


def check_not_trained_on(
    options: Options, start: dict, path: Path, data: LongTailedData, arguments: Mapping[str, Any]
) -> None:
    """Checks that a checkpoint was not trained on images that `--heldout_fraction` holds out.

    Args:
        options: the options of this run.
        start: the checkpoint.
        path: its file.
        data: this run's data.
        arguments: the `args.json` of the checkpoint's run; empty if it is not known.

    Raises:
        UserError: it was.
    """
    given, before = options.heldout_fraction, arguments.get("heldout_fraction", 0.0)
    # The larger part contains the smaller one.
    if given <= before or data.has_fingerprint(start.get("fingerprint")):
        return
    as_trained = replace(options, heldout_fraction=before, select_on="test")
    if load_data(as_trained, start).has_fingerprint(start.get("fingerprint")):
        raise UserError(
            f"--heldout_fraction {given:g}: {path} was trained on images that this holds out (it "
            f"was trained with --heldout_fraction {before:g}); train it again with this flag"
        )


def warn_of_other_data(start: dict, path: Path, data: LongTailedData) -> None:
    """Warns if a checkpoint was trained on another subset than this run's. The warning says if test
    images of this run may be among those."""
    counts = start.get("class_counts")
    if counts is not None and counts != data.class_counts:
        differing = "other class counts"
    elif not data.has_fingerprint(start.get("fingerprint")):
        differing = "other images, the same class counts"
    else:
        return
    tested = ""
    # The shuffle that splits test images off depends on the number and the order of all files.
    if data.origin.test_fraction is not None and not _has_same_tests(start, data):
        tested = (
            "; if files were added, removed or re-ordered since, other images became test images, "
            "and it was trained on some of them: their accuracies are too high"
        )
    warn(f"{path} was trained on another subset ({differing}){tested}")


def _has_same_tests(start: dict, data: LongTailedData) -> bool:
    """Returns True if the checkpoint is known to have the test images of this run."""
    changed = data.changed_splits(start)
    return changed is not None and "test" not in changed


def warn_of_other_chain(start: dict, path: Path, select_on: str) -> None:
    """Warns if the stage-1 checkpoint was chosen by another protocol than this run's.

    The released code's checkpoints do not name their protocol; they were chosen on the test set.
    """
    chosen_on = start.get("selected_on", "test")
    if chosen_on != select_on:
        warn(
            f"{path} was selected on {chosen_on}, so the chain is not --select_on {select_on} from "
            "its start"
        )


def warn_of_unfinished(path: Path, options: Options) -> None:
    """Warns if the stage-1 checkpoint is one of an unfinished run. Without records of that run
    there is no warning."""
    folder = path.parent
    with suppress(ValueError):  # not below --root_model: then the records are beside the checkpoint
        folder = Path(options.root_log, folder.relative_to(options.root_model))
    try:
        run = read_run(folder)
    except UserError:
        return
    if path.name.startswith("ckpt") and run.stage == 1 and not run.is_finished:
        done = run.epochs[-1]["epoch"] if run.epochs else 0
        wanted = run.arguments.get("epochs")
        warn(f"{path} is from a stage 1 that is not finished: {done} of {wanted} epochs are done")
