"""Epochs that a thread draws ahead have the same bits as epochs that are drawn when they are
needed."""

import pytest
import torch

from datasets.loading.ahead import DrawnAhead
from datasets.loading.loader import Normalise
from datasets.loading.resident import ResidentLoader
from datasets.normalisation import Normalisation
from datasets.samplers import ClassAwareOrder, EffectiveNumberOrder, ShuffledOrder
from datasets.splits import Split
from tests.support.helpers import noise, seeded

LABELS = torch.arange(5).repeat_interleave(torch.tensor([9, 7, 5, 2, 1]))
ORDERS = {
    "shuffled": lambda generator: ShuffledOrder(24, generator),
    "effective number": lambda generator: EffectiveNumberOrder(LABELS, generator),
    "class-aware": lambda generator: ClassAwareOrder(LABELS, 2, generator),
}


def make_loader(kind, is_ahead, monkeypatch, augment="autoaugment"):
    """Returns a loader with one generator, and a function that returns what a checkpoint would have
    of it."""
    generator = seeded(3)
    normalise = Normalise(Normalisation((0.5,) * 3, (0.5,) * 3), torch.device("cpu"))
    order = ORDERS[kind](generator)
    loader = ResidentLoader(Split(noise(24), LABELS), normalise, 7, order, augment, generator)
    next_epoch = loader._next_epoch
    monkeypatch.setattr(loader, "_next_epoch", lambda **_: next_epoch(is_ahead=is_ahead))
    return loader, lambda: [generator.get_state(), order.state_dict()]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(equal, a, b))


def epoch(loader):
    return [list(pair) for pair in loader.pixels()]


@pytest.mark.parametrize("kind", ORDERS)
def test_epochs_and_the_state_after_each_are_the_same(kind, monkeypatch):
    ahead, state = make_loader(kind, True, monkeypatch)
    plain, plain_state = make_loader(kind, False, monkeypatch)
    for _ in range(4):
        assert equal(epoch(ahead), epoch(plain))
        # As a checkpoint between two epochs finds it, while the next one is drawn.
        assert equal(state(), plain_state())


@pytest.mark.parametrize("kind", ORDERS)
def test_a_run_goes_on_from_the_state_between_two_epochs(kind, monkeypatch):
    ahead, state = make_loader(kind, True, monkeypatch)
    epoch(ahead)
    generator_state, order_state = state()
    expected = [epoch(ahead) for _ in range(2)]
    resumed, _ = make_loader(kind, True, monkeypatch)
    epoch(resumed)  # something else, drawn ahead of too
    resumed.generator.set_state(generator_state)
    resumed.order.load_state_dict(order_state)
    assert equal([epoch(resumed) for _ in range(2)], expected)


def test_an_epoch_is_drawn_again_if_the_generator_has_moved(monkeypatch):
    epochs = []
    for is_ahead in (True, False):
        loader, _ = make_loader("shuffled", is_ahead, monkeypatch)
        epoch(loader)
        torch.rand(1, generator=loader.generator)
        epochs.append([epoch(loader), epoch(loader)])
    assert equal(*epochs)


class AdaptiveOrder(ShuffledOrder):
    """Draws by weights that training changes."""

    weights = torch.ones(24)

    def draw(self):
        return torch.multinomial(self.weights, 24, replacement=True, generator=self.generator)

    def state_dict(self):
        return {"weights": self.weights}

    def load_state_dict(self, state):
        self.weights = state["weights"]


@pytest.mark.parametrize("in_place", [True, False])
def test_an_epoch_is_drawn_again_if_training_has_changed_the_order(in_place, monkeypatch):
    monkeypatch.setitem(ORDERS, "adaptive", lambda generator: AdaptiveOrder(24, generator))
    epochs = []
    for is_ahead in (True, False):
        loader, state = make_loader("adaptive", is_ahead, monkeypatch, augment="crop_flip")
        loader.order.weights = torch.ones(24)
        epoch(loader)
        changed = (LABELS == 3).float()
        loader.order.weights = loader.order.weights.mul_(changed) if in_place else changed
        epochs.append([epoch(loader), state(), epoch(loader), state()])
        assert all((targets == 3).all() for drawn in epochs[-1][::2] for _, targets in drawn)
    assert equal(*epochs)


def test_an_epoch_drawn_ahead_is_drawn_once_and_an_error_arrives():
    drawn = []

    def draw(order, generator):
        drawn.append(torch.randint(100, (3,), generator=generator))
        if len(drawn) > 3:
            raise MemoryError
        return drawn[-1]

    generator = seeded(1)
    ahead = DrawnAhead(draw, ORDERS["shuffled"](generator), generator)
    first = ahead.take()
    ahead.begin()
    second = ahead.take()
    assert len(drawn) == 2 and drawn[0] is first and drawn[1] is second
    ahead.begin()
    ahead.take()
    ahead.begin()
    with pytest.raises(MemoryError):
        ahead.take()
