"""Mixup: the images of a batch are mixed in pairs (Zhang et al., "mixup: Beyond Empirical Risk
Minimization", ICLR 2018)."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class Mixup:
    """Mixes each image of a batch with another one: λ · x_i + (1 − λ) · x_j. Each batch has one λ,
    drawn from Beta(α, α), and one permutation i → j.

    The draws of an epoch depend only on the seed and the epoch, so a resumed run has the same.
    Before each batch its draws are copied to a fixed place in memory, where a captured step reads
    them.

    Args:
        alpha: α > 0.
        seed: seed of the run.
        batch_size: size of the largest batch.
        device: the device of the images.
    """

    def __init__(self, alpha: float, seed: int, batch_size: int, device: torch.device) -> None:
        self.alpha = alpha
        self.seed = seed
        self.partners = torch.arange(batch_size, device=device)
        self.share = torch.ones((), device=device)

    def draw(self, epoch: int, sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Returns λ of each batch, float32 ``[batches]``, and each batch's permutation, int64
        ``[size]``, on the CPU."""
        generator = np.random.default_rng((self.seed, epoch))
        shares = generator.beta(self.alpha, self.alpha, len(sizes)).astype(np.float32)
        permutations = [torch.from_numpy(generator.permutation(size)) for size in sizes]
        return torch.from_numpy(shares), permutations

    def along(
        self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, sizes: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the epoch's batches unchanged, each after its draws are in place.

        Args:
            batches: batches of images and targets.
            epoch: counted from 1.
            sizes: number of targets in each batch.
        """
        shares, permutations = self.draw(epoch, sizes)
        shares = shares.to(self.share.device)
        permutations = torch.cat(permutations).to(self.partners.device).split(list(sizes))
        for share, permutation, batch in zip(shares, permutations, batches, strict=True):
            self.share.copy_(share)
            self.partners[: len(permutation)].copy_(permutation)
            yield batch

    def images(self, images: Tensor) -> Tensor:
        """Returns the mixed batch of float images, ``[B, 3, H, W]``."""
        others = images.index_select(0, self.partners[: len(images)])
        return torch.lerp(images, others, 1 - self.share)

    def targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the targets ``[B]`` of the images that were mixed in (j above), and λ, the share
        of the batch's own images."""
        return targets[self.partners[: len(targets)]], self.share
