"""The margins as a module, whose vectors the robust losses use."""

import pytest
import torch
from torch.testing import assert_close

from losses import Margins, stage_2_objective
from utils.options.values import parse_losses

COUNTS = [16, 4, 1]
LAYERS = {"layer2": slice(0, 2), "layer3": slice(2, 5)}


def objective_of(margins: Margins, losses="robust_loss"):
    columns = LAYERS if margins.is_layered else None
    return stage_2_objective(
        parse_losses(losses), COUNTS, epsilons=list(margins.epsilons), columns=columns
    )


def batch():
    generator = torch.Generator().manual_seed(0)
    features, centroids = (torch.randn(n, 5, generator=generator) for n in (6, 3))
    return features, torch.zeros(6, 3), torch.arange(6) % 3, centroids


@pytest.mark.parametrize(
    ("margin_type", "start"),
    [("learned", [2.0] * 3), ("shared", [2.0] * 3), ("sample_count", [0.5, 1.0, 2.0])],
)
@pytest.mark.parametrize("num_layers", [None, 1, 2])
def test_margins_start_as_the_papers_in_every_layer(margin_type, start, num_layers):
    margins = Margins(margin_type, 2.0, COUNTS, num_layers)
    expected = torch.tensor(start)
    if num_layers is not None:
        expected = expected.expand(num_layers, 3)
    assert torch.equal(margins.values(), expected)
    assert not margins.values().requires_grad
    assert len(margins.trained) == ((num_layers or 1) if margin_type == "learned" else 0)


def test_an_unknown_margin_type_is_an_error():
    with pytest.raises(ValueError, match="learned, shared, sample_count, not 'none'"):
        Margins("none", 0.5, [3, 2])


@pytest.mark.parametrize("num_layers", [None, 2])
def test_a_loss_holds_the_vectors_themselves(num_layers):
    """There is only one copy: the loss sees an optimiser's update, a loaded value and a bound."""
    margins = Margins("learned", 1.0, COUNTS, num_layers)
    objective = objective_of(margins)
    assert set(map(id, objective.parameters())) == set(map(id, margins.parameters()))
    before = objective(*batch())[0]
    before.backward()
    gradients = torch.stack([vector.grad for vector in margins.trained]).view_as(margins.values())
    torch.optim.SGD(margins.trained, lr=0.5).step()
    assert_close(margins.values(), 1 - 0.5 * gradients)
    assert objective(*batch())[0] < before

    margins.load(torch.full_like(margins.values(), -3.0))
    loaded = objective(*batch())[0]
    margins.keep_above(1.0)
    assert torch.equal(margins.values(), torch.ones_like(margins.values()))
    assert loaded < objective(*batch())[0] == before


def test_two_robust_losses_share_the_margins():
    margins = Margins("learned", 1.0, COUNTS)
    objective = objective_of(margins, "robust_loss,robust_loss_lt")
    assert len(list(objective.parameters())) == 1


def test_every_layer_takes_its_own_row():
    margins = Margins("learned", 1.0, COUNTS, num_layers=2)
    rows = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]])
    margins.load(rows)
    assert torch.equal(margins.values(), rows)
    assert [torch.equal(e, row) for e, row in zip(margins.epsilons, rows, strict=True)] == [
        True
    ] * 2
    margins.keep_above(0.0)
    assert torch.equal(margins.values(), rows.clamp(min=0))


@pytest.mark.parametrize(("num_layers", "shape"), [(None, (2,)), (None, (1, 3)), (2, (3,))])
def test_values_of_another_shape_are_refused_and_change_nothing(num_layers, shape):
    margins = Margins("learned", 1.0, COUNTS, num_layers)
    with pytest.raises(ValueError, match="margins of shape"):
        margins.load(torch.zeros(shape))
    assert (margins.values() == 1).all()


def test_margins_move_to_a_device_with_their_module(device):
    margins = Margins("learned", 1.0, COUNTS).to(device)
    assert margins.values().device.type == device.type
    margins.load(torch.zeros(3))
    assert (margins.values() == 0).all()
