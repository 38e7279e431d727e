"""Converters from the text of a flag to its value. Each checks the bounds."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Sampler:
    """The value of a sampler flag. If `samples_per_class` is None, the images are shuffled.
    Otherwise sampling is class-aware, with this many consecutive images at each visit of a
    class."""

    samples_per_class: int | None = None


LOSSES_OF_FEATURES = ("robust_loss",)
"""The losses of stage 2 that read features; the others read logits."""
PRIOR_LOSSES = ("BS", "bs")
"""The losses, of stage 1 and of stage 2, that add the log of class frequencies to the logits."""


class LossTerm(NamedTuple):
    """One loss of stage 2. `kind` is `ce`, `bs` or `robust_loss`; `weighting`, the kind of class
    weights, is empty, `lt` or `bal`."""

    kind: str
    weighting: str = ""

    @property
    def is_robust(self) -> bool:
        """True for the robust loss."""
        return self.kind == "robust_loss"

    @property
    def reads_logits(self) -> bool:
        """False for a loss of features."""
        return self.kind not in LOSSES_OF_FEATURES

    @property
    def adds_prior(self) -> bool:
        """True for balanced softmax."""
        return self.kind in PRIOR_LOSSES


MIN_SIDE, MAX_SIDE = 8, 1024
"""Bounds of `--image_size`."""
LARGEST = 3.4e38
"""Smaller numbers are finite in float32."""


def parse_sampler(text: str | None) -> Sampler:
    """Returns the sampler of a flag: shuffling for `none`, `instance` and None; class-aware with k
    images at each visit for `resample,k`.

    Raises:
        ValueError: the text is anything else.
    """
    if text in (None, "none", "instance"):
        return Sampler()
    kind, _, count = text.partition(",")
    is_count = count.isascii() and count.isdigit() and len(count) < 7 and int(count) >= 1
    if kind == "resample" and is_count:
        return Sampler(int(count))
    raise ValueError(f"{text!r} is not 'none', 'instance' or 'resample,k' with a whole k >= 1")


def parse_losses(text: str | None) -> tuple[LossTerm, ...]:
    """Returns the losses that a checked flag names, in its order; empty if it is absent."""
    return tuple(_loss_term(name) for name in split_names(text))


def _loss_term(name: str) -> LossTerm:
    for weighting in ("lt", "bal"):
        if name.endswith(f"_{weighting}"):
            return LossTerm(name.removesuffix(f"_{weighting}"), weighting)
    return LossTerm(name)


def split_names(text: str | None) -> tuple[str, ...]:
    """Returns the names in `text`, which are separated by commas; empty if there is no text."""
    return tuple(text.split(",")) if text else ()


def boolean(text: str) -> bool:
    """Returns the truth value that the text stands for."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return values[text.lower()]


def boolean_or_auto(text: str) -> bool | str:
    """Returns `auto`, or the truth value that the text stands for."""
    if text == "auto":
        return text
    try:
        return boolean(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not True, False or auto") from None


def _number(
    kind: type, allowed: str, is_allowed: Callable[[float], bool]
) -> Callable[[str], float]:
    """Returns a converter to `kind`. It accepts only values for which `is_allowed` holds and which
    are finite in float32. `allowed` describes them in the message."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
            if abs(float(value)) < LARGEST and is_allowed(value):
                return value
        except (ValueError, OverflowError):
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")

    return convert


not_negative = _number(float, "a finite number >= 0", lambda x: x >= 0)
positive = _number(float, "a finite number > 0", lambda x: x > 0)
above_0_to_1 = _number(float, "a number with 0 < x <= 1", lambda x: 0 < x <= 1)
between_0_and_1 = _number(float, "a number with 0 < x < 1", lambda x: 0 < x < 1)
from_0_below_1 = _number(float, "a number with 0 <= x < 1", lambda x: 0 <= x < 1)
from_0_to_1 = _number(float, "a number with 0 <= x <= 1", lambda x: 0 <= x <= 1)
count = _number(int, "a whole number >= 0", lambda n: n >= 0)
positive_count = _number(int, "a whole number >= 1", lambda n: n >= 1)
image_side = _number(
    int, f"a whole number with {MIN_SIDE} <= x <= {MAX_SIDE}", lambda n: MIN_SIDE <= n <= MAX_SIDE
)
seed = _number(int, "a whole number with 0 <= x < 2**32", lambda n: 0 <= n < 2**32)


def epoch_or_share(text: str) -> int | float:
    """Returns an epoch, counted from 1, or a share of the epochs."""
    for kind in (positive_count, between_0_and_1):
        try:
            return kind(text)
        except argparse.ArgumentTypeError:
            pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither an epoch, a whole number >= 1, nor a share of the epochs, 0 < x < 1"
    )


def path_text(text: str) -> str:
    """Returns the text of a path unchanged, after a check. An empty one would be the current
    folder, and is most often a variable of the shell that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a path; the current folder is .")
    return text


def expanded_path_text(text: str) -> str:
    """Returns the text of a path with `~` replaced, which shells leave behind `--flag=`; else what
    is written there would go into a folder of this name. It is checked as in `path_text`."""
    return os.path.expanduser(path_text(text))


def path(text: str) -> Path:
    """Returns the path in the text, with `~` replaced."""
    return Path(expanded_path_text(text))


def device(text: str) -> int | str:
    """Returns the number of a CUDA device, written `1` or `cuda:1`; or `cpu`."""
    name = text.strip().lower()
    if name == "cpu":
        return name
    number = "0" if name == "cuda" else name.removeprefix("cuda:")
    if "," in number:
        count_of_devices = len(number.split(","))
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one device; to use several, run torchrun --nproc_per_node "
            f"{count_of_devices} main.py ... and choose them with CUDA_VISIBLE_DEVICES"
        )
    try:
        return int(count(number))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither cpu nor the number of a CUDA device, a whole number >= 0"
        ) from None


def seeds(text: str) -> str:
    """Returns the seeds in `text`, checked: different whole numbers, separated by commas."""
    numbers = [seed(part) for part in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"a seed is named twice in {text!r}")
    return ",".join(map(str, numbers))


def sampler(text: str) -> str:
    """Returns the text of a sampler flag unchanged, after a check. It stays text because the name
    of the run folder has it."""
    try:
        parse_sampler(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def names(kind: str, known: Sequence[str], everything: str | None = None) -> Callable[[str], str]:
    """Returns a converter that checks names separated by commas. It replaces the text `everything`
    by all known names.

    Args:
        kind: what the names name, for the message.
        known: the names that are allowed, each of them once.
        everything: the text, or None.
    """
    also = "" if everything is None else f"; {everything!r} names them all"

    def convert(text: str) -> str:
        if text == everything:
            return ",".join(known)
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown {kind} {name!r} in {text!r} (choose from {', '.join(known)}){also}"
                )
        if len(set(given)) < len(given):
            raise argparse.ArgumentTypeError(f"a {kind} is named twice in {text!r}{also}")
        return text

    return convert


def folder_part(text: str) -> str:
    """Returns the text unchanged, after a check that it can be part of a folder's name."""
    if not text or "/" in text or "\0" in text or len(text) > 100:
        raise argparse.ArgumentTypeError(
            f"{text[:120]!r} cannot be part of a folder's name (1 to 100 characters, no '/')"
        )
    return text
