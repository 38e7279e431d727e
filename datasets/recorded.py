"""What a checkpoint or an earlier run records about its data. The record decides; a flag or data
that contradict it are an error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets.normalisation import CONSTANTS, Normalisation, from_record
from utils.errors import UserError
from utils.options.flags import NATURAL_DATASETS, Options
from utils.options.values import MAX_SIDE, MIN_SIDE
from utils.text import listed


def data_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what a checkpoint or an `args.json` records about its data; empty if it records
    nothing, or if another program means something else by the key `data`."""
    found = record.get("data")
    return found if isinstance(found, Mapping) else {}


def with_recorded(options: Options, recorded: Mapping[str, Any]) -> Options:
    """Returns the options with the recorded image size and choice of `--stream auto`.

    Args:
        options: the options of this run.
        recorded: what `LongTailedData.description` returned in the run before.

    Raises:
        UserError: a flag contradicts the record, or no images have the recorded size.
    """
    changes: dict[str, Any] = {}
    size: Any = recorded.get("image_size")
    if _is_whole(size):
        if not MIN_SIDE <= size <= MAX_SIDE:
            raise UserError(
                f"the checkpoint's image_size must be a whole number from {MIN_SIDE} to "
                f"{MAX_SIDE}, not {size}"
            )
        if options.image_size not in (None, size):
            raise UserError(
                f"--image_size {options.image_size} contradicts the checkpoint, whose images have "
                f"{size}x{size} pixels; leave the flag out"
            )
        changes["image_size"] = size if options.dataset in NATURAL_DATASETS else None
    if options.stream == "auto" and isinstance(recorded.get("streamed"), bool):
        changes["stream"] = recorded["streamed"]
    return replace(options, **changes)


def recorded_test_fraction(options: Options, recorded: Mapping[str, Any]) -> float | None:
    """Returns the recorded part of each class that became test images; None if none is recorded.

    Raises:
        UserError: `--test_fraction` contradicts it.
    """
    fraction: Any = recorded.get("test_fraction")
    if not (isinstance(fraction, float) and 0 < fraction < 1):
        return None
    if options.test_fraction != fraction and not options.is_at_default("test_fraction"):
        raise UserError(
            f"--test_fraction {options.test_fraction} contradicts the checkpoint, whose test "
            f"images are {fraction} of each class; leave the flag out"
        )
    return fraction


def test_rand_number(options: Options, recorded: Mapping[str, Any]) -> int:
    """Returns the seed that splits off the test images: the recorded one if it is a seed, else
    `--rand_number`."""
    number: Any = recorded.get("test_rand_number")
    return number if _is_whole(number) and number < 2**32 else options.rand_number


def normalisation_of(options: Options, recorded: Mapping) -> Normalisation | None:
    """Returns the recorded normalisation, or None if none is recorded.

    Raises:
        UserError: `--normalisation` contradicts it, or what is recorded is not a normalisation.
    """
    if recorded.get("normalisation") is None:
        return None
    found = from_record(recorded["normalisation"])
    if options.normalisation != "auto":
        asked = CONSTANTS[options.normalisation]
        pairs = zip(asked.mean + asked.std, found.mean + found.std, strict=True)
        if not all(math.isclose(one, other, rel_tol=1e-6) for one, other in pairs):
            means = ", ".join(f"{mean:.4g}" for mean in found.mean)
            raise UserError(
                f"--normalisation {options.normalisation} contradicts the checkpoint, whose images "
                f"were normalised with the means {means}; leave the flag out"
            )
    return found


def check_classes(options: Options, class_names: Sequence[str], recorded: Mapping) -> None:
    """Checks that the data have the recorded classes in the recorded order.

    Raises:
        UserError: they do not; the message names classes that only one of the two has.
    """
    before: Any = recorded.get("class_names")
    is_list = isinstance(before, (list, tuple)) and all(isinstance(n, str) for n in before)
    if not is_list or list(before) == list(class_names):
        return
    place = f"--dataset {options.dataset}, --data_root {options.data_root}"
    known, present = set(before), set(class_names)
    here = [name for name in class_names if name not in known]
    there = [name for name in before if name not in present]
    differences = [
        *([f"only these data have {listed(here)}"] if here else []),
        *([f"only the checkpoint has {listed(there)}"] if there else []),
    ]
    raise UserError(
        f"{place}: these data do not have the classes of the checkpoint: "
        + ("; ".join(differences) or "the order is another")
    )


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
