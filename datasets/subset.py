"""Chooses the images that train and those that are held out."""

from dataclasses import replace

import numpy as np

from datasets.long_tail import (
    counts_by_size,
    left_out_indices,
    long_tail_counts,
    long_tail_indices,
)
from datasets.origin import LEFT_OUT
from datasets.splits import AnySplit, BalancedData, LongTailedData
from utils.errors import UserError, warn
from utils.options.flags import NATURAL_DATASETS, Options

HELDOUT_IMAGES_PER_CLASS = 20
"""Images of a class that are held out, at most, of those that the subset leaves out."""


def make_long_tailed(options: Options, balanced: BalancedData) -> LongTailedData:
    """Returns the data with their training images chosen. If the source has no held-out images,
    they are chosen too.

    Args:
        options: `imb_type`, `imb_factor`, `rand_number` and `heldout_fraction` decide.
        balanced: all images of the source.

    Raises:
        UserError: a class would have no training image, or `--heldout_fraction` is given for data
            that have held-out images.
    """
    if options.imb_type == "natural" and not options.is_at_default("imb_factor"):
        warn(
            f"--imb_factor {options.imb_factor} has no effect with --imb_type natural, which keeps "
            "every image"
        )
    labels = balanced.train.labels.numpy()
    available, aside = _set_aside(options, balanced)
    sizes = np.bincount(labels[available], minlength=len(balanced.class_names))
    how = options.imb_type, options.imb_factor
    if options.dataset in NATURAL_DATASETS:
        counts = counts_by_size(sizes, *how)
    else:  # benchmarks have classes of (nearly) one size; they shrink in the order of the labels
        counts = long_tail_counts(len(sizes), int(sizes.max()), *how)
    if min(counts) < 1:
        name = balanced.class_names[int(np.argmin(counts))]
        raise UserError(
            f"--imb_factor {options.imb_factor} leaves class {name} without images: the largest "
            f"class has {sizes.max()}, so the factor must be at least 1/{sizes.max()}"
        )
    chosen = available[long_tail_indices(labels[available], counts, options.rand_number)]
    heldout, in_words = _held_out(options, balanced, aside, counts)
    is_drawn = heldout is not balanced.heldout
    return LongTailedData(
        name=options.dataset,
        train=balanced.train.subset(chosen),
        test=balanced.test,
        heldout=heldout,
        class_names=balanced.class_names,
        origin=replace(balanced.origin, heldout=in_words, draws_heldout=is_drawn),
    )


def _set_aside(options: Options, balanced: BalancedData) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the positions of the images that may train, and of those that `--heldout_fraction`
    holds out; None where it holds out none."""
    labels = balanced.train.labels.numpy()
    everything = np.arange(len(labels))
    if options.heldout_fraction == 0:
        return everything, None
    if balanced.heldout is not None:
        raise UserError(
            f"--heldout_fraction {options.heldout_fraction}: these data have "
            f"{len(balanced.heldout)} held-out images of their own; leave the flag out"
        )
    sizes = np.bincount(labels, minlength=len(balanced.class_names))
    remaining = sizes - (sizes * options.heldout_fraction).astype(int)
    aside = left_out_indices(labels, remaining, options.rand_number)
    if not len(aside):
        raise UserError(
            f"--heldout_fraction {options.heldout_fraction} holds out no image: the largest class "
            f"has {sizes.max()} training images, so it must be at least 1/{sizes.max()}"
        )
    return np.delete(everything, aside), aside


def _held_out(
    options: Options, balanced: BalancedData, aside: np.ndarray | None, counts: list[int]
) -> tuple[AnySplit | None, str | None]:
    """Returns the held-out images, and what they are in words; None and None if there are none.

    Args:
        options: `dataset`, `rand_number` and `heldout_fraction` decide.
        balanced: all images of the source.
        aside: positions of the images that `--heldout_fraction` holds out; None without it.
        counts: how many images the subset keeps of each class ``[K]``.
    """
    if balanced.heldout is not None:
        return balanced.heldout, balanced.origin.heldout or "the data set's own"
    if aside is not None:
        in_words = f"{options.heldout_fraction:g} of each class (--heldout_fraction)"
        return balanced.train.subset(aside), in_words
    # The digits are for trials, also of what happens without held-out images.
    if options.dataset == "digits":
        return None, None
    left_out = left_out_indices(
        balanced.train.labels.numpy(), counts, options.rand_number, HELDOUT_IMAGES_PER_CLASS
    )
    if not len(left_out):
        return None, None
    return balanced.train.subset(left_out), LEFT_OUT.heldout
