"""Mixup: its draws, its mixed images, and that a resumed run has the same."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from utils.training.mixup import Mixup

CPU = torch.device("cpu")


def test_an_epochs_numbers_depend_on_seed_and_epoch_alone():
    sizes = [8, 8, 3]
    shares, permutations = Mixup(1.0, 3, 8, CPU).draw(2, sizes)
    again, same = Mixup(1.0, 3, 8, CPU).draw(2, sizes)
    assert torch.equal(shares, again)
    assert all(map(torch.equal, permutations, same))
    for seed, epoch in ((3, 1), (2, 2)):
        assert not torch.equal(Mixup(1.0, seed, 8, CPU).draw(epoch, sizes)[0], shares)
    for size, permutation in zip(sizes, permutations, strict=True):
        assert sorted(permutation.tolist()) == list(range(size))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares, _ = Mixup(alpha, 0, 1, CPU).draw(1, [1] * 4000)
    assert shares.min() >= 0 and shares.max() <= 1
    # Mean 1/2 and variance 1 / (4 (2α + 1)), to five standard errors and ten percent.
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=5 * (variance / 4000) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.1)


def test_images_and_targets_are_mixed_in_the_same_pairs(device):
    mixup = Mixup(1.0, 0, 6, device)
    images = torch.randn(6, 3, 4, 4).to(device).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(6, device=device)
    batches = [(images, targets), (images[:4], targets[:4])]
    shares, permutations = mixup.draw(5, [6, 4])
    for i, (inputs, labels) in enumerate(mixup.along(batches, 5, [6, 4])):
        permutation, share = permutations[i].to(device), shares[i].item()
        expected = share * inputs + (1 - share) * inputs[permutation]
        mixed = mixup.images(inputs)
        assert_close(mixed, expected)
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        others, of_first = mixup.targets(labels)
        assert torch.equal(others, labels[permutation])
        assert of_first.item() == share


def test_the_numbers_stay_in_the_same_memory():
    mixup = Mixup(0.5, 0, 4, CPU)
    places = mixup.partners.data_ptr(), mixup.share.data_ptr()
    batch = torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)
    seen = [mixup.share.item() for _ in mixup.along([batch] * 3, 1, [4] * 3)]
    assert (mixup.partners.data_ptr(), mixup.share.data_ptr()) == places
    assert np.unique(seen).size == 3
