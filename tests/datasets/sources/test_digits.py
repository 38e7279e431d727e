"""Scikit-learn's digits: which images, how they are split, and their long tail."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import load_data, long_tail_counts
from datasets.sources.digits import load_digits
from tests.support.image_data import splits_of
from tests.support.pictures import options, pixels_of
from utils.errors import UserError


def test_digits_are_1797_images_of_32x32_in_three_equal_channels(digits):
    assert (len(digits.train), len(digits.test)) == (1797 - 600, 600)
    assert digits.class_names == [str(digit) for digit in range(10)]
    for split in (digits.train, digits.test):
        assert split.images.shape == (len(split), 3, 32, 32)
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert torch.equal(split.images, split.images[:, :1].expand(-1, 3, -1, -1))


def test_the_test_split_of_digits_has_60_images_of_each_class(digits):
    assert torch.bincount(digits.test.labels).tolist() == [60] * 10


def test_digits_are_scikit_learns_each_used_once_with_its_label(digits):
    from sklearn.datasets import load_digits as originals

    source = originals()
    # Pillow's bilinear enlargement of floats is an independent one.
    expected = np.stack(
        [
            np.asarray(
                Image.fromarray((image * 255 / 16).astype(np.float32)).resize(
                    (32, 32), Image.Resampling.BILINEAR
                )
            ).ravel()
            for image in source.images
        ]
    ).astype(np.float64)
    found = np.concatenate([pixels_of(s)[..., 0].reshape(len(s), -1) for s in splits_of(digits)])
    labels = np.concatenate([split.labels.numpy() for split in splits_of(digits)])
    found = found.astype(np.float64)
    distances = (expected**2).sum(axis=1) - 2 * found @ expected.T
    origin = distances.argmin(axis=1)
    assert sorted(origin) == list(range(1797))  # so train and test share no image
    np.testing.assert_array_equal(labels, source.target[origin])
    assert np.abs(found - expected[origin]).max() <= 0.5 + 1e-4


def test_the_split_of_digits_is_fixed(digits):
    np.random.seed(5)
    torch.manual_seed(5)
    expected_next = np.random.RandomState(5).random()
    again = load_digits()
    assert np.random.random() == expected_next
    for split, same in zip(splits_of(digits), splits_of(again), strict=True):
        assert torch.equal(split.images, same.images) and torch.equal(split.labels, same.labels)
    for rand_number in (0, 1):
        data = load_data(options("--dataset", "digits", "--rand_number", rand_number))
        assert torch.equal(data.test.images, digits.test.images)
    # A change of the split would make results incomparable with those of before.
    assert digits.test.labels[:20].tolist() == first_test_labels_of_digits()


def first_test_labels_of_digits():
    """Returns the test images: the first 60 of each class in a shuffle by seed 0, in that order."""
    from sklearn.datasets import load_digits as originals

    target, seen, chosen = originals().target, [0] * 10, []
    for label in target[np.random.RandomState(0).permutation(1797)]:
        seen[label] += 1
        if seen[label] <= 60:
            chosen.append(int(label))
    return chosen[:20]


@pytest.mark.parametrize("factor", [0.05, 0.1, 1.0])
def test_digits_are_long_tailed_with_each_class_capped_by_what_it_has(digits, factor):
    data = load_data(options("--dataset", "digits", "--imb_factor", factor))
    sizes = torch.bincount(digits.train.labels).tolist()
    wanted = long_tail_counts(10, max(sizes), "exp", factor)
    assert data.class_counts == [min(*pair) for pair in zip(wanted, sizes, strict=True)]
    assert (data.name, data.num_classes, data.heldout) == ("digits", 10, None)
    assert data.origin.heldout is None
    assert torch.bincount(data.train.labels).tolist() == data.class_counts


def test_a_factor_that_leaves_a_class_empty_is_an_error():
    with pytest.raises(UserError, match=r"--imb_factor 0\.005 leaves class \d without images"):
        load_data(options("--dataset", "digits", "--imb_factor", 0.005))


def test_digits_have_no_held_out_images_of_their_own():
    with pytest.raises(UserError, match=r"--select_on heldout.*--heldout_fraction"):
        load_data(options("--dataset", "digits", "--select_on", "heldout"))
