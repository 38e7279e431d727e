"""The balanced contrastive loss: its equation, its gradient, what it does not depend on."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from losses import BalancedContrastiveLoss, ContrastiveBranch

TARGETS = [0, 0, 0, 1, 1, 3, 0]
CLASSES = 4  # class 2 has no sample, class 3 has one


def random_batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(TARGETS), 6, generator=generator, dtype=torch.float64)
    centres = torch.randn(CLASSES, 6, generator=generator, dtype=torch.float64)
    return embeddings.to(dtype), torch.tensor(TARGETS), centres.to(dtype)


def formula(embeddings, centres, temperature):
    """Returns the loss by the docstring's equation, with loops over lists."""
    vectors = [[x / math.hypot(*v) for x in v] for v in (embeddings + centres)]
    labels = [*TARGETS, *range(CLASSES)]
    losses = []
    for i, target in enumerate(TARGETS):
        others = [k for k in range(len(vectors)) if k != i]
        powers = {
            k: math.exp(
                sum(a * b for a, b in zip(vectors[i], vectors[k], strict=True)) / temperature
            )
            for k in others
        }
        denominator = 0.0
        for c in range(CLASSES):
            members = [powers[k] for k in others if labels[k] == c]
            denominator += sum(members) / len(members)
        of_class = [math.log(powers[k] / denominator) for k in others if labels[k] == target]
        losses.append(-sum(of_class) / len(of_class))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_value_equals_the_formula(temperature):
    embeddings, targets, centres = random_batch()
    loss = BalancedContrastiveLoss(temperature)(embeddings, targets, centres)
    expected = formula(embeddings.tolist(), centres.tolist(), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradcheck_in_float64():
    embeddings, targets, centres = random_batch()
    loss_of = BalancedContrastiveLoss(0.5)
    inputs = embeddings.requires_grad_(), centres.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: loss_of(x, targets, c), inputs)


def test_neither_lengths_nor_the_order_of_the_batch_count(device):
    embeddings, targets, centres = (t.to(device) for t in random_batch(torch.float32))
    loss_of = BalancedContrastiveLoss()
    loss = loss_of(embeddings, targets, centres)
    order = torch.randperm(len(targets)).to(device)
    assert_close(loss_of(5 * embeddings[order], targets[order], 0.1 * centres), loss)


def test_a_class_shown_again_does_not_weigh_more_in_the_denominators_of_others():
    embeddings, _, centres = random_batch()
    anchor = embeddings[5:6]  # the only sample of class 3
    loss_of = BalancedContrastiveLoss()

    def loss_of_anchor(extra):
        """Returns the anchor's term, with a class of `extra` equal samples in the batch."""
        copies = centres[:1].expand(extra, -1)
        batch = torch.cat([anchor, copies])
        labels = torch.tensor([3] + [0] * extra)
        total = loss_of(batch, labels, centres) * (1 + extra)
        of_copies = [formula_term(batch, labels, centres, i) for i in range(1, 1 + extra)]
        return total - sum(of_copies)

    assert_close(loss_of_anchor(1), loss_of_anchor(6))


def formula_term(batch, labels, centres, i):
    """Returns the term of one sample, in tensors."""
    vectors = F.normalize(torch.cat([batch, centres]), dim=1)
    all_labels = torch.cat([labels, torch.arange(CLASSES)])
    scores = vectors @ vectors[i] / 0.1
    keep = torch.arange(len(vectors)) != i
    denominator = sum(scores[keep & (all_labels == c)].exp().mean() for c in range(CLASSES))
    return -(scores[keep & (all_labels == labels[i])] - denominator.log()).mean()


def test_samples_on_their_own_centres_have_less_loss_than_on_others():
    centres = torch.eye(4)
    targets = torch.arange(4).repeat(2)
    loss_of = BalancedContrastiveLoss()
    right = loss_of(centres.repeat(2, 1), targets, centres)
    wrong = loss_of(centres.roll(1, 0).repeat(2, 1), targets, centres)
    assert right < 1e-3 < wrong


def test_a_temperature_that_is_not_positive_is_an_error():
    with pytest.raises(ValueError, match="the temperature must be positive, not 0"):
        BalancedContrastiveLoss(0)


def test_the_branch_sees_features_and_classifier_through_one_projection():
    torch.manual_seed(0)
    branch = ContrastiveBranch(6)
    shapes = [list(p.shape) for p in branch.parameters()]
    assert shapes == [[512, 6], [512], [128, 512], [128]]
    features, targets, weights = random_batch(torch.float32)
    inputs = features.requires_grad_(), weights.requires_grad_()
    loss = branch(features, targets, weights)
    projected = [branch.projection(x) for x in inputs]
    assert_close(loss, BalancedContrastiveLoss(0.1)(projected[0], targets, projected[1]))
    loss.backward()
    for trained in (*inputs, *branch.parameters()):
        assert trained.grad.abs().max() > 0
    first, _, last = branch.projection
    assert_close(projected[0], last(F.relu(first(features))))
