"""Where the images of a data set came from: what a run prints and records about it."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.text import listed, printable


@dataclass(frozen=True)
class Origin:
    """Where test and held-out images came from.

    Attributes:
        test: what the test images are, in words.
        heldout: what the held-out images are, in words; None if there are none.
        ignored: which files and folders were ignored, in words.
        remarks: what else a user may want to know about the files, in words.
        test_fraction: part of each class that became test images; None if the data have a test set
            of their own.
        test_rand_number: seed that chose these test images.
        draws_heldout: True if the held-out images were drawn from the training images.
        are_whole: True if the training images keep their size, so that nothing is cut off.
    """

    test: str = "the data set's own"
    heldout: str | None = None
    ignored: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    test_fraction: float | None = None
    test_rand_number: int | None = None
    draws_heldout: bool = False
    are_whole: bool = False


NO_LABEL = {"nan", "na", "n/a", "<na>", "null", "#n/a", "#nv"}
"""How pandas, R, databases and Excel write that a cell is empty, in lower case."""
OWN_TEST_SET = Origin()
LEFT_OUT = Origin(heldout="left out by the subset", draws_heldout=True)


def account(
    origin: Origin,
    class_names: Sequence[str],
    counts: Mapping[str, Sequence[int]],
) -> str:
    """Returns one line about the data.

    Args:
        origin: where the images came from.
        class_names: names of the classes ``[K]``.
        counts: images of each class ``[K]`` in the splits `train`, `test` and, if there is one,
            `heldout`.

    Example:
        >>> account(Origin(test="test/"), ["ant", "bee"], {"train": [9, 3], "test": [3, 1]})
        '2 classes, 16 images: 12 training (ant 9 to bee 3), 4 test (test/), none held out'
    """
    class_counts, sizes = counts["train"], {split: sum(counts[split]) for split in counts}
    classes = range(len(class_names))
    largest = max(classes, key=class_counts.__getitem__)
    smallest = min(reversed(classes), key=class_counts.__getitem__)  # of several, the last
    held_out = "none held out"
    if "heldout" in sizes:
        covered = _in_classes(counts["heldout"])
        held_out = f"{sizes['heldout']} held out{covered} ({origin.heldout})"
    line = (
        f"{len(class_names)} classes, {sum(sizes.values())} images: {sizes['train']} training "
        f"({class_names[largest]} {class_counts[largest]} to {class_names[smallest]} "
        f"{class_counts[smallest]}), {sizes['test']} test ({origin.test}), {held_out}"
    )
    remarks = ["ignored: " + ", ".join(origin.ignored)] if origin.ignored else []
    remarks += origin.remarks
    untested = [n for n, count in zip(class_names, counts["test"], strict=True) if count == 0]
    if untested:
        number = "1 class" if len(untested) == 1 else f"{len(untested)} classes"
        remarks.append(f"{number} without test images ({listed(untested)})")
    alike = defaultdict(list)
    for name in class_names:
        alike[" ".join(name.split()).casefold()].append(repr(name))
    for names in alike.values():
        if len(names) > 1:
            remarks.append(f"the classes {' and '.join(names)} differ only in case or spaces")
    for name, count in zip(class_names, class_counts, strict=True):
        if name.lower() in NO_LABEL:
            remarks.append(f"the class {name} may be images without a label ({count} training)")
    known = set(class_names)
    joined = [
        name
        for name in class_names
        if name not in (labels := re.split(r"\s*[|;,]\s*", name)) and known.issuperset(labels)
    ]
    if joined:
        number = "1 class" if len(joined) == 1 else f"{len(joined)} classes"
        remarks.append(f"{number} may be several labels of one image (such as {joined[0]})")
    return printable("; ".join([line, *remarks]))


def _in_classes(counts: Sequence[int]) -> str:
    """Returns how many classes have images, in words; nothing if all have."""
    covered = sum(count > 0 for count in counts)
    return "" if covered == len(counts) else f" in {covered} of {len(counts)} classes"
