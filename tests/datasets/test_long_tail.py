"""The long-tailed subset against the released code's golden vectors and the published sizes."""

import numpy as np
import pytest

from datasets import long_tail_counts, long_tail_indices
from datasets.long_tail import counts_by_size, left_out_indices, positions_by_class
from utils.evaluation.shot_groups import group_of_counts


def golden_cases(arrays):
    """Returns all stored cases: number of classes, type, factor, seed and name."""
    names = [key.removesuffix("/counts") for key in arrays if key.endswith("/counts")]
    for name in names:
        classes, imb_type, factor, seed = name.split("/")
        yield int(classes[1:]), imb_type, float(factor), int(seed), name


def balanced_labels(num_classes, per_class, seed=0):
    labels = np.repeat(np.arange(num_classes), per_class)
    return np.random.default_rng(seed).permutation(labels)


def test_counts_equal_the_golden_vectors(golden):
    arrays = golden("imbalance")
    cases = list(golden_cases(arrays))
    assert len(cases) == 22 and {case[1] for case in cases} == {"exp", "step", "natural"}
    for num_classes, imb_type, factor, _, name in cases:
        counts = long_tail_counts(num_classes, 50_000 // num_classes, imb_type, factor)
        assert counts == arrays[f"{name}/counts"].tolist(), name


def test_indices_equal_the_golden_vectors_order_included(golden):
    arrays = golden("imbalance")
    checked = 0
    for num_classes, imb_type, _, seed, name in golden_cases(arrays):
        labels, counts = arrays[f"labels{num_classes}"], arrays[f"{name}/counts"]
        indices = long_tail_indices(labels, counts, seed)
        assert indices.dtype == np.int64
        if imb_type == "natural":
            assert sorted(indices) == list(range(50_000))
        else:
            np.testing.assert_array_equal(indices, arrays[f"{name}/indices"], name)
            checked += 1
    assert checked == 20


@pytest.mark.parametrize(
    ("num_classes", "factor", "images"),
    [
        (100, 0.01, 10_847),
        (100, 0.02, 12_608),
        (100, 0.1, 19_573),
        (10, 0.01, 12_406),
        (10, 0.02, 13_996),
        (10, 0.1, 20_431),
    ],
)
def test_subsets_have_the_published_number_of_images(num_classes, factor, images):
    assert sum(long_tail_counts(num_classes, 50_000 // num_classes, "exp", factor)) == images


@pytest.mark.parametrize(
    ("num_classes", "factor", "sizes"),
    [
        (100, 0.01, (35, 35, 30)),
        (100, 0.02, (41, 41, 18)),
        (100, 0.1, (69, 31, 0)),
        (10, 0.01, (8, 2, 0)),
    ],
)
def test_groups_have_the_published_sizes(num_classes, factor, sizes):
    groups = group_of_counts(long_tail_counts(num_classes, 50_000 // num_classes, "exp", factor))
    assert tuple((groups == group).sum() for group in ("many", "medium", "few")) == sizes


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [(1, [50]), (2, [50, 5]), (3, [50, 50, 5]), (4, [50, 50, 5, 5]), (5, [50, 50, 50, 5, 5])],
)
def test_step_keeps_the_first_half_rounded_up_and_loses_no_class(num_classes, expected):
    assert long_tail_counts(num_classes, 50, "step", 0.1) == expected


def test_step_rounds_down():
    assert long_tail_counts(2, 55, "step", 0.1) == [55, 5]


@pytest.mark.parametrize("imb_type", ["exp", "step", "natural"])
def test_factor_1_keeps_everything(imb_type):
    assert long_tail_counts(4, 30, imb_type, 1.0) == [30] * 4


def test_natural_keeps_everything_whatever_the_factor():
    assert long_tail_counts(4, 30, "natural", 0.01) == [30] * 4


def test_exp_falls_from_the_largest_class_to_factor_times_it():
    counts = long_tail_counts(50, 1000, "exp", 0.01)
    assert counts[0] == 1000 and counts[-1] == 10
    assert counts == sorted(counts, reverse=True)
    assert long_tail_counts(1, 1000, "exp", 0.01) == [1000]


@pytest.mark.parametrize("factor", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
@pytest.mark.parametrize("imb_type", ["exp", "step", "natural"])
def test_a_factor_out_of_bounds_is_an_error(imb_type, factor):
    with pytest.raises(ValueError, match=r"the imbalance factor must be in \(0, 1\]"):
        long_tail_counts(10, 100, imb_type, factor)


@pytest.mark.parametrize("imb_type", ["", "Exp", "none", "linear"])
def test_an_unknown_type_is_an_error(imb_type):
    with pytest.raises(ValueError, match="exp, step or natural"):
        long_tail_counts(10, 100, imb_type, 0.1)


def test_no_class_is_an_error():
    with pytest.raises(ValueError, match="at least one class, not 0"):
        long_tail_counts(0, 100, "exp", 0.1)


@pytest.mark.parametrize("sizes", [[500] * 100, [7, 3] * 50, [3, 7, 5, 7] * 30, [4, 9, 4]])
def test_classes_of_one_size_shrink_in_the_order_of_their_labels(sizes):
    """So CIFAR's classes, which are all of one size, get their counts by label. Sorting must not
    permute equal sizes, which fast ways of sorting do."""
    counts = counts_by_size(sizes, "exp", 0.01)
    by_rank = long_tail_counts(len(sizes), max(sizes), "exp", 0.01)
    ranks = sorted(range(len(sizes)), key=lambda label: (-sizes[label], label))
    assert [counts[label] for label in ranks] == by_rank


def test_indices_are_distinct_images_class_after_class():
    labels, counts = balanced_labels(6, 40), [40, 20, 10, 5, 2, 1]
    indices = long_tail_indices(labels, counts, 3)
    assert len(set(indices.tolist())) == len(indices)
    np.testing.assert_array_equal(labels[indices], np.repeat(np.arange(6), counts))


def test_a_smaller_subset_is_the_start_of_a_larger_one():
    labels = balanced_labels(3, 40)
    large, small = (long_tail_indices(labels, counts, 3) for counts in ([40, 30, 20], [7, 5, 3]))
    starts = np.split(large, [40, 70])
    expected = [start[:n] for start, n in zip(starts, (7, 5, 3), strict=True)]
    np.testing.assert_array_equal(small, np.concatenate(expected))


def test_only_the_seed_decides_and_the_global_generator_is_unchanged():
    labels, counts = balanced_labels(6, 40), [40, 20, 10, 5, 2, 1]
    np.random.seed(7)
    expected_next = np.random.random()
    np.random.seed(7)
    first = long_tail_indices(labels, counts, 3)
    assert np.random.random() == expected_next
    np.testing.assert_array_equal(long_tail_indices(labels.tolist(), counts, 3), first)
    assert not np.array_equal(long_tail_indices(labels, counts, 4), first)


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64"])
def test_positions_are_in_file_order_also_of_classes_without_images(kind):
    labels = np.random.default_rng(0).choice([0, 1, 3, 4, 6], 200).astype(kind)
    positions = positions_by_class(labels, 9)
    assert len(positions) == 9 and {p.dtype for p in positions} == {np.dtype("int64")}
    for label, found in enumerate(positions):
        np.testing.assert_array_equal(found, np.flatnonzero(labels == label))


def test_uneven_classes_are_capped_by_what_they_have():
    labels = np.repeat([0, 1, 2, 3], [50, 3, 20, 1])
    indices = long_tail_indices(labels, [50, 20, 10, 5], 0)
    np.testing.assert_array_equal(np.bincount(labels[indices]), [50, 3, 10, 1])
    left = left_out_indices(labels, [50, 20, 10, 5], 0)
    np.testing.assert_array_equal(np.bincount(labels[left], minlength=4), [0, 0, 10, 0])


@pytest.mark.parametrize("seed", [0, 1])
def test_each_image_is_either_kept_or_left_out(seed):
    labels, counts = balanced_labels(6, 40), [40, 20, 10, 5, 2, 1]
    kept = long_tail_indices(labels, counts, seed)
    left = left_out_indices(labels, counts, seed)
    assert not set(kept) & set(left)
    assert sorted([*kept, *left]) == list(range(len(labels)))


def test_left_out_images_are_capped_per_class():
    labels, counts = balanced_labels(6, 40), [40, 25, 20, 19, 2, 1]
    kept = long_tail_indices(labels, counts, 0)
    left = left_out_indices(labels, counts, 0, per_class=20)
    assert left.dtype == np.int64 and not set(kept) & set(left)
    np.testing.assert_array_equal(labels[left], np.repeat(np.arange(6), [0, 15, 20, 20, 20, 20]))
