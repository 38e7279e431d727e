"""Which of a user's own images train and which test."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.files.trees import FileList
from datasets.origin import Origin
from utils.errors import UserError
from utils.options.flags import Options


@dataclass(frozen=True)
class FoundSplits:
    """The files of each split of a user's own data, and the class names.

    Attributes:
        classes: names of the classes ``[K]``.
        lists: the files of each split.
        names: where each split comes from, in words, such as the name of its folder.
        test_fraction, rand_number: how the test images were split off; None if they were not.
    """

    classes: list[str]
    lists: dict[str, FileList]
    names: dict[str, str]
    test_fraction: float | None = None
    rand_number: int | None = None

    def origin(self, ignored: tuple[str, ...] = ()) -> Origin:
        """Returns what a run prints and records about these splits.

        Args:
            ignored: files and folders that were ignored, in words.
        """
        if self.test_fraction is None:
            test = self.names["test"]
        else:
            test = f"{self.test_fraction:g} of each class (--test_fraction)"
        return Origin(
            test=test,
            heldout=self.names.get("heldout"),
            ignored=ignored,
            test_fraction=self.test_fraction,
            test_rand_number=self.rand_number,
        )


def with_test_split(found: FoundSplits, options: Options, faults: list[str]) -> FoundSplits:
    """Returns the splits with a test set.

    - With `test` and `val`, `val` becomes `heldout`.
    - With only one of them, it is the test set.
    - With neither, `--test_fraction` of each class's training images become the test set.

    Raises:
        UserError: `--test_fraction` is given for data that have a test set, or no class has two
            images.
    """
    lists, names = dict(found.lists), dict(found.names)
    if "test" in lists or "val" in lists:
        if not options.is_at_default("test_fraction"):
            own = names.get("test", names.get("val"))
            raise UserError(
                f"--test_fraction {options.test_fraction}: these data have a test split of their "
                f"own, {own}; leave the flag out"
            )
        role = "heldout" if "test" in lists else "test"
        if "val" in lists:
            lists[role], names[role] = lists.pop("val"), names.pop("val")
        return replace(found, lists=lists, names=names)
    train, test = split_off_test(lists["train"], options.test_fraction, options.rand_number)
    if not len(test) and not faults:
        raise UserError(
            f"--data_root {options.data_root}: no class has two images, so no image can be split "
            "off for a test set"
        )
    return replace(
        found,
        lists={"train": train, "test": test},
        test_fraction=options.test_fraction,
        rand_number=options.rand_number,
    )


def split_off_test(files: FileList, fraction: float, rand_number: int) -> tuple[FileList, FileList]:
    """Returns the training and the test images. A class of n images gives the test set n · fraction
    images, rounded, but at least 1 and at most n − 1; a single image trains.

    NumPy's legacy generator is seeded once and shuffles class after class, so the same files are
    split in the same way on every machine.

    Args:
        files: all images.
        fraction: part of each class for the test set, between 0 and 1.
        rand_number: seed of the shuffle.
    """
    generator = np.random.RandomState(rand_number)
    labels = np.asarray(files.labels, np.int64)
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        generator.shuffle(members)
        count = min(max(1, int(len(members) * fraction + 0.5)), len(members) - 1)
        is_test[members[:count]] = True
    return files.part(np.flatnonzero(~is_test)), files.part(np.flatnonzero(is_test))
