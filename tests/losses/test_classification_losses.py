"""Stage 1's losses, the class weights, and the objectives of both stages."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.testing import assert_close

from losses import (
    BalancedSoftmaxLoss,
    DROLoss,
    FocalLoss,
    LDAMLoss,
    Objective,
    balanced_weights,
    effective_number_weights,
    long_tail_weights,
    stage_1_objective,
    stage_2_objective,
)
from losses.dro import DISTANCES
from utils.options.flags import FEATURE_LOSSES, FIELDS
from utils.options.values import parse_losses

COUNTS = [500, 120, 60, 20, 5]


def random_batch(device="cpu", dtype=torch.float32, size=16):
    """Returns logits in (-1, 1), as cosines are, targets and class weights, for 5 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.rand(size, 5, generator=generator, dtype=torch.float64) - 1
    targets = torch.randint(5, (size,), generator=generator)
    weight = 0.1 + torch.rand(5, generator=generator, dtype=torch.float64)
    return logits.to(device, dtype), targets.to(device), weight.to(device, dtype)


@pytest.mark.parametrize("weighting", ["none", "weighted"])
@pytest.mark.parametrize("name", ["ldam", "focal1"])
def test_losses_and_gradients_equal_the_golden_vectors(golden, name, weighting, device):
    arrays = golden("classifier_losses")
    weight = torch.tensor(arrays["weight"]) if weighting == "weighted" else None
    if name == "ldam":
        loss_of = LDAMLoss(arrays["counts"].tolist(), max_m=0.5, weight=weight, s=30)
    else:
        loss_of = FocalLoss(weight=weight, gamma=1.0)
    logits = torch.tensor(arrays["logits"], device=device, requires_grad=True)
    loss = loss_of.to(device)(logits, torch.tensor(arrays["targets"], device=device))
    loss.backward()
    expected = torch.tensor(arrays[f"{name}/{weighting}/loss"])
    gradient = torch.tensor(arrays[f"{name}/{weighting}/grad"])
    assert_close(loss.detach().cpu(), expected, rtol=1e-5, atol=0)
    assert_close(logits.grad.cpu(), gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("make_weights", "name"),
    [
        (effective_number_weights, "cb_weights_normalised"),
        (balanced_weights, "balanced_weights"),
        (long_tail_weights, "lt_weights"),
    ],
)
def test_class_weights_equal_the_golden_vectors(golden, make_weights, name):
    arrays = golden("classifier_losses")
    weights = make_weights(arrays["counts"].tolist())
    assert weights.dtype == torch.float32
    assert_close(weights, torch.tensor(arrays[name]).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_focal_loss_equals_its_equation(weighted, gamma, device):
    logits, targets, weight = random_batch(dtype=torch.float64)
    terms = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        cross_entropy = math.log(sum(map(math.exp, row))) - row[target]
        cross_entropy *= weight[target].item() if weighted else 1.0
        terms.append((1 - math.exp(-cross_entropy)) ** gamma * cross_entropy)
    loss_of = FocalLoss(weight if weighted else None, gamma).to(device)
    loss = loss_of(logits.to(device), targets.to(device)).item()
    assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_focal_loss_with_gamma_0_is_the_mean_cross_entropy(device):
    logits, targets, weight = random_batch(device)
    expected = F.cross_entropy(logits, targets)
    assert_close(FocalLoss(gamma=0)(logits, targets), expected)
    # With class weights it is their mean over the images, not over the weights.
    unreduced = F.cross_entropy(logits, targets, weight=weight, reduction="none")
    assert_close(FocalLoss(weight, gamma=0)(logits, targets), unreduced.mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_prediction_is_zero_with_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.3]], requires_grad=True)
    FocalLoss(gamma=gamma)(logits, torch.tensor([0, 1])).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].count_nonzero() == 0 and logits.grad[1].count_nonzero() == 2


def test_focal_loss_refuses_a_negative_gamma():
    with pytest.raises(ValueError, match=r"gamma must be at least 0, not -0\.5"):
        FocalLoss(gamma=-0.5)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_ldam_loss_equals_its_equation(weighted, device):
    cosines, targets, weight = random_batch(dtype=torch.float64)
    largest = max(n**-0.25 for n in COUNTS)
    total, weights = 0.0, 0.0
    for row, target in zip(cosines.tolist(), targets.tolist(), strict=True):
        row[target] -= 0.3 * COUNTS[target] ** -0.25 / largest
        w = weight[target].item() if weighted else 1.0
        total += w * (math.log(sum(math.exp(20 * x) for x in row)) - 20 * row[target])
        weights += w
    loss_of = LDAMLoss(COUNTS, max_m=0.3, weight=weight if weighted else None, s=20).to(device)
    loss = loss_of(cosines.to(device), targets.to(device)).item()
    assert loss == pytest.approx(total / weights, rel=1e-6)  # its margins are float32


def test_ldam_margins_are_largest_for_the_smallest_class():
    margins = LDAMLoss(COUNTS, max_m=0.5).margins
    assert margins[-1].item() == 0.5
    assert (margins.diff() > 0).all()
    assert (margins[-1] / margins[0]).item() == pytest.approx(100**0.25, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_ldam_loss_with_max_m_0_is_the_cross_entropy_of_scaled_cosines(weighted, device):
    cosines, targets, weight = random_batch(device)
    weight = weight if weighted else None
    loss_of = LDAMLoss(COUNTS, max_m=0.0, weight=weight, s=30).to(device)
    expected = F.cross_entropy(30 * cosines, targets, weight=weight)
    assert_close(loss_of(cosines, targets), expected)


@pytest.mark.parametrize("scale", [0, -30])
def test_ldam_loss_refuses_a_scale_that_is_not_positive(scale):
    with pytest.raises(ValueError, match=f"the scale must be positive, not {scale}"):
        LDAMLoss(COUNTS, s=scale)


def test_ldam_loss_refuses_a_class_without_images():
    with pytest.raises(ValueError, match="every class needs at least one image"):
        LDAMLoss([10, 0, 3])


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    "make_loss",
    [
        lambda weight: FocalLoss(weight, gamma=1.0),
        lambda weight: FocalLoss(weight, gamma=2.5),
        lambda weight: LDAMLoss(COUNTS, weight=weight, s=5),
    ],
    ids=["focal 1", "focal 2.5", "LDAM"],
)
def test_gradcheck_in_float64(make_loss, weighted, device):
    logits, targets, weight = random_batch(device, torch.float64, size=6)
    loss_of = make_loss(weight if weighted else None).to(device)
    assert torch.autograd.gradcheck(lambda x: loss_of(x, targets), logits.requires_grad_())


def test_balanced_weights_agree_with_scikit_learn():
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(len(COUNTS)), y=labels)
    np.testing.assert_allclose(balanced_weights(COUNTS).numpy(), expected, rtol=1e-6)


def test_effective_number_weights_follow_their_equation_and_sum_to_the_number_of_classes():
    for beta in (0.9, 0.9999):
        # The effective number as what it is: the sum of β^j over the class's images.
        effective = [math.fsum(beta**j for j in range(n)) for n in COUNTS]
        expected = [1 / number for number in effective]
        expected = [len(COUNTS) * weight / sum(expected) for weight in expected]
        weights = effective_number_weights(COUNTS, beta)
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
        assert weights.sum().item() == pytest.approx(len(COUNTS), rel=1e-6)


def test_the_default_beta_is_0_9999():
    assert_close(effective_number_weights(COUNTS), effective_number_weights(COUNTS, 0.9999))


def test_long_tail_weights_are_counts_over_the_largest_count():
    assert_close(long_tail_weights([50, 100, 1]), torch.tensor([0.5, 1.0, 0.01]))


def random_outputs(device):
    """Returns features, logits, targets and centroids of a batch of 16 with 5 classes."""
    logits, targets, _ = random_batch(device)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(16, 8, generator=generator).to(device)
    centroids = torch.randn(5, 8, generator=generator).to(device)
    return features, logits, targets, centroids


def test_an_objective_sums_its_losses(device):
    features, logits, targets, centroids = random_outputs(device)
    made = {"ce": nn.CrossEntropyLoss(), "robust_loss": DROLoss(1.0), "focal": FocalLoss()}
    objective = Objective(made).to(device)
    loss, parts = objective(features, logits, targets, centroids)
    expected = torch.stack(
        [
            F.cross_entropy(logits, targets),
            made["robust_loss"].to_centroids(features, targets, centroids),
            made["focal"](logits, targets),
        ]
    )
    assert objective.names == ["ce", "robust_loss", "focal"]
    assert_close(parts, expected)
    assert_close(loss, expected.sum())


def test_an_objective_weighs_its_sum_but_not_its_parts(device):
    features, logits, targets, centroids = random_outputs(device)
    made = {"ce": nn.CrossEntropyLoss(), "robust_loss": DROLoss(1.0)}
    loss, parts = Objective(made, [0.3, 2.0]).to(device)(features, logits, targets, centroids)
    _, plain = Objective(made).to(device)(features, logits, targets, centroids)
    assert_close(parts, plain)
    assert_close(loss, 0.3 * parts[0] + 2.0 * parts[1])


def test_the_parts_of_an_objective_are_detached_and_its_sum_trains_all_inputs(device):
    features, logits, targets, centroids = random_outputs(device)
    features.requires_grad_(), logits.requires_grad_()
    epsilons = nn.Parameter(torch.ones(5, device=device))
    objective = stage_2_objective(parse_losses("ce,robust_loss"), COUNTS, epsilons=[epsilons]).to(
        device
    )
    assert [parameter is epsilons for parameter in objective.parameters()] == [True]
    loss, parts = objective(features, logits, targets, centroids)
    loss.backward()
    assert not parts.requires_grad
    for trained in (features, logits, epsilons):
        assert trained.grad.abs().max() > 0


def test_an_objective_of_logits_needs_no_centroids(device):
    features, logits, targets, _ = random_outputs(device)
    loss, parts = stage_2_objective(parse_losses("ce"), COUNTS).to(device)(
        features, logits, targets
    )
    assert_close(loss, F.cross_entropy(logits, targets))
    assert_close(parts, loss.view(1))


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("loss_type", ["CE", "Focal", "LDAM", "BS"])
def test_stage_1_objectives_are_the_published_losses(loss_type, reweighted, device):
    features, logits, targets, _ = random_outputs(device)
    weight = effective_number_weights(COUNTS) if reweighted else None
    ldam = LDAMLoss(COUNTS, max_m=0.5, weight=weight, s=30).to(device)
    expected = {
        "CE": nn.CrossEntropyLoss(weight=weight).to(device),
        "Focal": FocalLoss(weight, gamma=1.0).to(device),
        "LDAM": lambda logits, targets: ldam(logits / 30, targets),
        "BS": BalancedSoftmaxLoss(COUNTS, 1.0, weight).to(device),
    }[loss_type]
    objective = stage_1_objective(loss_type, COUNTS, reweighted).to(device)
    loss, parts = objective(features, logits, targets)
    assert objective.names == [loss_type]
    assert_close(loss, expected(logits, targets))
    assert_close(parts, loss.view(1))


@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
@pytest.mark.parametrize("suffix", ["", "_lt", "_bal"])
def test_stage_2_losses_take_their_class_weights_from_their_suffix(suffix, released, device):
    features, logits, targets, centroids = random_outputs(device)
    weight = {"": None, "_lt": long_tail_weights(COUNTS), "_bal": balanced_weights(COUNTS)}[suffix]
    epsilons = torch.tensor([0.1, 0.2, 0.4, 0.8, 1.6], device=device)
    options = {"temperature": 0.7, "released_margins": released}
    terms = parse_losses(f"ce{suffix},robust_loss{suffix}")
    objective = stage_2_objective(terms, COUNTS, epsilons=[epsilons], **options).to(device)
    _, parts = objective(features, logits, targets, centroids)
    robust = DROLoss(class_weights=weight, epsilons=epsilons, **options).to(device)
    cross_entropy = nn.CrossEntropyLoss(weight=weight).to(device)
    expected = [cross_entropy(logits, targets), robust.to_centroids(features, targets, centroids)]
    assert_close(parts, torch.stack(expected))


def test_stage_2_sums_its_losses_without_weights(device):
    outputs = random_outputs(device)
    objective = stage_2_objective(parse_losses("robust_loss,ce_lt"), COUNTS).to(device)
    loss, parts = objective(*outputs)
    assert objective.names == ["robust_loss", "ce_lt"]
    assert_close(loss, parts.sum())


@pytest.mark.parametrize("name", ["robust", "focal", ""])
def test_an_unknown_loss_is_an_error(name):
    says = f"must be CE, Focal, LDAM or BS, not '{name}'"
    with pytest.raises(ValueError, match=says):
        stage_1_objective(name, COUNTS)
    with pytest.raises(ValueError, match=says):
        stage_2_objective([("ce", ""), (name, "")], COUNTS)


def test_unknown_class_weights_are_an_error():
    with pytest.raises(KeyError, match="tl"):
        stage_2_objective([("ce", ""), ("ce", "tl")], COUNTS)


def test_margins_that_are_no_list_of_one_vector_for_each_layer_are_an_error():
    for epsilons in (torch.ones(5), [torch.ones(5)] * 2, []):
        with pytest.raises(ValueError, match=r"argument 2 is (shorter|longer)"):
            stage_2_objective(parse_losses("robust_loss"), COUNTS, epsilons=epsilons)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_robust_loss_of_an_objective_is_by_its_distance(distance, device):
    features, logits, targets, centroids = random_outputs(device)
    objective = stage_2_objective(parse_losses("robust_loss"), COUNTS, distance=distance).to(device)
    expected = DROLoss(1.0, distance=distance).to_centroids(features, targets, centroids)
    assert_close(objective(features, logits, targets, centroids)[0], expected)


@pytest.mark.parametrize("robust_weight", [0.0, 0.25, 1.0])
def test_the_robust_weight_mixes_cross_entropy_and_robust_loss(robust_weight, device):
    outputs = random_outputs(device)
    losses = parse_losses("robust_loss_bal,ce_lt")
    objective = stage_2_objective(losses, COUNTS, robust_weight=robust_weight).to(device)
    loss, (robust, cross_entropy) = objective(*outputs)
    assert_close(loss, (1 - robust_weight) * cross_entropy + robust_weight * robust)


@pytest.mark.parametrize("name", FIELDS["loss_type"].metadata["settings"]["choices"])
def test_every_loss_that_stage_1_accepts_can_be_made(name):
    assert stage_1_objective(name, COUNTS).names == [name]


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_every_loss_that_stage_2_accepts_can_be_made(name):
    assert stage_2_objective(parse_losses(name), COUNTS).names == [name]


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_a_loss_reads_features_or_logits_as_its_term_says(name, device):
    features, logits, targets, centroids = random_outputs(device)
    [term] = parse_losses(name)
    unread = features if term.reads_logits else logits
    unread.fill_(math.nan)
    objective = stage_2_objective([term], COUNTS).to(device)
    assert objective(features, logits, targets, centroids)[0].isfinite(), (
        "a loss of LOSSES_OF_FEATURES needs a branch in Objective.forward"
    )
