"""Data: where images come from, which of them are used, and how they reach the model."""

from pathlib import Path

import numpy as np

from datasets.cifar import HELDOUT_IMAGES_PER_CLASS, load_cifar
from datasets.digits import load_digits
from datasets.long_tail import left_out_indices, long_tail_counts, long_tail_indices
from datasets.packed import load_packed, other_packs, packed_name
from datasets.samplers import ClassAwareSampler
from datasets.splits import BalancedData, LongTailedData, Split
from utils.errors import UserError
from utils.options import Options


def load_data(options: Options) -> LongTailedData:
    """The data set that the options name, with its long-tailed training set chosen.

    Raises:
        UserError: files missing or damaged, a class without training images, or no held-out ones
            where these are to choose.
    """
    data = load_packed(options)
    if data is None:
        data = make_long_tailed(options, _load_balanced(options))
    if options.select_on == "heldout" and data.heldout is None:
        raise UserError(
            f"--select_on heldout: --dataset {options.dataset} leaves no images out here; "
            "--heldout_fraction sets some aside"
        )
    return data


def _load_balanced(options: Options) -> BalancedData:
    if options.dataset == "digits":
        return load_digits()
    try:
        return load_cifar(options.dataset, Path(options.data_root))
    except UserError as error:
        if others := other_packs(options):
            raise UserError(
                f"{options.data_root} holds {', '.join(others)} and not {packed_name(options)}; "
                f"without it, {error}"
            ) from error
        raise


def make_long_tailed(options: Options, balanced: BalancedData) -> LongTailedData:
    """Chooses the training images and the held-out ones.

    Raises:
        UserError: a class would have no training image.
    """
    labels = balanced.train.labels.numpy()
    num_classes = len(balanced.class_names)
    heldout = None
    if options.heldout_fraction > 0:
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
    if heldout is None and options.dataset in ("cifar10", "cifar100"):
        heldout = left_out_indices(
            labels, counts, options.rand_number, per_class=HELDOUT_IMAGES_PER_CLASS
        )
    return LongTailedData(
        name=options.dataset,
        train=balanced.train.subset(chosen),
        test=balanced.test,
        heldout=None if heldout is None or not len(heldout) else balanced.train.subset(heldout),
        class_names=balanced.class_names,
    )


__all__ = [
    "BalancedData",
    "ClassAwareSampler",
    "LongTailedData",
    "Split",
    "load_data",
    "long_tail_counts",
    "long_tail_indices",
]
