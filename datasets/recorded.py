"""What a checkpoint, or a run to go on from, remembers of its data: it holds, and what contradicts
it is an error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import normalisation
from datasets.files.images import listed
from utils.errors import UserError
from utils.options.flags import NATURAL_DATASETS, Options


def with_recorded(options: Options, recorded: Mapping[str, Any]) -> Options:
    """The options with the image size, the split into training and test images and the way of
    reading that the run before had.

    Raises:
        UserError: a flag that contradicts them.
    """
    changes: dict[str, Any] = {}
    size = recorded.get("image_size")
    if _is_whole(size):
        if options.image_size not in (None, size):
            raise UserError(
                f"--image_size {options.image_size} contradicts the checkpoint, whose images have "
                f"a side of {size} pixels"
            )
        changes["image_size"] = size if options.dataset in NATURAL_DATASETS else None
    if options.stream == "auto" and isinstance(recorded.get("streamed"), bool):
        changes["stream"] = recorded["streamed"]
    fraction = recorded.get("test_fraction")
    if isinstance(fraction, float) and 0 < fraction < 1:
        if options.test_fraction != fraction and not options.is_at_default("test_fraction"):
            raise UserError(
                f"--test_fraction {options.test_fraction} contradicts the checkpoint, which was "
                f"trained beside {fraction} of each class"
            )
        changes["test_fraction"] = fraction
    return replace(options, **changes)


def test_rand_number(options: Options, recorded: Mapping[str, Any]) -> int:
    """The seed by which test images are split off: that of the run before."""
    number: Any = recorded.get("test_rand_number")
    return number if _is_whole(number) else options.rand_number


def normalisation_of(options: Options, recorded: Mapping) -> normalisation.Normalisation | None:
    """The normalisation of the run before, or None where there is none.

    Raises:
        UserError: `--normalisation` contradicts it, or it is none.
    """
    if recorded.get("normalisation") is None:
        return None
    found = normalisation.recorded(recorded["normalisation"])
    if options.normalisation != "auto":
        asked = normalisation.CONSTANTS[options.normalisation]
        pairs = zip(asked.mean + asked.std, found.mean + found.std, strict=True)
        if not all(math.isclose(one, other, rel_tol=1e-6) for one, other in pairs):
            means = ", ".join(f"{mean:.4g}" for mean in found.mean)
            raise UserError(
                f"--normalisation {options.normalisation} contradicts the checkpoint, whose images "
                f"were normalised by means of {means}"
            )
    return found


def check_classes(options: Options, class_names: Sequence[str], recorded: Mapping) -> None:
    """Whether the data have the classes of the run before, in the same order.

    Raises:
        UserError: they do not; it names classes that only one of the two has.
    """
    before: Any = recorded.get("class_names")
    is_list = isinstance(before, (list, tuple)) and all(isinstance(n, str) for n in before)
    if not is_list or list(before) == list(class_names):
        return
    place = f"--dataset {options.dataset}, --data_root {options.data_root}"
    here = [name for name in class_names if name not in set(before)]
    there = [name for name in before if name not in set(class_names)]
    differences = [
        *([f"only these data have {listed(here)}"] if here else []),
        *([f"only the checkpoint has {listed(there)}"] if there else []),
    ]
    raise UserError(
        f"{place}: not the classes of the checkpoint: "
        + ("; ".join(differences) or "their order is another")
    )


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
