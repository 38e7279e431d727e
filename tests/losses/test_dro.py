"""The DRO loss against the released code's golden vectors and an independent formula."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import losses.dro
from losses import DROLoss
from losses.dro import DISTANCES, class_means, euclidean_distances
from tests.support.dro_reference import BATCHES, centroids_of, random_problem, reference_loss

GOLDEN_CASES = (
    "c10_b32",
    "c100_b128",
    "c100_missing",
    "c10_weighted_t2",
    "c5_t05",
    "c10_single_class",
    "c10_far",
)
RELEASED_CASES = tuple(case for case in GOLDEN_CASES if case != "c10_far")  # NaN as released


def test_every_golden_case_is_tested(golden):
    arrays = golden("dro_loss")
    assert {key.split("/")[0] for key in arrays} == set(GOLDEN_CASES)
    assert {key.split("/")[0] for key in arrays if "released" in key} == set(RELEASED_CASES)


def golden_loss(golden, case, device, **options):
    """Returns the loss of a golden case by the public call, and its two gradients."""
    arrays = golden("dro_loss")

    def tensor(name):
        return torch.tensor(arrays[f"{case}/{name}"], device=device)

    weights = tensor("class_weights") if f"{case}/class_weights" in arrays else None
    epsilons = nn.Parameter(tensor("epsilons"))
    features = tensor("feats").requires_grad_()
    temperature = float(arrays[f"{case}/temperature"])
    loss_of = DROLoss(temperature, temperature, weights, epsilons, **options)
    loss = loss_of(features, tensor("targets"), tensor("bank_feats"), tensor("bank_targets"))
    loss.backward()
    return loss.detach(), features.grad, epsilons.grad


def assert_golden(golden, case, prefix, result):
    expected = [
        torch.tensor(golden("dro_loss")[f"{case}/{prefix}{name}"])
        for name in ("loss", "grad_feats", "grad_epsilons")
    ]
    loss, *gradients = (tensor.cpu() for tensor in result)
    assert_close(loss, expected[0], rtol=1e-5, atol=0)
    for gradient, wanted in zip(gradients, expected[1:], strict=True):
        assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_aligned_margins_equal_the_golden_loss_and_gradients(golden, case, device):
    assert_golden(golden, case, "", golden_loss(golden, case, device))


@pytest.mark.parametrize("case", RELEASED_CASES)
def test_released_margins_equal_the_released_loss_and_gradients(golden, case, device):
    result = golden_loss(golden, case, device, released_margins=True)
    assert_golden(golden, case, "released_", result)


def test_released_margins_stay_finite_where_the_released_code_gave_nan(golden, device):
    for tensor in golden_loss(golden, "c10_far", device, released_margins=True):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("batch", BATCHES)
def test_loss_equals_the_formula(batch, weighted, released, device):
    for seed in range(3):
        problem = random_problem(batch, seed)
        features, targets, bank, bank_targets, epsilons = problem
        weights = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05]).double() if weighted else None
        expected = reference_loss(
            features,
            targets,
            centroids_of(bank, bank_targets),
            temperature=0.6,
            base_temperature=0.2,
            epsilons=epsilons,
            class_weights=weights,
            released=released,
        )
        loss_of = DROLoss(0.6, 0.2, weights, epsilons, released_margins=released).to(device)
        loss = loss_of(*(tensor.to(device) for tensor in problem[:4]))
        assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_equal_finite_differences_of_the_formula(batch, weighted, released):
    features, targets, bank, bank_targets, epsilons = random_problem(batch)
    centroids = centroids_of(bank, bank_targets)
    weights = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05]).double() if weighted else None
    margins = nn.Parameter(epsilons.clone())
    features = features.requires_grad_()
    loss_of = DROLoss(0.6, class_weights=weights, epsilons=margins, released_margins=released)
    loss_of(features, targets, bank, bank_targets).backward()

    def formula(moved_features, moved_margins):
        return reference_loss(
            moved_features,
            targets,
            centroids,
            0.6,
            epsilons=moved_margins,
            class_weights=weights,
            released=released,
        )

    gradient, features, step = features.grad, features.detach(), 1e-5
    for i in range(len(epsilons)):
        shift = torch.zeros_like(epsilons)
        shift[i] = step
        slope = formula(features, epsilons + shift) - formula(features, epsilons - shift)
        assert margins.grad[i].item() == pytest.approx(slope / (2 * step), rel=1e-6, abs=1e-9)
    for i, k in np.ndindex(*features.shape):
        shift = torch.zeros_like(features)
        shift[i, k] = step
        slope = formula(features + shift, epsilons) - formula(features - shift, epsilons)
        assert gradient[i, k].item() == pytest.approx(slope / (2 * step), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
@pytest.mark.parametrize("scale", [1e3, 1e10, 1e25])
def test_far_features_give_finite_loss_and_gradients(scale, released, device):
    problem = random_problem(dtype=torch.float32)
    features, targets, bank, bank_targets, epsilons = (t.to(device) for t in problem)
    features, bank = (features * scale).requires_grad_(), bank * scale
    margins = nn.Parameter(epsilons)
    loss = DROLoss(0.5, epsilons=margins, released_margins=released)(
        features, targets, bank, bank_targets
    )
    loss.backward()
    expected = reference_loss(
        features.double(),
        targets,
        centroids_of(bank.double(), bank_targets),
        0.5,
        epsilons=margins.double(),
        released=released,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(features.grad).all() and torch.isfinite(margins.grad).all()
    assert features.grad.abs().max() > 0


def test_close_points_far_from_the_origin_keep_their_distances(device):
    """There |a|² + |b|² − 2ab would cancel."""
    steps = 0.25 * torch.arange(6, device=device)  # torch.cdist multiplies more than 25 points
    points = 1000 + torch.cartesian_prod(steps, steps)
    differences = points.double().unsqueeze(1) - points.double()
    expected = differences.square().sum(dim=2).sqrt().float()
    # The coordinates are scaled to at most 1, which costs a rounding at 1000: 6e-5 of 0.25 at most.
    assert_close(euclidean_distances(points, points), expected, rtol=5e-4, atol=0)


def test_distances_in_parts_are_those_at_once(device, monkeypatch):
    features, _, bank, bank_targets, _ = (t.to(device) for t in random_problem())
    centroids = class_means(bank, bank_targets, 5)
    results = []
    for at_once in (losses.dro.DIFFERENCES_AT_ONCE, 2 * features.numel(), 1):
        monkeypatch.setattr(losses.dro, "DIFFERENCES_AT_ONCE", at_once)
        own = features.clone().requires_grad_()
        distances = euclidean_distances(centroids, own)
        distances.square().sum().backward()
        results.append((distances.detach(), own.grad))
    for result in results[1:]:
        assert_close(result, results[0])


def test_a_sample_on_its_centroid_has_a_finite_loss_and_gradient(device):
    bank = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 0.0], [10.0, 2.0]], device=device)
    bank_targets = torch.tensor([0, 0, 1, 1], device=device)
    features = torch.tensor([[2.0, 3.0], [5.0, 1.0], [9.0, 1.0]], device=device)
    features.requires_grad_()
    targets = torch.tensor([0, 0, 1], device=device)
    epsilons = nn.Parameter(torch.ones(2, device=device))
    loss = DROLoss(1.0, epsilons=epsilons)(features, targets, bank, bank_targets)
    loss.backward()
    centroids = torch.tensor([[2.0, 3.0], [9.0, 1.0]])
    expected = reference_loss(features, targets, centroids, 1.0, epsilons=epsilons)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(features.grad).all() and torch.isfinite(epsilons.grad).all()


def test_a_distance_of_zero_has_gradient_zero(device):
    centroids = torch.tensor([[2.0, 3.0]], device=device)
    features = centroids.clone().requires_grad_()
    distances = euclidean_distances(centroids, features)
    distances.sum().backward()
    assert distances.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_features_in_half_precision_are_computed_in_float32(device):
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem(dtype=torch.float32)
    )
    features, centroids = features.bfloat16(), class_means(bank, bank_targets, 5)
    loss_of = DROLoss(0.07, epsilons=epsilons)
    loss = loss_of.to_centroids(features, targets, centroids)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_of.to_centroids(features.float(), targets, centroids))


@pytest.mark.parametrize("wide", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distance", DISTANCES)
def test_features_and_centroids_may_be_of_different_types(distance, narrow, wide, device):
    features, targets, bank, bank_targets, epsilons = (t.to(device) for t in random_problem())
    features, centroids = features.to(narrow), class_means(bank, bank_targets, 5).to(wide)
    features.requires_grad_()
    margins = nn.Parameter(epsilons.float())
    loss = DROLoss(0.5, epsilons=margins, distance=distance).to_centroids(
        features, targets, centroids
    )
    loss.backward()
    expected = reference_loss(
        features.double(), targets, centroids.double(), 0.5, epsilons=margins, distance=distance
    )
    assert loss.dtype == torch.promote_types(narrow, torch.float32)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert features.grad.dtype == narrow and torch.isfinite(features.grad).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_autocast_changes_no_bit_of_the_loss(distance, device):
    """Users may call the loss inside autocast, on features that it has made bfloat16."""
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem(dtype=torch.float32)
    )
    features = features.bfloat16()
    loss_of = DROLoss(0.5, epsilons=epsilons, distance=distance)
    outside = loss_of(features, targets, bank.bfloat16(), bank_targets)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        inside = loss_of(features, targets, bank.bfloat16(), bank_targets)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)


def test_centroids_get_no_gradient(device):
    features, targets, bank, bank_targets, epsilons = (t.to(device) for t in random_problem())
    features.requires_grad_(), bank.requires_grad_()
    loss = DROLoss(0.6, epsilons=epsilons)(features, targets, bank, bank_targets)
    loss.backward()
    assert bank.grad is None and features.grad.abs().max() > 0


def test_the_batch_as_its_own_bank_gets_the_gradient_of_constant_centroids():
    features, targets, *_, epsilons = random_problem()
    loss_of = DROLoss(0.6, epsilons=epsilons)
    centroids = centroids_of(features, targets)
    features.requires_grad_()
    constant = loss_of.to_centroids(features, targets, centroids)
    as_bank = loss_of(features, targets, features, targets)
    (expected,) = torch.autograd.grad(constant, features)
    (gradient,) = torch.autograd.grad(as_bank, features)
    assert_close(gradient, expected)


def test_class_means_are_the_means_and_nan_for_an_absent_class(device):
    features, _, bank, bank_targets, _ = (t.to(device) for t in random_problem())
    means = class_means(bank, bank_targets, 6)
    assert_close(means[:5], centroids_of(bank, bank_targets))
    assert means.shape == (6, features.shape[1]) and means[5].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_class_means_of_half_precision_are_taken_in_float32(dtype, device):
    """A sum of bfloat16 ones stops at 256, one of float16 overflows at 65,504."""
    ones = torch.ones(1000, 2, dtype=dtype, device=device)
    means = class_means(100 * ones, torch.zeros(1000, dtype=torch.int64, device=device), 1)
    assert means.dtype == torch.promote_types(dtype, torch.float32)
    assert means.tolist() == [[100.0, 100.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_class_means_are_the_same_under_autocast(dtype, device):
    _, _, bank, bank_targets, _ = (t.to(device) for t in random_problem())
    outside = class_means(bank.to(dtype), bank_targets, 5)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        assert torch.equal(class_means(bank.to(dtype), bank_targets, 5), outside)
    assert_close(outside, centroids_of(bank.to(dtype).double(), bank_targets).float())


def test_a_parameter_stays_the_callers_and_a_tensor_is_not_trained():
    learned, fixed = nn.Parameter(torch.ones(5)), torch.ones(5)
    assert [p is learned for p in DROLoss(1.0, epsilons=learned).parameters()] == [True]
    assert list(DROLoss(1.0, epsilons=fixed).parameters()) == []


@pytest.mark.parametrize(
    "temperatures",
    [(0.0,), (0.0, 1.0), (-0.07,), (-0.07, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, -1.0)],
)
def test_a_temperature_that_is_not_positive_is_an_error(temperatures):
    with pytest.raises(ValueError, match="temperatures must be positive"):
        DROLoss(*temperatures)


@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
def test_loss_and_gradients_do_not_wait_for_the_device(cuda, released):
    features, targets, bank, bank_targets, epsilons = (t.to(cuda) for t in random_problem())
    centroids = class_means(bank, bank_targets, 5)
    loss_of = DROLoss(0.6, epsilons=nn.Parameter(epsilons), released_margins=released)
    features.requires_grad_()
    loss_of.to_centroids(features, targets, centroids).backward()  # loads the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_of.to_centroids(features, targets, centroids).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
