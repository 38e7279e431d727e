"""Learning rates by epoch."""

import math
from collections.abc import Sequence


def stepped_rate(
    epoch: int, lr: float, rate_steps: Sequence[tuple[int, float]], warmup: int
) -> float:
    """Rate of an epoch, counted from 1: a linear warm-up, then a step function; steps are the last
    epoch before the rate falls and the factor to which it does."""
    if epoch <= warmup:
        return lr * epoch / warmup
    factors = [factor for last_epoch, factor in rate_steps if epoch > last_epoch]
    return lr * (factors[-1] if factors else 1.0)


def cosine_rate(epoch: int, lr: float, epochs: int, warmup: int = 0) -> float:
    """Rate of epoch t of T: lr · t / W in the W epochs of the warm-up, then
    lr · (1 + cos(π (t − 1 − W) / (T − W))) / 2, from the full rate towards 0 (Loshchilov and
    Hutter, "SGDR", ICLR 2017, equation 5, one cycle)."""
    if epoch <= warmup:
        return lr * epoch / warmup
    return lr * (1 + math.cos(math.pi * (epoch - 1 - warmup) / (epochs - warmup))) / 2
