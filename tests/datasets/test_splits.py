"""The held-out images, the fingerprint of a subset, and data that do not fit together."""

import re

import numpy as np
import pytest
import torch

from datasets import load_data, long_tail_counts, make_long_tailed
from datasets.load import SOURCES
from datasets.splits import BalancedData, LongTailedData, Split
from tests.support.pictures import options
from utils.errors import UserError
from utils.options.flags import DATASETS


def numbered(num_classes=10, per_class=60, seed=0):
    """Returns balanced data in mixed order; each image has its own number as its value."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), per_class))
    n = len(labels)
    numbers = torch.arange(2 * n)
    images = torch.stack([numbers % 251, numbers // 251, torch.zeros_like(numbers)], dim=1)
    images = images.to(torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()
    labels = torch.from_numpy(labels)
    names = [f"class_{k}" for k in range(num_classes)]
    return BalancedData(Split(images[:n], labels), Split(images[n:], labels), names)


def numbers_of(split):
    values = split.images[:, :, 0, 0].long()
    return values[:, 0] + 251 * values[:, 1]


def test_every_data_set_of_the_flag_has_a_source():
    assert SOURCES.keys() == set(DATASETS)


def test_images_that_the_subset_leaves_out_are_held_out_at_most_20_per_class():
    balanced = numbered()
    chosen = options("--dataset", "cifar10", "--imb_factor", 0.1)
    data = make_long_tailed(chosen, balanced)
    assert data.class_counts == long_tail_counts(10, 60, "exp", 0.1)
    assert data.class_counts[0] == 60 and 40 < data.class_counts[1] < 60
    expected = [min(20, 60 - count) for count in data.class_counts]
    assert torch.bincount(data.heldout.labels, minlength=10).tolist() == expected
    assert not set(numbers_of(data.train).tolist()) & set(numbers_of(data.heldout).tolist())
    for split in (data.train, data.heldout):
        numbers = numbers_of(split)
        assert len(set(numbers.tolist())) == len(numbers)
        assert torch.equal(balanced.train.labels[numbers], split.labels)
    assert torch.equal(data.test.images, balanced.test.images)


def test_held_out_images_are_drawn_with_rand_number():
    balanced = numbered()

    def held_out(*flags):
        data = make_long_tailed(
            options("--dataset", "cifar10", "--imb_factor", 0.1, *flags), balanced
        )
        return numbers_of(data.heldout).tolist()

    assert held_out() == held_out("--rand_number", 0) == held_out("--seed", 3)
    assert sorted(held_out("--rand_number", 1)) != sorted(held_out())


def test_step_leaves_half_of_the_classes_without_held_out_images():
    flags = ("--dataset", "cifar10", "--imb_type", "step", "--imb_factor", 0.1)
    data = make_long_tailed(options(*flags), numbered())
    assert torch.bincount(data.heldout.labels, minlength=10).tolist() == [0] * 5 + [20] * 5


@pytest.mark.parametrize("flags", [("--imb_factor", 1), ("--imb_type", "natural")])
def test_nothing_is_held_out_where_nothing_is_left(flags):
    data = make_long_tailed(options("--dataset", "cifar10", *flags), numbered())
    assert data.heldout is None and list(data.evaluation_splits) == ["test"]
    assert data.origin.heldout is None


@pytest.mark.parametrize("imb_factor", [0.1, 1.0])
def test_a_held_out_fraction_is_disjoint_from_the_subset_and_stratified(digits, imb_factor):
    flags = ("--dataset", "digits", "--imb_factor", imb_factor, "--heldout_fraction", 0.25)
    data = load_data(options(*flags))
    sizes = torch.bincount(digits.train.labels)
    held_out = torch.bincount(data.heldout.labels, minlength=10)
    # A quarter of each class stays back; what remains of it is rounded up.
    assert held_out.tolist() == (sizes // 4).tolist()
    remaining = (sizes - held_out).tolist()
    wanted = long_tail_counts(10, max(remaining), "exp", imb_factor)
    assert data.class_counts == [min(*pair) for pair in zip(wanted, remaining, strict=True)]

    def identities(split):
        return {image.tobytes() for image in split.images.numpy()}

    assert len(identities(data.train)) == len(data.train)
    assert len(identities(data.heldout)) == len(data.heldout)
    assert not identities(data.train) & identities(data.heldout)
    assert not identities(data.test) & (identities(data.train) | identities(data.heldout))
    assert set(data.evaluation_splits) == {"test", "heldout"}


def test_a_held_out_fraction_replaces_the_20_per_class_of_cifar():
    flags = ("--dataset", "cifar10", "--imb_factor", 0.1, "--heldout_fraction", 0.5)
    data = make_long_tailed(options(*flags), numbered())
    assert torch.bincount(data.heldout.labels).tolist() == [30] * 10
    assert data.class_counts == long_tail_counts(10, 30, "exp", 0.1)
    assert not set(numbers_of(data.train).tolist()) & set(numbers_of(data.heldout).tolist())


def test_the_fingerprint_tells_the_chosen_images_and_their_labels():
    def fingerprint(balanced=None, *flags):
        flags = ("--dataset", "cifar10", "--imb_factor", 0.1, *flags)
        return make_long_tailed(options(*flags), balanced or numbered()).fingerprint

    plain = fingerprint()
    assert fingerprint() == plain == fingerprint(None, "--seed", 9)
    assert fingerprint(None, "--rand_number", 1) != plain
    assert fingerprint(None, "--imb_factor", 0.2) != plain
    balanced = numbered()
    balanced.train.images[balanced.train.labels == 0, 2] += 1
    assert fingerprint(balanced) != plain
    data = make_long_tailed(options("--dataset", "cifar10", "--imb_factor", 0.1), numbered())
    relabelled = Split(data.train.images, data.train.labels.flip(0))
    other = LongTailedData(data.name, relabelled, data.test, None, data.class_names)
    assert other.class_counts == data.class_counts and other.fingerprint != plain


def test_the_fingerprint_is_of_the_pixels_and_copies_none():
    images = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)
    split = Split(images, torch.zeros(2, dtype=torch.int64))
    (content,) = split.content()
    images += 1
    assert bytes(content) == bytes(range(1, 97))
    (turned,) = Split(images.transpose(2, 3), split.labels).content()
    assert bytes(turned) == images.transpose(2, 3).numpy().tobytes()


def a_split(labels, images=None):
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8) if images is None else images
    return Split(images, torch.tensor(labels))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: a_split([0], torch.zeros(1, 3, 4, 4)), "uint8"),
        (lambda: a_split([0], torch.zeros(1, 1, 4, 4, dtype=torch.uint8)), "[1, 1, 4, 4]"),
        (lambda: a_split([0, 1], torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), "1 images"),
        (lambda: BalancedData(a_split([0, 2]), a_split([0]), ["a", "b"]), "0 to 2"),
        (lambda: BalancedData(a_split([0, 1]), a_split([-1]), ["a", "b"]), "test labels"),
        (lambda: BalancedData(a_split([0, 1]), a_split([]), ["a", "b"]), "no test images"),
        (lambda: BalancedData(a_split([1, 1]), a_split([0]), ["a", "b"]), "training images: a"),
    ],
)
def test_data_that_do_not_fit_together_are_refused(make, says):
    with pytest.raises(UserError, match=re.escape(says)):
        make()
