"""The DRO loss with other distances than the released code's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from losses import DROLoss
from losses.dro import DISTANCES, finite_squares
from tests.support.dro_reference import BATCHES, centroids_of, random_problem, reference_loss
from utils.options.parse import build_parser, parse_options

OTHERS = [distance for distance in DISTANCES if distance != "euclidean"]


@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("distance", OTHERS)
def test_loss_equals_the_formula(distance, batch, weighted, released, device):
    features, targets, bank, bank_targets, epsilons = problem = random_problem(batch)
    weights = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05]).double() if weighted else None
    expected = reference_loss(
        features,
        targets,
        centroids_of(bank, bank_targets),
        0.6,
        epsilons=epsilons,
        class_weights=weights,
        released=released,
        distance=distance,
    )
    loss_of = DROLoss(0.6, None, weights, epsilons, released, distance).to(device)
    loss = loss_of(*(tensor.to(device) for tensor in problem[:4]))
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("distance", OTHERS)
def test_gradcheck_in_float64(distance, device):
    problem = [tensor.to(device) for tensor in random_problem(dimension=3)]
    features, targets, bank, bank_targets, epsilons = problem

    def loss(features, epsilons):
        return DROLoss(0.6, epsilons=epsilons, distance=distance)(
            features, targets, bank, bank_targets
        )

    assert torch.autograd.gradcheck(loss, (features.requires_grad_(), epsilons.requires_grad_()))


def test_normalised_distances_do_not_depend_on_lengths():
    features, targets, bank, bank_targets, epsilons = random_problem()
    centroids = centroids_of(bank, bank_targets)
    lengths = torch.rand(len(features) + 5, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    loss_of = DROLoss(0.1, epsilons=epsilons, distance="normalised")
    scaled = loss_of.to_centroids(lengths[5:] * features, targets, lengths[:5] * centroids)
    assert_close(scaled, loss_of.to_centroids(features, targets, centroids))


def test_the_squared_distance_is_the_largest_in_the_ball():
    """Many points of the ball around the centroid are tried: none is further from the sample, and
    the point on the far side of the sphere is as far."""
    generator = torch.Generator().manual_seed(0)
    centroid, sample = torch.randn(2, 1, 3, generator=generator, dtype=torch.float64)
    radius = 0.8
    directions = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    directions[0] = (centroid - sample).squeeze()
    lengths = torch.rand(2000, 1, generator=generator, dtype=torch.float64)
    lengths[0] = 1
    points = centroid + radius * lengths * directions / directions.norm(dim=1, keepdim=True)
    largest = (points - sample).square().sum(dim=1).max()
    loss_of = DROLoss(1.0, epsilons=torch.full((1,), radius).double(), distance="squared")
    # Beside the sample, one of the same class on the centroid: no point of its ball is further off
    # than the radius.
    features = torch.cat([sample, centroid])
    loss = loss_of.to_centroids(features, torch.tensor([0, 0]), centroid)
    logits = torch.stack([-largest, -torch.tensor(radius**2).double()])
    assert_close(loss, -logits.log_softmax(dim=0).mean())


def test_inside_a_ball_of_negative_radius_squared_distances_are_zero():
    """So the gradient of a learned margin is zero there, and the margin stops falling."""
    features, targets, bank, bank_targets, _ = random_problem()
    margins = nn.Parameter(torch.full((5,), -100.0).double())
    loss = DROLoss(0.6, epsilons=margins, distance="squared")(features, targets, bank, bank_targets)
    loss.backward()
    assert torch.isfinite(loss) and margins.grad.count_nonzero() == 0


@pytest.mark.parametrize("distance", OTHERS)
def test_far_features_and_one_on_its_centroid_have_finite_losses_and_gradients(distance, device):
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem(dtype=torch.float32)
    )
    centroids = 1e6 * centroids_of(bank, bank_targets).to(device)
    features = 1e6 * features
    features[0] = centroids[targets[0]]
    features.requires_grad_()
    margins = nn.Parameter(epsilons)
    loss = DROLoss(0.5, epsilons=margins, distance=distance).to_centroids(
        features, targets, centroids
    )
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()
    assert torch.isfinite(margins.grad).all()


@pytest.mark.parametrize("size", [1e15, 1e20, 1e30])
@pytest.mark.parametrize("temperature", [0.07, 1.0, 50.0])
@pytest.mark.parametrize("distance", OTHERS)
def test_features_whose_squares_overflow_have_finite_losses_and_gradients(
    distance, temperature, size, device
):
    """The squares of 1e20 are beyond float32. What is near stays nearer than what is far."""
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem(dtype=torch.float32)
    )
    centroids = size * centroids_of(bank, bank_targets).to(device)
    features = size * features
    features[0] = centroids[targets[0]]
    features.requires_grad_()
    margins = nn.Parameter(epsilons)
    loss = DROLoss(temperature, epsilons=margins, distance=distance).to_centroids(
        features, targets, centroids
    )
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()
    assert torch.isfinite(margins.grad).all()
    if distance == "squared":
        assert loss > 0 and features.grad.abs().max() > 0
    else:
        near = features.detach().double() / size, targets, centroids.double() / size
        expected = reference_loss(*near, temperature, epsilons=epsilons.double(), distance=distance)
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_squares_are_scaled_down_only_where_they_overflow(device):
    distances = torch.tensor([[3.0, 1e10], [0.0, 2.0]], device=device)
    assert torch.equal(finite_squares(distances, 1.0), distances.square())
    far = torch.tensor([[3e20, 1e20], [0.0, 2e20]], device=device, requires_grad=True)
    squares = finite_squares(far, 1.0)
    squares.sum().backward()
    assert torch.isfinite(squares).all() and torch.isfinite(far.grad).all()
    # One factor for all: the ratios stay.
    assert_close(squares / squares[0, 1], torch.tensor([[9.0, 1.0], [0.0, 4.0]], device=device))
    assert_close(far.grad / far.grad[0, 1], torch.tensor([[3.0, 1.0], [0.0, 2.0]], device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-12, 1e-6])
def test_the_normalised_gradient_is_bounded_at_a_feature_of_zeros(value, dtype, device):
    """F.normalize alone would divide by 1e-12 there, and the gradient would be 2e12."""
    features, targets, bank, bank_targets, epsilons = (
        t.to(device) for t in random_problem(dtype=dtype)
    )
    features[0] = value * features[0]
    features.requires_grad_()
    centroids = centroids_of(bank, bank_targets).to(device)
    temperature = 0.1
    loss_of = DROLoss(temperature, epsilons=epsilons, distance="normalised")
    loss = loss_of.to_centroids(features, targets, centroids)
    loss.backward()
    assert torch.isfinite(loss)
    # The loss changes by 2/τ at most when a distance changes by 1, a distance by 1/shortest.
    shortest = 1e-3 * centroids.norm(dim=1).mean()
    assert features.grad.norm(dim=1).max() <= 2 / (temperature * shortest)


def test_only_features_below_a_thousandth_of_the_mean_centroid_stay_shorter_than_1(device):
    """The centroids have lengths 1 to 5, so their mean length is 3."""
    features, targets, bank, bank_targets, epsilons = random_problem()
    unit_centroids = F.normalize(centroids_of(bank, bank_targets), dim=1)
    centroids = torch.arange(1.0, 6.0).double().unsqueeze(1) * unit_centroids
    lengths = torch.tensor([0.0, 1e-4, 1e-3, 2e-3, 2.9e-3, 3.1e-3, 4e-3, 1e-2, 0.1, 1.0, 3.0, 99.0])
    directions, lengths = F.normalize(features, dim=1), lengths.double().unsqueeze(1)
    expected = reference_loss(
        directions * (lengths / 3e-3).clamp(max=1), targets, unit_centroids, 0.1, epsilons=epsilons
    )
    loss_of = DROLoss(0.1, epsilons=epsilons, distance="normalised").to(device)
    given = (directions * lengths, targets, centroids)
    loss = loss_of.to_centroids(*(tensor.to(device) for tensor in given))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_normalised_loss_of_zeros_alone_is_finite(device):
    features = torch.zeros(3, 4, device=device, requires_grad=True)
    targets = torch.tensor([0, 1, 1], device=device)
    loss_of = DROLoss(0.1, epsilons=torch.ones(2, device=device), distance="normalised")
    loss = loss_of.to_centroids(features, targets, torch.zeros(2, 4, device=device))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()


def test_an_unknown_distance_is_an_error():
    with pytest.raises(ValueError, match="euclidean, squared, normalised, not 'cosine'"):
        DROLoss(1.0, distance="cosine")


def test_the_flag_takes_the_distances_of_the_loss():
    stage_2 = "--pretrained X --feat_loss ce,robust_loss --cls_loss ce --robust_distance"
    for distance in DISTANCES:
        assert parse_options([*stage_2.split(), distance]).robust_distance == distance
    [action] = [a for a in build_parser()._actions if a.dest == "robust_distance"]
    assert set(action.choices) == set(DISTANCES)
