"""The optimiser of both stages is torch's to the last bit."""

from copy import deepcopy

import pytest
import torch

from tests.support.helpers import seeded
from utils.training.sgd import Sgd

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def trained(kind, steps, state=None, **settings):
    """Parameters and optimiser after steps of SGD of that kind, from a state if it is given."""
    generator = seeded()
    weights = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    weights = [weight.requires_grad_() for weight in weights]
    groups = [{"params": weights[:1], "weight_decay": 0.0}]
    optimizer = kind(groups, **{**SETTINGS, **settings})
    optimizer.add_param_group({"params": weights[1:], "lr": 0.01})
    if state is not None:
        optimizer.load_state_dict(deepcopy(state))  # it takes the momenta without a copy
    for _ in range(steps):
        optimizer.zero_grad()
        sum((weight**2).sum() for weight in weights).backward()
        optimizer.step()
    return weights, optimizer


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"momentum": 0.0}], ids=str)
def test_steps_and_states_are_those_of_torch(settings):
    ours, own = trained(Sgd, 3, **settings)
    theirs, other = trained(torch.optim.SGD, 3, **settings)
    for mine, given in zip(ours, theirs, strict=True):
        assert torch.equal(mine, given) and mine.requires_grad
    for state in (own.state_dict(), other.state_dict()):
        continued, _ = trained(Sgd, 2, state, **settings)
        expected, _ = trained(torch.optim.SGD, 2, other.state_dict(), **settings)
        assert all(map(torch.equal, continued, expected))


def test_a_step_leaves_nothing_for_a_backward_pass():
    weights, optimizer = trained(Sgd, 2)
    assert torch.is_grad_enabled()
    assert all(weight.grad_fn is None for weight in weights)
    momenta = [s["momentum_buffer"] for s in optimizer.state.values()]
    assert len(momenta) == 2 and not any(m.requires_grad for m in momenta)
