"""Which of one's own images train and which test, where these do not say so themselves."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.files.trees import FileList
from datasets.splits import Origin
from utils.errors import UserError
from utils.options.flags import Options


@dataclass(frozen=True)
class FoundSplits:
    """The files of each split of one's own data, and the class names.

    `names` says for each split what the data call it: a folder, or a cell of a column.
    """

    classes: list[str]
    lists: dict[str, FileList]
    names: dict[str, str]
    test_fraction: float | None = None
    rand_number: int | None = None

    def origin(self, ignored: tuple[str, ...] = ()) -> Origin:
        """What a run says and remembers about it."""
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
    """With a test set: `test`, beside which `val` is held out; or `val` where there is no `test`;
    or `--test_fraction` of each class of the training images.

    Raises:
        UserError: `--test_fraction` is asked of data that have a test set, or no class has two
            images.
    """
    lists, names = dict(found.lists), dict(found.names)
    if "test" in lists or "val" in lists:
        if not options.is_at_default("test_fraction"):
            own = names.get("test", names.get("val"))
            raise UserError(
                f"--test_fraction {options.test_fraction}: these data have a test split of their "
                f"own, {own}"
            )
        role = "heldout" if "test" in lists else "test"
        if "val" in lists:
            lists[role], names[role] = lists.pop("val"), names.pop("val")
        return replace(found, lists=lists, names=names)
    train, test = split_off_test(lists["train"], options.test_fraction, options.rand_number)
    if not len(test) and not faults:
        raise UserError(
            f"--data_root {options.data_root}: no class has two images, one of which could test"
        )
    return replace(
        found,
        lists={"train": train, "test": test},
        test_fraction=options.test_fraction,
        rand_number=options.rand_number,
    )


def split_off_test(files: FileList, fraction: float, rand_number: int) -> tuple[FileList, FileList]:
    """The training and the test images: of each class of n images the rounded fraction tests, at
    least one and at most n − 1; a single image trains.

    NumPy's legacy generator is seeded once and shuffles the images of one class after the other, so
    that the same files are split in the same way everywhere.
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
