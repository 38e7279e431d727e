"""Balanced softmax: its equation, its gradient, and when it equals another loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from losses import BalancedSoftmaxLoss, stage_1_objective, stage_2_objective
from utils.options.values import parse_losses

COUNTS = [500, 120, 60, 20, 5]


def random_batch(dtype=torch.float64, size=16):
    """Logits, targets and class weights of 5 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(size, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(5, (size,), generator=generator)
    weight = 0.1 + torch.rand(5, generator=generator, dtype=torch.float64)
    return logits.to(dtype), targets, weight.to(dtype)


def formula(logits, targets, tau, weights):
    """Returns −log(π_y^τ e^{x_y} / Σ_c π_c^τ e^{x_c}) and its gradient, computed with scalars."""
    priors = [(n / sum(COUNTS)) ** tau for n in COUNTS]
    loss, gradient = 0.0, torch.zeros_like(logits)
    total = sum(weights[y] for y in targets.tolist())
    for i, (row, y) in enumerate(zip(logits.tolist(), targets.tolist(), strict=True)):
        terms = [prior * math.exp(x) for prior, x in zip(priors, row, strict=True)]
        shares = [term / sum(terms) for term in terms]
        loss -= weights[y] / total * math.log(shares[y])
        for c, share in enumerate(shares):
            gradient[i, c] = weights[y] / total * (share - (c == y))
    return loss, gradient


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_value_and_gradient_equal_the_formula(tau, weighted):
    logits, targets, weight = random_batch()
    expected, gradient = formula(logits, targets, tau, weight.tolist() if weighted else [1.0] * 5)
    loss_of = BalancedSoftmaxLoss(COUNTS, tau, weight if weighted else None)
    loss = loss_of(logits.requires_grad_(), targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # log π is float32
    assert_close(logits.grad, gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("counts", "tau"), [([7] * 5, 1.0), ([1] * 5, 3.0), (COUNTS, 0.0)])
def test_equal_counts_or_no_weight_of_the_prior_give_cross_entropy(counts, tau, device):
    logits, targets, _ = random_batch(torch.float32)
    logits, targets = logits.to(device), targets.to(device)
    loss = BalancedSoftmaxLoss(counts, tau).to(device)(logits, targets)
    assert_close(loss, F.cross_entropy(logits, targets))


def test_logits_that_are_the_prior_predict_every_class_alike():
    logits = torch.tensor(COUNTS).double().log().neg().expand(5, 5)
    losses = [BalancedSoftmaxLoss(COUNTS)(logits[:1], torch.tensor([c])).item() for c in range(5)]
    assert losses == pytest.approx([math.log(5)] * 5, rel=1e-6)


def test_the_prior_makes_rare_classes_cost_more():
    losses = [
        BalancedSoftmaxLoss(COUNTS)(torch.zeros(1, 5), torch.tensor([c])).item() for c in range(5)
    ]
    assert losses == pytest.approx([math.log(sum(COUNTS) / n) for n in COUNTS], rel=1e-6)


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_a_negative_weight_of_the_prior_is_an_error(tau):
    with pytest.raises(ValueError, match="tau must be at least 0"):
        BalancedSoftmaxLoss(COUNTS, tau)


def test_a_class_without_images_is_an_error():
    with pytest.raises(ValueError, match="every class needs at least one image"):
        BalancedSoftmaxLoss([10, 0, 3])


def test_objectives_take_the_weight_of_the_prior():
    logits, targets, _ = random_batch(torch.float32)
    expected = BalancedSoftmaxLoss(COUNTS, 0.5)(logits, targets)
    stage_1 = stage_1_objective("BS", COUNTS, prior_weight=0.5)
    stage_2 = stage_2_objective(parse_losses("bs"), COUNTS, prior_weight=0.5)
    for objective in (stage_1, stage_2):
        assert_close(objective(torch.zeros(16, 8), logits, targets)[0], expected)


def test_bs_lt_on_balanced_samples_is_balanced_softmax_on_all_images():
    """Weights n_c / n_max restore the natural proportions after a class-aware sampler."""
    generator = torch.Generator().manual_seed(1)
    per_class = torch.randn(3, 4, 3, generator=generator)
    counts = [8, 4, 4]
    alike, labels = per_class.flatten(0, 1), torch.arange(3).repeat_interleave(4)
    natural = torch.cat([per_class[0], alike])  # class 0's images twice
    expected = BalancedSoftmaxLoss(counts)(natural, torch.cat([labels[:4], labels]))
    loss, _ = stage_2_objective(parse_losses("bs_lt"), counts)(torch.zeros(12, 2), alike, labels)
    assert_close(loss, expected)
