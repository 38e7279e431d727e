"""Learning rates by epoch."""

import math
from collections.abc import Sequence


def stepped_rate(
    epoch: int, lr: float, rate_steps: Sequence[tuple[int, float]], warmup: int
) -> float:
    """Returns the rate of an epoch: a linear warm-up, then a step function.

    Args:
        epoch: counted from 1.
        lr: the full rate.
        rate_steps: each step as (last epoch before it, factor by which `lr` is multiplied after
            it).
        warmup: epochs of the warm-up; epoch t of it has the rate lr · t / warmup.
    """
    if epoch <= warmup:
        return lr * epoch / warmup
    factors = [factor for last_epoch, factor in rate_steps if epoch > last_epoch]
    return lr * (factors[-1] if factors else 1.0)


def cosine_rate(epoch: int, lr: float, epochs: int, warmup: int = 0) -> float:
    """Returns the rate of epoch t of T: lr · t / W in the W epochs of the warm-up, then
    lr · (1 + cos(π (t − 1 − W) / (T − W))) / 2, which falls from the full rate towards 0.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, one cycle.

    Args:
        epoch: t, counted from 1.
        lr: the full rate.
        epochs: T.
        warmup: W, less than T.
    """
    if epoch <= warmup:
        return lr * epoch / warmup
    return lr * (1 + math.cos(math.pi * (epoch - 1 - warmup) / (epochs - warmup))) / 2
