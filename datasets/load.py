"""From options to a data set with its long-tailed subset chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.files.repeats import repeats
from datasets.files.trees import FileList
from datasets.long_tail import (
    counts_by_size,
    left_out_indices,
    long_tail_counts,
    long_tail_indices,
)
from datasets.normalisation import CIFAR, CONSTANTS, IMAGENET, Normalisation, of_images
from datasets.origin import LEFT_OUT
from datasets.recorded import check_classes, data_of, normalisation_of, with_recorded
from datasets.sources.cifar import load_cifar
from datasets.sources.csv_file import load_csv
from datasets.sources.digits import load_digits
from datasets.sources.folder import load_folder
from datasets.sources.lists import load_lists
from datasets.sources.npz import load_npz
from datasets.sources.packed import load_packed, other_packs, packed_name
from datasets.splits import AnySplit, BalancedData, LongTailedData
from utils.errors import RunError, UserError, is_out_of_memory, warn
from utils.machine.processes import world_of_environment
from utils.options.data_paths import check_data, expanded
from utils.options.flags import BENCHMARK_LISTS, NATURAL_DATASETS, OWN_DATASETS, Options

HELDOUT_IMAGES_PER_CLASS = 20
"""Images of a class that are held out, at most, of those that the subset leaves out."""


def load_data(options: Options, recorded: Mapping | None = None) -> LongTailedData:
    """Returns the data set that the options name, with its long-tailed training set chosen.

    Args:
        options: only the options of the data are used.
        recorded: `args.json` of a resumed run, or the checkpoint of the stage before. Its
            entry `data` decides image size, normalisation, class names, test images and whether
            `--stream auto` streams.

    Raises:
        UserError: files are missing or damaged, a class has no training images,
            `--select_on heldout` has no held-out images, or a flag or the data contradict
            `recorded`.
        RunError: the images do not fit into memory, or what workers read ahead does not fit into
            the memory that processes share.
    """
    try:
        return _load(options, data_of(recorded or {}))
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"--data_root {options.data_root}: the images do not fit into memory"
        ) from error


def _load(options: Options, remembered: Mapping) -> LongTailedData:
    """Does what `load_data` says; `remembered` is the entry `data` of what was recorded."""
    options = replace(options, data_root=str(expanded(options.data_root)))
    if options.list_root is not None:
        options = replace(options, list_root=str(expanded(options.list_root)))
    check_data(options)
    options = with_recorded(options, remembered)
    data = None if options.dataset in NATURAL_DATASETS else load_packed(options)
    if data is None:
        data = make_long_tailed(options, SOURCES[options.dataset](options, remembered))
    check_classes(options, data.class_names, remembered)
    if options.select_on == "heldout" and data.heldout is None:
        raise UserError(
            f"--select_on heldout: --dataset {options.dataset} has no held-out images here; "
            "--heldout_fraction 0.1 sets some aside"
        )
    # A run that goes on with recorded data was told of repeated images when it began. Of several
    # processes only the first prints.
    is_told = (options.evaluation or not remembered) and world_of_environment().is_main
    if options.dataset in ("folder", "csv") and is_told:
        data = replace(data, origin=replace(data.origin, remarks=_repeats(options, data)))
    return replace(data, normalisation=_normalisation(options, data, remembered))


def _repeats(options: Options, data: LongTailedData) -> tuple[str, ...]:
    """Returns the remarks on images that a tree or a table has more than once."""
    root = Path(options.data_root)
    folder = root if options.dataset == "folder" else root.parent
    lists = {}
    for name, split in ({"train": data.train} | data.evaluation_splits).items():
        # The subset has shuffled them; the examples are to be the first.
        images = sorted(zip(split.files or [], split.labels.tolist(), strict=True))
        lists[name] = FileList(folder, [file for file, _ in images], [k for _, k in images])
    return tuple(repeats(lists))


def _normalisation(options: Options, data: LongTailedData, remembered: Mapping) -> Normalisation:
    if (before := normalisation_of(options, remembered)) is not None:
        return before
    if options.normalisation != "auto":
        return CONSTANTS[options.normalisation]
    if options.dataset not in OWN_DATASETS:
        is_large = options.dataset in BENCHMARK_LISTS
        return IMAGENET if is_large else CIFAR
    found = of_images(data.train.pixels())
    # 12 bits in 16 leave values up to 15 of 255, which deviate by half of that at most.
    if max(found.mean) <= 15 / 255 and max(found.std) <= 7.5 / 255:
        if options.dataset == "npz":  # uint8 alone
            advice = "multiply values from 0 to 1 by 255 before they become uint8"
        else:
            advice = "of 16 bits only the upper 8 count, so scale 12-bit values up first"
        mean = 255 * max(found.mean)
        warn(f"the training images are nearly black (mean {mean:.1f} of 255); {advice}")
    return found


def _load_cifar(options: Options) -> BalancedData:
    try:
        return load_cifar(options.dataset, Path(options.data_root))
    except UserError as error:
        if others := other_packs(options):
            raise UserError(
                f"{options.data_root} holds {', '.join(others)} and not {packed_name(options)}; "
                f"without it, {error}"
            ) from error
        raise


SOURCES: dict[str, Callable[[Options, Mapping], BalancedData]] = {
    **dict.fromkeys(("cifar10", "cifar100"), lambda options, recorded: _load_cifar(options)),
    "digits": lambda options, recorded: load_digits(),
    "folder": load_folder,
    "csv": load_csv,
    "npz": load_npz,
    **dict.fromkeys(BENCHMARK_LISTS, lambda options, recorded: load_lists(options)),
}
"""The sources by the names of their data sets: from the options, and what a checkpoint or an
earlier run records about its data, to all images."""


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
