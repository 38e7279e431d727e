"""Augmentation of a whole epoch at once, on uint8 batches, on the device of the resident images.

Random numbers come from a CPU generator, so a seed gives the same epoch on every device.
"""

import torch
from torch import Tensor

from datasets.loading.autoaugment import (
    PolicyDraws,
    apply_policies,
    check_images,
    chunk_length,
    draw_policies,
)
from datasets.loading.transfer import to_device


def _gather(images: Tensor, indices: Tensor) -> Tensor:
    return images.index_select(0, to_device(indices, images.device))


def random_crop_flip(
    images: Tensor,
    indices: Tensor,
    generator: torch.Generator,
    padding: int = 4,
    own: Tensor | None = None,
) -> Tensor:
    """Gather images, crop them at random from a zero-padded copy and flip half of them.

    Args:
        images: uint8 [M, 3, H, W], the resident set, any device.
        indices: int64 [N] on the CPU, which images to take.
        generator: CPU generator.
        padding: zeros added on each side, in pixels; offsets are uniform in 0..2*padding.
        own: which of the N to make (all if None); random numbers are drawn for all N.

    Returns:
        A new uint8 tensor [N, 3, H, W] (or [len(own), 3, H, W]) on the images' device; each is
        flipped horizontally with probability 1/2.

    Raises:
        ValueError: if images are not uint8 [N, 3, H, W].
    """
    check_images(images)
    n, (_, channels, height, width) = len(indices), images.shape
    rows, columns = torch.randint(2 * padding + 1, (2, n), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    if own is not None:
        indices, rows, columns, flips = (drawn[own] for drawn in (indices, rows, columns, flips))
        n = len(own)

    chunk = max(1, min(chunk_length(images), n))
    padded = images.new_zeros(chunk, channels, height + 2 * padding, width + 2 * padding)
    inner = padded[..., padding : padding + height, padding : padding + width]
    # Entry s of this view is the crop whose first pixel is value s of the padded batch.
    image_stride, *pixel_strides = padded.stride()
    row_stride = padded.stride(2)
    last = (chunk - 1) * image_stride + 2 * padding * row_stride + 2 * padding
    crops = padded.as_strided((last + 1, channels, height, width), (1, *pixel_strides))
    starts = torch.arange(n) % chunk * image_stride + rows * row_stride + columns

    flips = flips[:, None, None, None]
    tables = [to_device(t, images.device).split(chunk) for t in (indices, starts, flips)]
    result = images.new_empty(n, channels, height, width)
    for index, start, flip, target in zip(*tables, result.split(chunk), strict=True):
        source = images.index_select(0, index)
        # Flipping before the crop is the same law, since the offsets are symmetric.
        torch.where(flip, source.flip(-1), source, out=inner[: len(index)])
        target.copy_(crops[start])
    return result


def cutout(
    images: Tensor,
    generator: torch.Generator,
    size: int = 16,
    own: Tensor | None = None,
    drawn: int | None = None,
) -> Tensor:
    """Set one random square of every image to zero, in place.

    The centre (y, x) is uniform over the pixels; the square covers rows y - size//2 up to, but not
    including, y + size//2, columns alike, and is clipped at the border.

    Args:
        images: uint8 [N, 3, H, W], any device; changed in place.
        generator: CPU generator.
        size: side of the square in pixels.
        own, drawn: the images are these of a larger number, for all of which squares are drawn.

    Returns:
        The same tensor.

    Raises:
        ValueError: if images are not uint8 [N, 3, H, W].

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout" (2017).
    """
    check_images(images)
    n, _, height, width = images.shape
    n = n if drawn is None else drawn
    y = torch.randint(height, (n, 1), generator=generator)
    x = torch.randint(width, (n, 1), generator=generator)
    if own is not None:
        y, x = y[own], x[own]
    keep_rows = _outside_window(y, height, size // 2)[:, None, :, None]
    keep_columns = _outside_window(x, width, size // 2)[:, None, None, :]
    keep_rows, keep_columns = (
        to_device(t.to(torch.uint8), images.device) for t in (keep_rows, keep_columns)
    )
    chunk = chunk_length(images)
    parts = (t.split(chunk) for t in (images, keep_rows, keep_columns))
    for part, rows, columns in zip(*parts, strict=True):
        part.mul_(rows | columns)
    return images


def _outside_window(centres: Tensor, length: int, half: int) -> Tensor:
    """Which of the positions 0..length-1 lie outside centre - half <= p < centre + half."""
    positions = torch.arange(length)
    return (positions < centres - half) | (positions >= centres + half)


def _none(
    images: Tensor, indices: Tensor, generator: torch.Generator, own: Tensor | None = None
) -> Tensor:
    check_images(images)
    return _gather(images, indices if own is None else indices[own])


def _autoaugment(
    images: Tensor, indices: Tensor, generator: torch.Generator, own: Tensor | None = None
) -> Tensor:
    images = random_crop_flip(images, indices, generator, own=own)
    draws = draw_policies(len(indices), generator)
    if own is not None:
        draws = PolicyDraws(*(drawn[own] for drawn in draws))
    return cutout(apply_policies(images, draws), generator, own=own, drawn=len(indices))


# name -> (images uint8 [M, 3, H, W], indices int64 [N], CPU generator, own=None) -> uint8
# [N, 3, H, W]; or, with own int64 [n], those n of them, the same ones as without it.
# Cutout's zeros are zeros before normalisation, so they belong into the uint8 image.
AUGMENTATIONS = {
    "none": _none,
    "crop_flip": random_crop_flip,
    "autoaugment": _autoaugment,
}
