"""AutoAugment's operations on uint8 batches, bit-exact with Pillow.

The operations follow the implementation that DRO-LT was trained with, which calls Pillow once per
image: bicubic shear, nearest translation and rotation, grey fill, and a rotation that is always
counter-clockwise.

Exactness: Pillow computes in float32 or float64 and truncates. So one rounding error can change a
result by one grey level. Therefore products and sums stay separate eager operations (a fused
multiply-add rounds once instead of twice), and divisions that must be exact have a tensor as
divisor (CUDA multiplies by the reciprocal of a Python scalar).
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GREY = 128  # fills what shear, translation and rotation uncover

ENHANCEMENTS = ("color", "contrast", "sharpness", "brightness")
SIGNED = {"shearX", "shearY", "translateX", "translateY", *ENHANCEMENTS}

# Magnitudes of the levels 0..9. `linspace`, because span * level / 9 differs in the last bit.
MAGNITUDES = {
    **dict.fromkeys(("shearX", "shearY"), np.linspace(0, 0.3, 10).tolist()),  # slope
    **dict.fromkeys(("translateX", "translateY"), np.linspace(0, 150 / 331, 10).tolist()),  # sides
    "rotate": np.linspace(0, 30, 10).tolist(),  # degrees
    **dict.fromkeys(ENHANCEMENTS, np.linspace(0, 0.9, 10).tolist()),  # blend factor's distance to 1
    "posterize": np.linspace(8, 4, 10).round().astype(int).tolist(),  # bits kept
    "solarize": np.linspace(256, 0, 10).tolist(),  # threshold
}

# Values per chunk: the float temporaries of one chunk fit a CPU's cache, or bound GPU memory.
CHUNK_VALUES = {"cpu": 2**18, "cuda": 2**24}


# -------- geometric operations --------


@lru_cache(maxsize=256)
def _source_positions(
    op: str, level: int, sign: int, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns which pixel Pillow's nearest transform reads for each output pixel, int64 [H*W], and
    which output pixels lie outside of the image, bool [H*W]."""
    magnitude = MAGNITUDES[op][level]
    # Positions count from 1, since Pillow fills with 0.
    positions = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    image = Image.fromarray(positions)
    if op == "rotate":
        image = image.rotate(magnitude)
    else:
        shift_x = magnitude * width * sign if op == "translateX" else 0
        shift_y = magnitude * height * sign if op == "translateY" else 0
        image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, shift_x, 0, 1, shift_y))
    table = torch.from_numpy(np.array(image, dtype=np.int64)).flatten() - 1
    return table.clamp(min=0).to(device), (table < 0).to(device)


def _nearest(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    """Translates or rotates by one gather of pixels."""
    n, channels, height, width = images.shape
    positions, outside = _source_positions(op, level, sign, height, width, images.device)
    pixels = images.view(n * channels, height * width)
    moved = pixels.gather(1, positions.expand_as(pixels)).masked_fill_(outside, GREY)
    return moved.view_as(images)


@lru_cache(maxsize=256)
def _shear_taps(
    slope: float, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns for a vertical shear the four pixels that each output pixel is interpolated from,
    int64 [4, H*W], its offset from the second of them, float64 [H*W], and which output pixels lie
    outside of the image, bool [H*W]."""
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    source = slope * x + y
    outside = (source < 0) | (source >= height)
    source = source - 0.5
    first = source.floor()
    rows = (first.long() + torch.arange(-1, 3)[:, None, None]).clamp(0, height - 1)
    taps = rows * width + torch.arange(width)
    offsets = (source - first).flatten()
    return taps.flatten(1).to(device), offsets.to(device), outside.flatten().to(device)


def _shear_y(images: Tensor, slope: float) -> Tensor:
    """Shears along columns with Pillow's bicubic interpolation (a = -1), in its Horner form. Pillow
    truncates the result instead of rounding it."""
    n, channels, height, width = images.shape
    taps, d, outside = _shear_taps(slope, height, width, images.device)
    pixels = images.view(n * channels, height * width)
    v1, v2, v3, v4 = (pixels.gather(1, tap.expand_as(pixels)).double() for tap in taps)
    value = -v1 + v2 - v3 + v4
    value = 2 * (v1 - v2) + v3 - v4 + d * value
    value = -v1 + v3 + d * value
    value = v2 + d * value
    sheared = value.clamp_(0, 255).to(torch.uint8).masked_fill_(outside, GREY)
    return sheared.view_as(images)


def _shear(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    slope = MAGNITUDES[op][level] * sign
    if op == "shearY":
        return _shear_y(images, slope)
    return _shear_y(images.mT.contiguous(), slope).mT.contiguous()


# -------- blend operations --------


def _luma(images: Tensor) -> Tensor:
    """Returns Pillow's integer conversion to grey, int32 [N, 1, H, W]."""
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _mean_luma(images: Tensor) -> Tensor:
    """Returns the mean grey of each image, rounded half up, int64 [N, 1, 1, 1]."""
    count = images.shape[2] * images.shape[3]
    return (2 * _luma(images).sum((1, 2, 3), keepdim=True) + count) // (2 * count)


def _smooth(images: Tensor) -> Tensor:
    """Applies Pillow's 3x3 SMOOTH filter (centre 5, neighbours 1, divided by 13). Border pixels
    keep their values."""
    wide = images.short()
    columns = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    box = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
    total = box + 4 * wide[..., 1:-1, 1:-1]
    smooth = images.float()
    # A sum of integers over 13 is never within 1/26 of a half, so this rounding is safe.
    smooth[..., 1:-1, 1:-1] = ((total.float() + 6.5) / 13).floor_()
    return smooth


DEGENERATE = {
    "color": _luma,
    "contrast": _mean_luma,
    "sharpness": _smooth,
    "brightness": lambda images: images.new_zeros(1),
}


def _blend(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    """Blends as Pillow's ImageEnhance: degenerate + factor * (image - degenerate)."""
    factor = 1 + MAGNITUDES[op][level] * sign
    degenerate = DEGENERATE[op](images).float()
    blended = images.float().sub_(degenerate).mul_(factor).add_(degenerate)
    return blended.clamp_(0, 255).to(torch.uint8)


# -------- value operations --------


def _posterize(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    return images & (256 - 2 ** (8 - MAGNITUDES[op][level]))


def _solarize(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    return torch.where(images < MAGNITUDES[op][level], images, ~images)


def _invert(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    return ~images


def _autocontrast(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    """Stretches each channel's range to 0..255 by a look-up table [N*3, 256]."""
    pixels = images.flatten(2).flatten(0, 1)
    low, high = pixels.amin(1, keepdim=True).double(), pixels.amax(1, keepdim=True).double()
    scale = torch.full_like(high, 255) / (high - low)  # infinite for a constant channel
    grey = torch.arange(256, dtype=torch.float64, device=images.device)
    stretched = (grey * scale + -low * scale).clamp_(0, 255)
    table = torch.where(high > low, stretched, grey).to(torch.uint8)
    return table.gather(1, pixels.long()).view_as(images)


def _equalize(images: Tensor, op: str, level: int, sign: int) -> Tensor:
    """Flattens each channel's histogram by an integer look-up table [N*3, 256]."""
    pixels = images.flatten(2).flatten(0, 1).long()
    histogram = torch.zeros(len(pixels), 256, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(1, pixels, histogram.new_ones(1).expand_as(pixels))
    last_filled = histogram.gather(1, pixels.amax(1, keepdim=True))
    step = (pixels.shape[1] - last_filled) // 255
    below = histogram.cumsum(1, dtype=torch.int32) - histogram
    # Pillow clips its table to 255, and does not change a channel whose step is 0.
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    identity = torch.arange(256, dtype=torch.int32, device=images.device)
    table = torch.where(step > 0, table, identity).to(torch.uint8)
    return table.gather(1, pixels).view_as(images)


# (images, op, level, sign); level and sign may be None for an operation that ignores them.
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("shearX", "shearY"), _shear),
    **dict.fromkeys(("translateX", "translateY", "rotate"), _nearest),
    **dict.fromkeys(ENHANCEMENTS, _blend),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
}


def check_images(images: Tensor) -> None:
    """Raises ValueError unless `images` is a uint8 tensor [N, 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        found = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"images must be uint8 [N, 3, H, W], not {found}.")


def apply_operation(images: Tensor, op: str, level: int | None, sign: int | None) -> Tensor:
    """Returns the images after one AutoAugment operation, with the same bits as Pillow.

    Args:
        images: uint8 [N, 3, H, W], RGB, any memory format, any device.
        op: a key of `OPERATIONS`.
        level: magnitude level 0..9; ignored by autocontrast, equalize and invert.
        sign: direction, -1 or 1; ignored by the operations that are not in `SIGNED`.

    Returns:
        A new contiguous uint8 tensor [N, 3, H, W].

    Raises:
        ValueError: op, level or sign is unknown, or the images have another type or shape.

    Source: Cubuk et al. (CVPR 2019), with the magnitudes of the released DRO-LT code.
    """
    check_images(images)
    if op not in OPERATIONS:
        raise ValueError(f"op must be one of {', '.join(OPERATIONS)}, not {op!r}.")
    if op in MAGNITUDES and not (isinstance(level, int) and 0 <= level <= 9):
        raise ValueError(f"level must be an int from 0 to 9 for {op}, not {level!r}.")
    if op in SIGNED and sign not in (-1, 1):
        raise ValueError(f"sign must be -1 or 1 for {op}, not {sign!r}.")
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    chunk = chunk_length(images)
    for source, target in zip(images.split(chunk), result.split(chunk), strict=True):
        target.copy_(OPERATIONS[op](source.contiguous(), op, level, sign))
    return result


def chunk_length(images: Tensor) -> int:
    """Returns how many of the images [N, 3, H, W] to process at a time on their device."""
    values = CHUNK_VALUES.get(images.device.type, CHUNK_VALUES["cpu"])
    return max(1, values // max(1, images[0:1].numel()))
