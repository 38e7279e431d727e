"""Where the images of a data set came from, as far as a run says so and remembers it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What a run says and remembers about its data beside their pixels.

    Attributes:
        test: what the test images are, in words.
        heldout: what the held-out images are, where there are any.
        ignored: what was left aside, in words.
        test_fraction: part of each class that was set aside for the test; None for data with a
            test set of their own.
        test_rand_number: seed by which it was drawn.
    """

    test: str = "the data set's own"
    heldout: str | None = None
    ignored: tuple[str, ...] = ()
    test_fraction: float | None = None
    test_rand_number: int | None = None


OWN_TEST_SET = Origin()


def account(
    origin: Origin,
    class_names: Sequence[str],
    class_counts: Sequence[int],
    sizes: Mapping[str, int],
) -> str:
    """One line on what was found.

    Args:
        origin: of the data.
        class_names: of K classes.
        class_counts: training images of each class ``[K]``.
        sizes: images of the splits `train` and `test` and, where there is one, `heldout`.

    Example:
        >>> account(Origin(test="test/"), ["ant", "bee"], [9, 3], {"train": 12, "test": 4})
        '2 classes, 16 images: 12 training (ant 9 to bee 3), 4 test (test/), none held out'
    """
    largest, smallest = (
        f"{class_names[k]} {class_counts[k]}"
        for k in (class_counts.index(max(class_counts)), _last_smallest(class_counts))
    )
    held_out = "none held out"
    if "heldout" in sizes:
        held_out = f"{sizes['heldout']} held out ({origin.heldout})"
    line = (
        f"{len(class_names)} classes, {sum(sizes.values())} images: {sizes['train']} training "
        f"({largest} to {smallest}), {sizes['test']} test ({origin.test}), {held_out}"
    )
    return "; ".join([line, *(["ignored: " + ", ".join(origin.ignored)] if origin.ignored else [])])


def _last_smallest(class_counts: Sequence[int]) -> int:
    lowest = min(class_counts)
    return max(k for k, count in enumerate(class_counts) if count == lowest)
