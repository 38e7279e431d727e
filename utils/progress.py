"""The progress bars of an epoch, and how long the other epochs will take."""

from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm


class Progress:
    """A bar over the batches of an epoch. It shows the loss without waiting for the device.

    Args:
        title: text in front of the bar.
        steps: number of batches.
        every: number of batches from one update of the bar to the next.
    """

    def __init__(self, title: str, steps: int, every: int) -> None:
        self.bar = tqdm(total=steps, desc=title, unit="batch", leave=False, disable=None)
        self.every = every
        self.count = 0
        self.on_host: Tensor | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, loss: Tensor) -> None:
        """Counts a batch. After every so many batches, updates the bar and its loss."""
        self.count += 1
        if self.bar.disable or self.count % self.every:
            return
        self.bar.update(self.every)
        if not loss.is_cuda:
            self._show(loss)
        elif self.on_host is None:
            self.on_host, self.arrived = torch.empty((), pin_memory=True), torch.cuda.Event()
            self._copy(loss)
        elif self.arrived.query():  # or else the device is behind, and the next update sees
            self._show(self.on_host)
            self._copy(loss)

    def _copy(self, loss: Tensor) -> None:
        """Begins to copy a loss to the host. A later update shows it."""
        assert self.on_host is not None
        self.on_host.copy_(loss, non_blocking=True)
        self.arrived.record()

    def _show(self, loss: Tensor) -> None:
        self.bar.set_postfix(loss=f"{loss.item():.4f}")


def counted(
    batches: Iterable[tuple[Tensor, Tensor]], title: str, images: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches (images, targets) of a pass, under a bar that counts their images."""
    with tqdm(total=images, desc=title, unit="image", leave=False, disable=None) as bar:
        for inputs, targets in batches:
            yield inputs, targets
            bar.update(len(targets))


class Pace:
    """How long an epoch takes: the median of the last nine epochs of the phase. So an epoch in
    which the machine slept, or compiled the step, does not count for long."""

    EPOCHS = 9

    def __init__(self) -> None:
        self.phase = ""
        self.seconds: deque[float] = deque(maxlen=self.EPOCHS)

    def add(self, phase: str, seconds: float) -> None:
        """Counts an epoch of a phase."""
        if phase != self.phase:
            self.phase = phase
            self.seconds.clear()
        self.seconds.append(seconds)

    def seconds_of(self, epochs: int) -> float:
        """Returns the seconds that so many more epochs will take, at the pace of this phase.

        Raises:
            StatisticsError: no epoch has been counted.
        """
        return median(self.seconds) * epochs
