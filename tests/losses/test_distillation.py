"""The distillation loss: its equation, its gradient, and when it equals another loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from losses import DistillationLoss, prior_offsets, stage_1_objective

COUNTS = [500, 120, 60, 20, 5]


def random_logits(seed, size=12):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(size, 5, generator=generator, dtype=torch.float64)


def softmax(row):
    terms = [math.exp(x) for x in row]
    return [term / sum(terms) for term in terms]


def formula(logits, teacher, temperature, power):
    """T² Σ_c q_c log(q_c / p_c), mean over the batch, and its gradient T (p − q) / B."""
    loss, gradient = 0.0, torch.zeros_like(logits)
    for i, (x, t) in enumerate(zip(logits.tolist(), teacher.tolist(), strict=True)):
        p = softmax([v / temperature for v in x])
        raised = [share**power for share in softmax([v / temperature for v in t])]
        q = [share / sum(raised) for share in raised]
        pairs = list(zip(p, q, strict=True))
        loss += temperature**2 * sum(b * math.log(b / a) for a, b in pairs) / len(logits)
        slopes = [temperature * (a - b) / len(logits) for a, b in pairs]
        gradient[i] = torch.tensor(slopes, dtype=torch.float64)
    return loss, gradient


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_value_and_gradient_equal_the_formula(temperature, power):
    logits, teacher = random_logits(0).requires_grad_(), random_logits(1)
    expected, gradient = formula(logits.detach(), teacher, temperature, power)
    loss = DistillationLoss(temperature, power)(logits, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert_close(logits.grad, gradient, rtol=1e-10, atol=1e-14)


def test_the_teacher_gets_no_gradient_and_gradcheck_holds_for_the_student():
    logits, teacher = random_logits(0, 4).requires_grad_(), random_logits(1, 4).requires_grad_()
    offsets = prior_offsets(COUNTS, 1.0).double()
    loss_of = DistillationLoss(offsets=offsets, teacher_offsets=offsets)
    assert torch.autograd.gradcheck(lambda x: loss_of(x, teacher.detach()), logits)
    loss_of(logits, teacher).backward()
    assert teacher.grad is None


def test_a_student_that_is_its_teacher_has_no_loss(device):
    logits = random_logits(0).float().to(device)
    assert DistillationLoss(power=1.0)(logits, logits).item() == pytest.approx(0, abs=1e-6)
    # With T = 1 the power 1/2 asks for half the logits.
    loss = DistillationLoss(temperature=1.0, power=0.5)(logits / 2, logits)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_a_certain_teacher_gives_cross_entropy():
    logits, targets = random_logits(0), torch.arange(12) % 5
    teacher = 1000.0 * F.one_hot(targets, 5).double()
    loss = DistillationLoss(temperature=1.0, power=1.0)(logits, teacher)
    assert_close(loss, F.cross_entropy(logits, targets))


def test_offsets_are_added_to_the_logits_that_were_trained_under_them():
    logits, teacher = random_logits(0), random_logits(1)
    offsets, others = prior_offsets(COUNTS, 1.0), prior_offsets([9, 3, 3, 2, 1], 0.5)
    loss = DistillationLoss(offsets=offsets, teacher_offsets=others)(logits, teacher)
    assert_close(loss, DistillationLoss()(logits + offsets, teacher + others))


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"power": 0.0}, {"power": -1.0}])
def test_a_temperature_or_power_that_is_not_positive_is_an_error(settings):
    with pytest.raises(ValueError, match="temperature and power must be positive"):
        DistillationLoss(**settings)


def test_an_objective_weighs_distillation_against_classification():
    logits, teacher, targets = random_logits(0), random_logits(1), torch.arange(12) % 5
    distillation = DistillationLoss()
    objective = stage_1_objective("CE", COUNTS, distillation=(distillation, 0.3))
    loss, parts = objective(torch.zeros(12, 2), logits, targets, teacher_logits=teacher)
    assert objective.names == ["CE", "distillation"]
    expected = [F.cross_entropy(logits, targets), distillation(logits, teacher)]
    assert_close(parts, torch.stack(expected))
    assert_close(loss, 0.7 * expected[0] + 0.3 * expected[1])
