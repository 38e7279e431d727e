"""The data set that the options name, with its long-tailed subset chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets import normalisation
from datasets.long_tail import left_out_indices, long_tail_counts, long_tail_indices
from datasets.sources.cifar import HELDOUT_IMAGES_PER_CLASS, load_cifar
from datasets.sources.digits import load_digits
from datasets.sources.folder import load_folder
from datasets.sources.lists import load_lists
from datasets.sources.npz import load_archive
from datasets.sources.packed import load_packed, other_packs, packed_name
from datasets.splits import BalancedData, LongTailedData
from utils.errors import UserError
from utils.options.flags import BENCHMARK_LISTS, NATURAL_DATASETS, OWN_DATASETS, Options


def load_data(options: Options, recorded: Mapping | None = None) -> LongTailedData:
    """The data set that the options name, with its long-tailed training set chosen.

    Args:
        options: of which those of the data count.
        recorded: `args.json` of the run to go on from, or the checkpoint of the stage before; of
            what they remember under `data`, the normalisation and what `--stream auto` came to
            hold on.

    Raises:
        UserError: files missing or damaged, a class without training images, or no held-out ones
            where these are to choose.
    """
    recorded = (recorded or {}).get("data")
    recorded = recorded if isinstance(recorded, Mapping) else {}
    if options.stream == "auto" and isinstance(recorded.get("streamed"), bool):
        options = replace(options, stream=recorded["streamed"])
    data = None if options.dataset in NATURAL_DATASETS else load_packed(options)
    if data is None:
        data = make_long_tailed(options, SOURCES[options.dataset](options))
    if options.select_on == "heldout" and data.heldout is None:
        raise UserError(
            f"--select_on heldout: --dataset {options.dataset} leaves no images out here; "
            "--heldout_fraction sets some aside"
        )
    found = _normalisation(options, data, recorded.get("normalisation"))
    return replace(data, mean=found.mean, std=found.std)


def _normalisation(
    options: Options, data: LongTailedData, recorded: Mapping | None
) -> normalisation.Normalisation:
    if options.normalisation != "auto":
        return normalisation.CONSTANTS[options.normalisation]
    if options.dataset not in OWN_DATASETS:
        is_large = options.dataset in BENCHMARK_LISTS
        return normalisation.IMAGENET if is_large else normalisation.CIFAR
    if recorded is not None:
        return normalisation.recorded(recorded)
    return normalisation.of_images(data.train.pixels())


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


SOURCES: dict[str, Callable[[Options], BalancedData]] = {
    **dict.fromkeys(("cifar10", "cifar100"), _load_cifar),
    "digits": lambda options: load_digits(),
    "folder": load_folder,
    "npz": load_archive,
    **dict.fromkeys(BENCHMARK_LISTS, load_lists),
}


def make_long_tailed(options: Options, balanced: BalancedData) -> LongTailedData:
    """Chooses the training images and, where the source has none, the held-out ones.

    Raises:
        UserError: a class would have no training image, or `--heldout_fraction` is asked of data
            with held-out images of their own.
    """
    labels = balanced.train.labels.numpy()
    num_classes = len(balanced.class_names)
    heldout = None
    if options.heldout_fraction > 0:
        if balanced.heldout is not None:
            raise UserError(
                f"--heldout_fraction {options.heldout_fraction}: these data have "
                f"{len(balanced.heldout)} held-out images of their own"
            )
        sizes = np.bincount(labels, minlength=num_classes)
        remaining = sizes - (sizes * options.heldout_fraction).astype(int)
        heldout = left_out_indices(labels, remaining, options.rand_number)
        available = np.delete(np.arange(len(labels)), heldout)
    else:
        available = np.arange(len(labels))
    largest = int(np.bincount(labels[available], minlength=num_classes).max())
    counts = long_tail_counts(num_classes, largest, options.imb_type, options.imb_factor)
    if min(counts) < 1:
        raise UserError(
            f"--imb_factor {options.imb_factor} leaves class {np.argmin(counts)} without images: "
            f"the largest class has {largest}"
        )
    chosen = available[long_tail_indices(labels[available], counts, options.rand_number)]
    has_own = balanced.heldout is not None
    if heldout is None and not has_own and options.dataset != "digits":
        heldout = left_out_indices(
            labels, counts, options.rand_number, per_class=HELDOUT_IMAGES_PER_CLASS
        )
    left_out = None if heldout is None or not len(heldout) else balanced.train.subset(heldout)
    return LongTailedData(
        name=options.dataset,
        train=balanced.train.subset(chosen),
        test=balanced.test,
        heldout=balanced.heldout if has_own else left_out,
        class_names=balanced.class_names,
    )
