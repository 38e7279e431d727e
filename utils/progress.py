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
        self.loss: Tensor | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, loss: Tensor) -> None:
        self.count += 1
        if self.bar.disable or self.count % self.every:
            return
        if self.loss is None:
            self.loss = torch.zeros((), pin_memory=loss.is_cuda)
        # Shows the value that has arrived, which on a GPU is that of an update before.
        self.bar.set_postfix(loss=f"{self.loss.item():.4f}", refresh=False)
        self.loss.copy_(loss, non_blocking=True)
        self.bar.update(self.every)
