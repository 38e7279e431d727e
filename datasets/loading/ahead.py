"""A thread draws an epoch's random numbers while the epoch before it trains."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from datasets.loading.augmentation import Draws
from datasets.samplers import Order


class DrawnAhead:
    """Draws epochs from an order and a generator, one epoch ahead if `begin` is called.

    The thread works on copies. Order and generator advance only when `take` returns the epoch, so a
    checkpoint saved before `take` has their state from before the epoch. If anything else has drawn
    from the generator meanwhile, or has changed the state of the order, `take` draws the epoch
    again. So the numbers are the same with and without the thread.

    Args:
        draw: returns the draws of one epoch, from an order and a generator.
        order: the order; it must draw from `generator` or not at all.
        generator: CPU generator.
    """

    def __init__(
        self,
        draw: Callable[[Order, torch.Generator], Draws],
        order: Order,
        generator: torch.Generator,
    ) -> None:
        self.draw, self.order, self.generator = draw, order, generator
        self.thread = ThreadPoolExecutor(1, "draws")
        self.after: Future[tuple[dict, Draws, dict, Tensor]] | None = None

    def begin(self) -> None:
        """Starts to draw the epoch that the next `take` will return."""
        self.before = self.generator.get_state()
        generator = torch.Generator()
        generator.set_state(self.before)
        order = copy.deepcopy(self.order, {id(self.generator): generator})

        def draw() -> tuple[dict, Draws, dict, Tensor]:
            before = copy.deepcopy(order.state_dict())
            drawn = self.draw(order, generator)
            return before, drawn, order.state_dict(), generator.get_state()

        self.after = self.thread.submit(draw)

    def take(self) -> Draws:
        """Returns the next epoch's draws; order and generator then have their state from after
        it."""
        after, self.after = self.after, None
        if after is not None:
            order_before, drawn, order_state, generator_state = after.result()
            before = [self.before, order_before]
            if _are_equal([self.generator.get_state(), self.order.state_dict()], before):
                self.order.load_state_dict(order_state)
                self.generator.set_state(generator_state)
                return drawn
        return self.draw(self.order, self.generator)


def _are_equal(state: Any, other: Any) -> bool:
    """Returns True if two states, tensors and plain values in dicts and lists, are equal."""
    if isinstance(state, Tensor):
        return torch.equal(state, other)
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(_are_equal(state[k], other[k]) for k in state)
    if isinstance(state, list):
        return len(state) == len(other) and all(map(_are_equal, state, other))
    return state == other
