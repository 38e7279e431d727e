"""Whether a checkpoint suits the run that starts from it, or the data that evaluate it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import LongTailedData, load_data
from datasets.recorded import data_of
from utils.errors import UserError, warn
from utils.files import read_json
from utils.options.flags import OF_HELD_OUT, Options
from utils.runs.records import records_of


def check_not_trained_on(options: Options, start: dict, path: Path, data: LongTailedData) -> None:
    """Checks that a checkpoint was not trained on images that `--heldout_fraction` holds out.

    Args:
        options: the options of this run.
        start: the checkpoint.
        path: its file.
        data: this run's data.

    Raises:
        UserError: it was.
    """
    given, number = options.heldout_fraction, options.rand_number
    if given == 0 or data.has_fingerprint(start.get("fingerprint")):
        return
    recorded = _arguments_of(path, options) | start  # earlier checkpoints do not have the flags
    known = {name: recorded[name] for name in OF_HELD_OUT if name in recorded}
    before = {"heldout_fraction": 0.0, "rand_number": number} | known
    # Of one seed, the larger part contains the smaller one.
    if given <= before["heldout_fraction"] and number == before["rand_number"]:
        return
    # Fingerprints of streamed images and of images in memory differ.
    is_streamed = data_of(start).get("streamed", options.stream)
    of_start = {"stream": is_streamed, "normalisation": "auto"} | before
    # With a backbone, "auto" would be ImageNet's normalisation; an evaluation would compare files.
    as_trained = replace(
        options, **of_start, select_on="test", workers=0, backbone=None, evaluation=False
    )
    try:
        data_before = load_data(as_trained, start)
    except UserError:  # a teacher's record may contradict these data: then they are others
        return
    if data_before.has_fingerprint(start.get("fingerprint")):
        flags = f"--heldout_fraction {before['heldout_fraction']:g}"
        if number != before["rand_number"]:
            flags += f" --rand_number {before['rand_number']}"
        raise UserError(
            f"--heldout_fraction {given:g}: {path} was trained on images that this holds out (it "
            f"was trained with {flags}); train it again with this run's flags"
        )


def _arguments_of(path: Path, options: Options) -> dict[str, Any]:
    """Returns the `args.json` of a checkpoint's run; an empty dict if it is not found."""
    folders = records_of(path, options)
    return next((found for f in folders if (found := read_json(f / "args.json"))), {})


def warn_of_other_data(start: dict, path: Path, data: LongTailedData) -> None:
    """Warns if a checkpoint was trained on another subset than this run's. The warning says if test
    or held-out images of this run may be among those. If one of the two streamed its images and the
    other did not, only their class counts are compared."""
    counts = start.get("class_counts")
    if counts is not None and counts != data.class_counts:
        differing = "other class counts"
    elif _is_comparable(start, data) and not data.has_fingerprint(start.get("fingerprint")):
        differing = "other images, the same class counts"
    else:
        return
    parts = [f"{path} was trained on another subset ({differing})"]
    # The shuffles that choose these images depend on the number and the order of all files.
    if data.origin.test_fraction is not None and not _has_same("test", start, data):
        parts.append(
            "if files were added, removed or re-ordered since, other images became test images, "
            "and it was trained on some of them: their accuracies are too high"
        )
    if data.origin.draws_heldout and not _has_same("heldout", start, data):
        parts.append(
            "it may have been trained on this run's held-out images: choose and tune nothing on "
            "them"
        )
    warn("; ".join(parts))


def _is_comparable(start: dict, data: LongTailedData) -> bool:
    """Returns True if the fingerprint in a checkpoint is of the same kind as that of the data."""
    return data_of(start).get("streamed") in (None, data.is_streamed)


def _has_same(split: str, start: dict, data: LongTailedData) -> bool:
    """Returns True if the checkpoint is known to have the images of this run in `test` or
    `heldout`."""
    changed = data.changed_splits(start)
    return changed is not None and split not in changed


def warn_of_other_chain(start: dict, path: Path, select_on: str) -> None:
    """Warns if the checkpoint that a run starts or learns from was chosen by another protocol than
    this run's.

    The released code's checkpoints do not name their protocol; they were chosen on the test set.
    """
    chosen_on = start.get("selected_on", "test")
    if chosen_on != select_on:
        warn(
            f"{path} was selected on {chosen_on}, so the chain is not --select_on {select_on} from "
            "its start"
        )
