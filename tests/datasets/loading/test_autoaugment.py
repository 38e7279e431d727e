"""AutoAugment's policy against Pillow image by image, and the distribution of its draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from datasets.loading.autoaugment import POLICIES, apply_policies, draw_policies
from datasets.loading.operations import OPERATIONS
from tests.datasets.loading.test_operations import (
    from_pillow,
    pillow_operation,
    sample_images,
    to_pillow,
)

# A correct law fails with this chance for a fresh seed; the laws below fail by far if wrong.
SIGNIFICANCE = 1e-3


def test_images_of_another_type_are_an_error():
    with pytest.raises(ValueError, match="images must be uint8"):
        apply_policies(torch.zeros(2, 3, 8, 8), draw_policies(2, torch.Generator()))


def test_the_policies_are_the_released_ones():
    released = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    assert len(POLICIES) == 25
    for ours, theirs in zip(POLICIES, released, strict=True):
        assert [(op.lower(), *rest) for op, *rest in ours] == [
            (name.lower(), *rest) for name, *rest in theirs
        ]
        assert all(op in OPERATIONS for op, _, _ in ours)


def test_autoaugment_equals_pillow_image_by_image(device):
    images = torch.cat([sample_images(32, 32)] * 40)
    images = images ^ torch.randint(0, 8, images.shape, dtype=torch.uint8)
    before = images.clone()
    draws = draw_policies(len(images), torch.Generator().manual_seed(3))
    result = apply_policies(images.to(device), draws).cpu()
    assert torch.equal(images, before)
    for image, policy, applied, signs, output in zip(images, *draws, result, strict=True):
        expected = to_pillow(image)
        for k, (op, _, level) in enumerate(POLICIES[policy]):
            if applied[k]:
                expected = pillow_operation(expected, op, level, int(signs[k]))
        assert torch.equal(output, from_pillow(expected)), POLICIES[policy]


def test_draws_follow_the_policy():
    n = 200_000
    policies, applied, signs = draw_policies(n, torch.Generator().manual_seed(0))
    counts = policies.bincount(minlength=25)
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE

    # Per sub-policy: 4 outcomes of apply-or-not, times 4 of the two signs, all independent.
    outcome = 8 * applied[:, 0] + 4 * applied[:, 1] + 2 * (signs[:, 0] > 0) + (signs[:, 1] > 0)
    observed = (16 * policies + outcome).bincount(minlength=25 * 16).view(25, 16).numpy()
    released = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    for row, ((_, p, _), (_, q, _)) in zip(observed, released, strict=True):
        chances = np.outer([(1 - p) * (1 - q), (1 - p) * q, p * (1 - q), p * q], [0.25] * 4)
        possible = chances.flatten() > 0
        assert row[~possible].sum() == 0
        expected = row.sum() * chances.flatten()[possible]
        # 25 tests, hence the smaller threshold for each.
        assert stats.chisquare(row[possible], expected).pvalue > SIGNIFICANCE / 25
    assert set(signs.unique().tolist()) == {-1, 1}


def test_draws_depend_on_the_generator_alone():
    generator = torch.Generator().manual_seed(1)
    state, global_state = generator.get_state(), torch.get_rng_state()
    first, second = draw_policies(60, generator), draw_policies(60, generator)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert not any(map(torch.equal, first, second))
    generator.set_state(state)
    for expected in (first, second):
        assert all(map(torch.equal, draw_policies(60, generator), expected))
