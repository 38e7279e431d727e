"""Which of a user's own images train and which test."""

from collections.abc import Mapping, Sequence

import numpy as np

from datasets.files.trees import FileList
from datasets.long_tail import long_tail_indices
from datasets.origin import Origin
from datasets.recorded import recorded_test_fraction, test_rand_number
from utils.errors import UserError
from utils.options.flags import Options
from utils.text import shown


def check_class_count(classes: Sequence[str], options: Options) -> None:
    """Checks that there is more than one class.

    Raises:
        UserError: there is one.
    """
    if len(classes) == 1:
        raise UserError(
            f"--data_root {shown(options.data_root)}: {classes[0]} is the only class there; a data "
            "set has two classes or more"
        )


def roles_of(names: Mapping[str, str], options: Options, recorded: Mapping) -> dict[str, str]:
    """Returns the role of each of the data's own splits: `train`, `test` or `heldout`. With `test`
    and `val`, `val` is held out. With only one of them, it is the test set.

    Args:
        names: where each split comes from, in words.
        options: only `test_fraction` is used, and `data_root` for messages.
        recorded: what a checkpoint records about its data; empty without one.

    Raises:
        UserError: there is a test set, but `--test_fraction` is given, or the checkpoint's test
            images were split off.
    """
    test = names.get("test", names.get("val"))
    roles = {split: split for split in names}
    if test is None:
        return roles
    if "val" in names:
        roles["val"] = "heldout" if "test" in names else "test"
    fraction = recorded_test_fraction(options, recorded)
    if fraction is not None:
        raise UserError(
            f"--data_root {shown(options.data_root)}: a test split of its own, {test}, contradicts "
            f"the checkpoint, whose test images are {fraction} of each class; leave the data as "
            "they were"
        )
    if not options.is_at_default("test_fraction"):
        raise UserError(
            f"--test_fraction {options.test_fraction}: these data have a test split of their own, "
            f"{test}; leave the flag out"
        )
    return roles


def with_test_split(
    classes: Sequence[str],
    lists: dict[str, FileList],
    names: Mapping[str, str],
    options: Options,
    recorded: Mapping,
    faults: list[str],
) -> tuple[dict[str, FileList], Origin]:
    """Returns the files of `train`, `test` and, if there is one, `heldout`, and where they come
    from. The test set is one of the data's own, else a part of each class's training images, the
    recorded one or `--test_fraction`.

    Args:
        classes: names of the classes ``[K]``.
        lists: the files of each split that the data have.
        names: where each split comes from, in words, such as the name of its folder.
        options: only `test_fraction` and `rand_number` are used, and `data_root` for messages.
        recorded: as for `roles_of`.
        faults: what is already known to be wrong, which may be why a class is missing or small.

    Raises:
        UserError: there is one class, no class has two images, or `--test_fraction` is given or
            recorded for data that have a test set.
    """
    if not faults:
        check_class_count(classes, options)
    roles = roles_of(names, options, recorded)
    if "test" in roles.values():
        named = {roles[split]: name for split, name in names.items()}
        origin = Origin(named["test"], named.get("heldout"))
        return {roles[split]: files for split, files in lists.items()}, origin
    fraction = recorded_test_fraction(options, recorded) or options.test_fraction
    seed = test_rand_number(options, recorded)
    train, test = split_off_test(lists["train"], fraction, seed)
    if not len(test) and not faults:
        raise UserError(
            f"--data_root {options.data_root}: no class has two images, so no image can be split "
            "off for a test set"
        )
    in_words = f"{fraction:g} of each class (--test_fraction)"
    origin = Origin(in_words, test_fraction=fraction, test_rand_number=seed)
    return {"train": train, "test": test}, origin


def split_off_test(files: FileList, fraction: float, rand_number: int) -> tuple[FileList, FileList]:
    """Returns the training and the test images. A class of n images gives the test set n · fraction
    images, rounded, but at least 1 and at most n − 1; a single image trains.

    The test images are those that `long_tail_indices` keeps, so the same files are split in the
    same way on every machine.

    Args:
        files: all images.
        fraction: part of each class for the test set, between 0 and 1.
        rand_number: seed of the shuffle.
    """
    labels = np.asarray(files.labels, np.int64)
    sizes = np.bincount(labels, minlength=1)
    counts = np.clip((sizes * fraction + 0.5).astype(int), 1, np.maximum(sizes - 1, 0))
    test = np.sort(long_tail_indices(labels, counts.tolist(), rand_number))
    train = np.delete(np.arange(len(labels)), test)
    return files.part(train), files.part(test)
