"""Errors and intervals against scipy, worked examples, and bootstraps over seeds and images;
records of several seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from utils.evaluation.statistics import (
    Difference,
    binomial_error,
    combine,
    deviation,
    difference_to_constant,
    images_of_balanced,
    paired_difference,
    standard_error,
    unpaired_difference,
)


def test_deviation_and_standard_error():
    assert deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))
    assert standard_error([1.0, 2.0, 6.0]) == pytest.approx(stats.sem([1.0, 2.0, 6.0]))


def test_one_value_has_no_deviation():
    assert deviation([1.0]) is None and standard_error([1.0]) is None


def test_records_combine_to_mean_and_sample_deviation():
    a = {"arch": "x", "counts": [3, 1], "top1": 40.0, "few": None, "epoch": 7, "per": [1.0, None]}
    b = {"arch": "x", "counts": [3, 1], "top1": 43.0, "few": 2.0, "epoch": 9, "per": [2.0, None]}
    assert combine([a, b]) == {
        "arch": "x",
        "counts": [3, 1],
        "top1": {"mean": 41.5, "std": 2.1213},
        "few": None,
        "epoch": [7, 9],
        "per": [{"mean": 1.5, "std": 0.7071}, None],
    }
    assert combine([a])["top1"] == {"mean": 40.0, "std": None}


def test_a_key_that_a_summary_made_earlier_lacks_is_left_out():
    assert combine([{"top1": 1.0, "balanced": 2.0}, {"top1": 3.0}]) == {
        "top1": {"mean": 2.0, "std": 1.4142}
    }


def test_the_binomial_error():
    assert binomial_error(50, 10_000) == pytest.approx(0.5)
    # Two right and two wrong images are added to the share: (0 + 2) / (96 + 4) and (20 + 2) / 24.
    assert binomial_error(0, 96) == pytest.approx(100 * math.sqrt(0.02 * 0.98 / 96))
    assert binomial_error(100, 20) == pytest.approx(100 * math.sqrt(22 / 24 * 2 / 24 / 20))
    # At the numbers of images of CIFAR, that changes no second decimal.
    assert binomial_error(38, 10_000) == pytest.approx(math.sqrt(0.38 * 0.62), abs=1e-4)


def test_a_balanced_accuracy_has_the_error_of_fewer_images():
    """Uneven classes are drawn again and again; the spread of their balanced accuracies is the
    error."""
    counts, generator = np.array([60, 30, 12, 5, 2]), np.random.default_rng(0)
    balanced = (generator.binomial(counts, 0.7, (20_000, 5)) / counts).mean(axis=1)
    images = images_of_balanced(np.repeat(np.arange(5), counts))
    assert binomial_error(70, images) == pytest.approx(100 * balanced.std(), rel=0.03)
    assert binomial_error(70, counts.sum()) < 0.6 * binomial_error(70, images)


def test_with_classes_of_one_size_a_balanced_accuracy_has_the_error_of_all_images():
    # Class 0 has no images, as among the held-out images of CIFAR.
    assert images_of_balanced(np.repeat([1, 2, 3], 20)) == pytest.approx(60)


def predictions(seeds=3, images=500, *, effect=0.3, seed=0):
    """Returns which predictions of two methods are right, ``[S, N]`` each. Images differ in
    difficulty, and so do seeds."""
    generator = np.random.default_rng(seed)
    hard = generator.normal(size=images)

    def of(shift):
        of_seeds = generator.normal(scale=0.3, size=(seeds, 1))
        noise = generator.normal(scale=0.7, size=(seeds, images))
        return shift + of_seeds + hard + noise > 0

    return of(effect), of(0.0)


def test_a_seed_alone_has_the_error_of_mcnemars_counts():
    ours, theirs = predictions(seeds=1)
    found = paired_difference(ours[0], theirs[0])
    n, b, c = 500, int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    expected = 100 * math.sqrt((b + c - (b - c) ** 2 / n) / (n - 1) / n)
    assert found.points == pytest.approx(100 * (b - c) / n)
    assert found.image_error == pytest.approx(expected)
    assert found.seed_error is None and found.covers == "images"
    interval = stats.ttest_rel(100.0 * ours[0], 100.0 * theirs[0]).confidence_interval()
    assert found.interval == pytest.approx((interval.low, interval.high))


def test_with_seeds_alone_the_interval_is_that_of_a_paired_t_test():
    tops = [43.1, 42.6, 42.5], [43.6, 43.3, 43.3]
    found = unpaired_difference(*tops, images=None)
    interval = stats.ttest_rel(*tops).confidence_interval()
    assert found.covers == "seeds"
    assert found.interval == pytest.approx((interval.low, interval.high))


def test_the_image_error_is_that_of_differences_averaged_over_seeds():
    ours, theirs = predictions()
    found = paired_difference(ours, theirs)
    averaged = 100 * (ours.astype(float).mean(axis=0) - theirs.astype(float).mean(axis=0))
    assert found.image_error == pytest.approx(stats.sem(averaged))
    assert found.seed_error == pytest.approx(stats.sem(100 * (ours.mean(1) - theirs.mean(1))))
    assert found.error == pytest.approx(math.hypot(found.image_error, found.seed_error))
    assert found.covers == "seeds and images"
    # The mean of the errors of single seeds, which would be too large: it averages nothing out.
    single = np.mean(
        [paired_difference(o, t).image_error for o, t in zip(ours, theirs, strict=True)]
    )
    assert found.image_error < 0.9 * single


def test_a_bootstrap_over_the_images_gives_the_image_error():
    ours, theirs = predictions()
    generator = np.random.default_rng(1)
    draws = generator.integers(0, 500, (4000, 500))
    averaged = 100 * (ours.astype(float) - theirs.astype(float)).mean(axis=0)
    found = paired_difference(ours, theirs)
    assert found.image_error == pytest.approx(averaged[draws].mean(axis=1).std(), rel=0.05)


def test_a_bootstrap_over_seeds_and_images_gives_the_joint_error():
    """Seeds and images are drawn with replacement. With many seeds, the two errors join as they are
    joined here."""
    ours, theirs = predictions(seeds=30, images=300)
    differences = 100 * (ours.astype(float) - theirs.astype(float))
    generator = np.random.default_rng(2)
    means = [
        differences[generator.integers(0, 30, 30)][:, generator.integers(0, 300, 300)].mean()
        for _ in range(4000)
    ]
    assert paired_difference(ours, theirs).error == pytest.approx(np.std(means), rel=0.06)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """There are 400 repetitions with three seeds and new images. The joint error may only be too
    large."""
    covered = 0
    for number in range(400):
        ours, theirs = predictions(images=200, effect=0.0, seed=number)
        low, high = paired_difference(ours, theirs).interval
        covered += low <= 0 <= high
    assert covered >= 0.95 * 400 - 2 * math.sqrt(400 * 0.95 * 0.05)


@pytest.mark.parametrize("seed_deviation", [0.0, 0.3, 0.6])
def test_the_interval_of_three_seeds_covers_the_truth_more_often_than_it_says(seed_deviation):
    """What images have in common over all seeds deviates by 0.20 points, and what they have in one
    seed alone by 0.26, as in the control and DRO-LT."""
    generator = np.random.default_rng(3)
    common, own, seeds, repetitions = 0.20, 0.26, 3, 3000
    image_error = math.hypot(common, own / math.sqrt(seeds))
    covered = 0
    for _ in range(repetitions):
        of_seeds = generator.normal(generator.normal(0, common), math.hypot(own, seed_deviation), 3)
        found = Difference(
            of_seeds.mean(), seeds, standard_error(of_seeds.tolist()), image_error, 10_000, True
        )
        low, high = found.interval
        covered += low <= 0 <= high
    assert 0.96 < covered / repetitions < 0.995


def test_few_seeds_widen_the_interval():
    few = Difference(1.0, 2, 1.0, None, None, is_paired=False)
    many = Difference(1.0, 10**6, 1.0, None, None, is_paired=False)
    assert few.interval == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-3)
    assert many.interval == pytest.approx((1 - 1.95996, 1 + 1.95996), abs=1e-3)


def test_nothing_known_gives_no_interval():
    found = unpaired_difference([50.0], [40.0], images=None)
    assert (found.points, found.error, found.interval, found.covers) == (10.0, None, None, "")


def test_one_image_gives_no_interval():
    for found in (
        paired_difference(np.array([1]), np.array([0])),
        unpaired_difference([100.0], [0.0], images=1),
        difference_to_constant([100.0], 0, images=1.0),
    ):
        assert (found.points, found.interval, found.covers) == (100.0, None, "")


def test_independent_images_have_a_larger_error_than_the_same_ones():
    ours, theirs = predictions(seeds=1)
    paired = paired_difference(ours, theirs)
    unpaired = unpaired_difference([100 * ours.mean()], [100 * theirs.mean()], images=500)
    p, q = ((right.sum() + 2) / 504 for right in (ours, theirs))
    expected = 100 * math.sqrt((p * (1 - p) + q * (1 - q)) / 500)
    assert unpaired.image_error == pytest.approx(expected)
    assert unpaired.points == pytest.approx(paired.points)
    assert unpaired.image_error > paired.image_error


def test_a_published_number_has_no_error_of_its_own():
    found = difference_to_constant([38.0, 40.0], 38.3, images=10_000)
    assert found.points == pytest.approx(0.7)
    assert found.image_error == pytest.approx(binomial_error(39.0, 10_000))
    assert found.seed_error == pytest.approx(1.0)


def test_predictions_of_different_images_are_not_paired():
    with pytest.raises(ValueError, match="same shape"):
        paired_difference(np.ones((2, 5)), np.ones((2, 4)))


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 10**6))
def test_equal_methods_differ_by_nothing(seeds, images, seed):
    ours = np.random.default_rng(seed).random((seeds, images)) < 0.5
    found = paired_difference(ours, ours)
    assert found.points == 0 and found.error == 0 and found.interval == (0, 0)
    other = np.random.default_rng(seed + 1).random((seeds, images)) < 0.5
    there, back = paired_difference(ours, other), paired_difference(other, ours)
    assert there.points == pytest.approx(-back.points)
    assert there.error == pytest.approx(back.error)
