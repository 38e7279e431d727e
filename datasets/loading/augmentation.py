"""Augmentation of many images at once, up to a whole epoch, as uint8 on the device that holds them.

Random numbers come from a CPU generator, so a seed gives the same epoch on every device. Drawing
and applying are separate functions, so that a thread can draw the next epoch's numbers; an
`Augmentation` has both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.loading.operations import chunk_length
from datasets.loading.transfer import to_device

Draws = tuple[Tensor, ...]
"""Random numbers of N images, on the CPU, each tensor ``[N, ...]``."""

PADDING = 4  # zeros added on each side before a crop, in pixels
CUTOUT_SIDE = 16  # of the square that Cutout sets to zero, in pixels; smaller in a smaller image


def draw_crops(n: int, generator: torch.Generator) -> Draws:
    """Returns the rows and columns of n crops, int64 [N], uniform in 0..2*PADDING, and which of
    them are flipped, bool [N], each with probability 1/2."""
    rows, columns = torch.randint(2 * PADDING + 1, (2, n), generator=generator)
    return rows, columns, torch.rand(n, generator=generator) < 0.5


def crop_flip(images: Tensor, indices: Tensor, draws: Draws) -> Tensor:
    """Returns the chosen images, each cropped from a copy with `PADDING` zeros on each side, and
    flipped horizontally if that was drawn.

    Args:
        images: uint8 [M, 3, H, W], the resident set, any device.
        indices: int64 [N] on the CPU, which images to take.
        draws: what `draw_crops` drew for N images. A crop begins at its row and column of the
            padded copy. A copy that is flipped is flipped before it is cropped.

    Returns:
        A new uint8 tensor [N, 3, H, W] on the images' device.
    """
    rows, columns, flips = draws
    n, (_, channels, height, width) = len(indices), images.shape

    chunk = max(1, min(chunk_length(images), n))
    padded = images.new_zeros(chunk, channels, height + 2 * PADDING, width + 2 * PADDING)
    inner = padded[..., PADDING : PADDING + height, PADDING : PADDING + width]
    # Entry s of this view is the crop whose first pixel is value s of the padded batch.
    image_stride, *pixel_strides = padded.stride()
    row_stride = padded.stride(2)
    last = (chunk - 1) * image_stride + 2 * PADDING * row_stride + 2 * PADDING
    crops = padded.as_strided((last + 1, channels, height, width), (1, *pixel_strides))
    starts = torch.arange(n) % chunk * image_stride + rows * row_stride + columns

    flips = flips[:, None, None, None]
    tables = [to_device(t, images.device).split(chunk) for t in (indices, starts, flips)]
    result = images.new_empty(n, channels, height, width)
    for index, start, flip, target in zip(*tables, result.split(chunk), strict=True):
        source = images.index_select(0, index)
        # A flip before the crop gives the same distribution, because the offsets are symmetric.
        torch.where(flip, source.flip(-1), source, out=inner[: len(index)])
        target.copy_(crops[start])
    return result


def draw_squares(n: int, height: int, width: int, generator: torch.Generator) -> Draws:
    """Returns the rows and columns of n squares' centres, int64 [N, 1] each, uniform over the
    pixels."""
    y = torch.randint(height, (n, 1), generator=generator)
    return y, torch.randint(width, (n, 1), generator=generator)


def cut_squares(images: Tensor, draws: Draws) -> Tensor:
    """Sets one square of each image to zero, in place, and returns the images: Cutout.

    With half h = `CUTOUT_SIDE` // 2 and the centre (y, x), the square covers the rows from y - h up
    to, but not including, y + h, and columns likewise. It is clipped at the border. In an image
    whose shorter side is at most `CUTOUT_SIDE`, which the square could cover whole, h is a quarter
    of that side, rounded down; so it is with CIFAR's 32 pixels.

    Args:
        images: uint8 [N, 3, H, W], any device; changed in place.
        draws: what `draw_squares` drew for N images of this height and width.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout" (2017).
    """
    y, x = draws
    height, width = images.shape[2:]
    shorter = min(height, width)
    half = CUTOUT_SIDE // 2 if shorter > CUTOUT_SIDE else shorter // 4
    keep_rows = _outside_window(y, height, half)[:, None, :, None]
    keep_columns = _outside_window(x, width, half)[:, None, None, :]
    keep_rows, keep_columns = (
        to_device(t.to(torch.uint8), images.device) for t in (keep_rows, keep_columns)
    )
    chunk = chunk_length(images)
    parts = (t.split(chunk) for t in (images, keep_rows, keep_columns))
    for part, rows, columns in zip(*parts, strict=True):
        part.mul_(rows | columns)
    return images


def _outside_window(centres: Tensor, length: int, half: int) -> Tensor:
    """Returns True for each position 0..length-1 outside centre - half <= p < centre + half, bool
    [N, length]."""
    positions = torch.arange(length)
    return (positions < centres - half) | (positions >= centres + half)


@dataclass(frozen=True)
class Augmentation:
    """One value of `--augment`, as two functions.

    Args:
        draw: (number of images N, height, width, CPU generator) -> the draws of N images.
        apply: (images uint8 [M, 3, H, W], indices int64 [N], draws) -> uint8 [N, 3, H, W] on the
            images' device. It draws nothing and does not wait for the device.
    """

    draw: Callable[[int, int, int, torch.Generator], Draws]
    apply: Callable[[Tensor, Tensor, Draws], Tensor]


def _draw_autoaugment(n: int, height: int, width: int, generator: torch.Generator) -> Draws:
    # It imports torchvision, which takes two seconds.
    from datasets.loading.autoaugment import draw_policies

    crops = draw_crops(n, generator)
    return *crops, *draw_policies(n, generator), *draw_squares(n, height, width, generator)


def _apply_autoaugment(images: Tensor, indices: Tensor, draws: Draws) -> Tensor:
    from datasets.loading.autoaugment import PolicyDraws, apply_policies

    images = crop_flip(images, indices, draws[:3])
    # Cutout's zeros are zeros before normalisation, so they are set in the uint8 image.
    return cut_squares(apply_policies(images, PolicyDraws(*draws[3:6])), draws[6:])


AUGMENTATIONS = {
    "none": Augmentation(
        draw=lambda n, height, width, generator: (),
        apply=lambda images, indices, draws: images.index_select(
            0, to_device(indices, images.device)
        ),
    ),
    "crop_flip": Augmentation(
        draw=lambda n, height, width, generator: draw_crops(n, generator), apply=crop_flip
    ),
    "autoaugment": Augmentation(draw=_draw_autoaugment, apply=_apply_autoaugment),
}
