"""The progress bar of an epoch."""

import torch
from torch import Tensor
from tqdm import tqdm


class Progress:
    """A bar over the batches of an epoch, which shows the loss without waiting for the device."""

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
        """Counts a batch, and now and then shows its loss."""
        self.count += 1
        if self.bar.disable or self.count % self.every:
            return
        self.bar.update(self.every)
        if not loss.is_cuda:
            self._show(loss)
        elif self.on_host is None:
            self.on_host = torch.empty((), pin_memory=True)
            self.on_host.copy_(loss)
        else:
            # What has arrived since the last time, so that nothing waits for the device.
            self._show(self.on_host)
            self.on_host.copy_(loss, non_blocking=True)

    def _show(self, loss: Tensor) -> None:
        self.bar.set_postfix(loss=f"{loss.item():.4f}")
