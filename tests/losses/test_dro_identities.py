"""Identities of the DRO loss: what does not change it, and what must."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from losses import DROLoss
from tests.support.dro_reference import BATCHES, centroids_of, random_problem


@pytest.mark.parametrize("batch", BATCHES)
def test_equal_margins_make_released_and_aligned_equal(batch, device):
    results = []
    for released in (False, True):
        features, targets, bank, bank_targets, epsilons = (
            t.to(device) for t in random_problem(batch)
        )
        epsilons = nn.Parameter(torch.full_like(epsilons, 0.8))
        features.requires_grad_()
        loss = DROLoss(0.6, epsilons=epsilons, released_margins=released)(
            features, targets, bank, bank_targets
        )
        loss.backward()
        results.append((loss.detach(), features.grad))
    assert_close(results[0], results[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_sorted_by_class_makes_released_and_aligned_equal(batch, device):
    results = []
    for released in (False, True):
        features, targets, bank, bank_targets, epsilons = (
            t.to(device) for t in random_problem(batch)
        )
        features.requires_grad_()
        epsilons = nn.Parameter(epsilons)
        loss = DROLoss(0.6, epsilons=epsilons, released_margins=released)(
            features, targets.sort().values, bank, bank_targets
        )
        loss.backward()
        results.append((loss.detach(), features.grad, epsilons.grad))
    assert_close(results[0], results[1], rtol=0, atol=1e-15)


def test_an_unsorted_batch_makes_released_and_aligned_differ():
    *problem, epsilons = random_problem()
    losses_of = [DROLoss(0.6, epsilons=epsilons, released_margins=r) for r in (False, True)]
    aligned, released = (loss_of(*problem).item() for loss_of in losses_of)
    assert abs(aligned - released) > 1e-2


def test_one_sample_per_class_is_the_cross_entropy_over_the_samples(device):
    features, _, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem("one sample per class")
    )
    targets = torch.arange(5, device=device)
    distances = torch.cdist(centroids_of(bank, bank_targets), features) + epsilons.diag()
    loss = DROLoss(0.6, epsilons=epsilons)(features, targets, bank, bank_targets)
    assert_close(loss, F.cross_entropy(-distances / 0.6, targets))


def test_without_epsilons_the_margins_are_zero(device):
    *problem, epsilons = (t.to(device) for t in random_problem())
    zero = DROLoss(0.6, epsilons=torch.zeros_like(epsilons))
    assert_close(DROLoss(0.6)(*problem), zero(*problem), rtol=0, atol=1e-12)


def test_equal_class_weights_equal_no_weights_where_every_class_is_present(device):
    *problem, epsilons = (t.to(device) for t in random_problem())
    weighted = DROLoss(0.6, class_weights=torch.full_like(epsilons, 0.3), epsilons=epsilons)
    assert_close(weighted(*problem), DROLoss(0.6, epsilons=epsilons)(*problem))


def test_a_constant_added_to_all_distances_of_a_class_changes_nothing():
    """All points lie on a line, with the centroids on the left. A centroid that moves further left
    adds a constant to its distances."""
    features, targets = random_problem(dimension=1)[:2]
    epsilons = random_problem()[4]
    loss_of = DROLoss(0.6, epsilons=epsilons)
    centroids = torch.arange(5).double().unsqueeze(1) - 100
    moved = centroids - torch.tensor([[0.0], [3.0], [10.0], [0.5], [40.0]])
    moved_loss = loss_of.to_centroids(features, targets, moved)
    assert_close(moved_loss, loss_of.to_centroids(features, targets, centroids))


def test_the_margin_of_a_batch_of_one_class_changes_nothing():
    features, targets, bank, bank_targets, epsilons = random_problem("one class")
    margins = nn.Parameter(epsilons)
    loss = DROLoss(0.6, epsilons=margins)(features, targets, bank, bank_targets)
    loss.backward()
    assert_close(loss.detach(), DROLoss(0.6)(features, targets, bank, bank_targets))
    assert_close(margins.grad, torch.zeros(5).double(), rtol=0, atol=1e-15)


def test_a_single_sample_costs_nothing_and_moves_nothing(device):
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem("one sample")
    )
    features.requires_grad_()
    margins = nn.Parameter(epsilons)
    loss = DROLoss(0.07, epsilons=margins)(features, targets, bank, bank_targets)
    loss.backward()
    assert loss.item() == 0
    assert features.grad.count_nonzero() == 0 and margins.grad.count_nonzero() == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_never_falls_with_a_margin(seed, device):
    """Therefore a learned margin only shrinks."""
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem("absent classes", seed)
    )
    margins = nn.Parameter(epsilons)
    DROLoss(0.6, epsilons=margins)(features, targets, bank, bank_targets).backward()
    present = torch.bincount(targets, minlength=5) > 0
    assert (margins.grad[present] > 0).all()
    assert (margins.grad[~present] == 0).all()


def test_scaling_space_margins_and_temperature_together_changes_nothing(device):
    features, targets, bank, bank_targets, epsilons = (t.to(device) for t in random_problem())
    loss = DROLoss(0.6, epsilons=epsilons)(features, targets, bank, bank_targets)
    scaled = DROLoss(4.2, epsilons=7 * epsilons)(7 * features, targets, 7 * bank, bank_targets)
    assert_close(scaled, loss)


def test_an_infinite_temperature_gives_the_logarithm_of_the_batch_size():
    features, targets, bank, bank_targets, epsilons = random_problem()
    loss = DROLoss(1e9, epsilons=epsilons)(features, targets, bank, bank_targets)
    assert loss.item() == pytest.approx(math.log(len(targets)), rel=1e-7)


def test_the_order_of_the_batch_changes_nothing():
    features, targets, bank, bank_targets, epsilons = random_problem()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))
    loss_of = DROLoss(0.6, epsilons=epsilons)
    loss = loss_of(features, targets, bank, bank_targets)
    assert_close(loss_of(features[order], targets[order], bank, bank_targets), loss)
