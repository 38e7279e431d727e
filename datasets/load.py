"""From options to a data set with its long-tailed subset chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from datasets.files.repeats import repeats
from datasets.normalisation import CONSTANTS, Normalisation, of_images, usual
from datasets.recorded import check_classes, data_of, normalisation_of, with_recorded
from datasets.sources.cifar import load_cifar
from datasets.sources.csv_file import load_csv
from datasets.sources.digits import load_digits
from datasets.sources.folder import load_folder
from datasets.sources.lists import load_lists
from datasets.sources.npz import load_npz
from datasets.sources.packed import load_packed, other_packs, packed_name
from datasets.splits import BalancedData, LongTailedData
from datasets.subset import make_long_tailed
from utils.errors import RunError, UserError, is_out_of_memory, warn
from utils.machine.processes import world_of_environment
from utils.options.data_paths import check_data, expanded
from utils.options.flags import BENCHMARK_LISTS, CIFAR_DATASETS, OWN_DATASETS, Options


def load_data(options: Options, record: Mapping | None = None) -> LongTailedData:
    """Returns the data set that the options name, with its long-tailed training set chosen.

    Args:
        options: only the options of the data are used.
        record: `args.json` of a resumed run, or the checkpoint of the stage before. Its entry
            `data` decides image size, normalisation, class names, test images and whether
            `--stream auto` streams.

    Raises:
        UserError: files are missing or damaged, a class has no training images,
            `--select_on heldout` has no held-out images, or a flag or the data contradict
            `record`.
        RunError: the images do not fit into memory, or what workers read ahead does not fit into
            the memory that processes share.
    """
    try:
        return _load(options, data_of(record or {}))
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"--data_root {options.data_root}: the images do not fit into memory"
        ) from error


def _load(options: Options, recorded: Mapping) -> LongTailedData:
    """Does what `load_data` says; `recorded` is the entry `data` of its record."""
    options = replace(options, data_root=str(expanded(options.data_root)))
    if options.list_root is not None:
        options = replace(options, list_root=str(expanded(options.list_root)))
    check_data(options)
    options = with_recorded(options, recorded)
    data = load_packed(options) if options.dataset in CIFAR_DATASETS else None
    if data is None:
        data = make_long_tailed(options, SOURCES[options.dataset](options, recorded))
    check_classes(options, data.class_names, recorded)
    if options.select_on == "heldout" and data.heldout is None:
        raise UserError(
            f"--select_on heldout: --dataset {options.dataset} has no held-out images here; "
            "--heldout_fraction 0.1 sets some aside"
        )
    # A run that goes on with recorded data was told of repeated images when it began. Of several
    # processes only the first prints.
    is_told = (options.evaluation or not recorded) and world_of_environment().is_main
    if is_told and options.dataset in OWN_DATASETS and data.train.files is not None:
        data = replace(data, origin=replace(data.origin, remarks=_repeats(options, data)))
    return replace(data, normalisation=_normalisation(options, data, recorded))


def _repeats(options: Options, data: LongTailedData) -> tuple[str, ...]:
    """Returns the remarks on images that a tree or a table has more than once."""
    root = Path(options.data_root)
    splits = {"train": data.train} | data.evaluation_splits
    # The subset has shuffled them; the examples are to be the first.
    images_of = {
        name: sorted(zip(split.files or [], split.labels.tolist(), strict=True))
        for name, split in splits.items()
    }
    return tuple(repeats(root if root.is_dir() else root.parent, images_of))


def _normalisation(options: Options, data: LongTailedData, recorded: Mapping) -> Normalisation:
    if (before := normalisation_of(options, recorded)) is not None:
        return before
    if options.normalisation != "auto":
        return CONSTANTS[options.normalisation]
    if options.dataset not in OWN_DATASETS:
        return usual(options.dataset)
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
    **dict.fromkeys(CIFAR_DATASETS, lambda options, recorded: _load_cifar(options)),
    "digits": lambda options, recorded: load_digits(),
    "folder": load_folder,
    "csv": load_csv,
    "npz": load_npz,
    **dict.fromkeys(BENCHMARK_LISTS, lambda options, recorded: load_lists(options)),
}
"""The sources by the names of their data sets: from the options, and what a checkpoint or an
earlier run records about its data, to all images."""
