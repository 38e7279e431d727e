"""Mixup: images of a batch mixed in pairs (Zhang et al., "mixup: Beyond Empirical Risk
Minimization", ICLR 2018)."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class Mixup:
    """Mixes each image of a batch with another one: λ · x_i + (1 − λ) · x_j, with one λ of
    Beta(α, α) and one permutation i → j a batch.

    An epoch's numbers depend on the seed and the epoch alone, so that a run that goes on draws the
    same. Before each batch its numbers are copied into memory that stays where it is, from which a
    captured step reads them.

    Args:
        alpha: α > 0.
        seed: of the run.
        batch_size: of the largest batch.
        device: where the images are.
    """

    def __init__(self, alpha: float, seed: int, batch_size: int, device: torch.device) -> None:
        self.alpha = alpha
        self.seed = seed
        self.partners = torch.arange(batch_size, device=device)
        self.share = torch.ones((), device=device)

    def draw(self, epoch: int, sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The shares λ ``[batches]`` and each batch's permutation ``[size]``, on the CPU."""
        generator = np.random.default_rng((self.seed, epoch))
        shares = generator.beta(self.alpha, self.alpha, len(sizes)).astype(np.float32)
        permutations = [torch.from_numpy(generator.permutation(size)) for size in sizes]
        return torch.from_numpy(shares), permutations

    def along(
        self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, sizes: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the epoch's batches as they come, each when its numbers are in place."""
        shares, permutations = self.draw(epoch, sizes)
        shares = shares.to(self.share.device)
        permutations = torch.cat(permutations).to(self.partners.device).split(list(sizes))
        for share, permutation, batch in zip(shares, permutations, batches, strict=True):
            self.share.copy_(share)
            self.partners[: len(permutation)].copy_(permutation)
            yield batch

    def images(self, images: Tensor) -> Tensor:
        """The batch mixed, ``[B, 3, H, W]`` float."""
        others = images.index_select(0, self.partners[: len(images)])
        return torch.lerp(images, others, 1 - self.share)

    def targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The targets ``[B]`` of the images that were mixed in, and the share of the others."""
        return targets[self.partners[: len(targets)]], self.share
