"""The augmentation of the plain loop. As in the released code, Pillow and NumPy augment images one
by one."""

import random

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision import transforms

from datasets.loading.augmentation import CUTOUT_SIDE, PADDING
from datasets.loading.autoaugment import POLICIES
from datasets.loading.operations import GREY, MAGNITUDES

_FILL = (GREY,) * 3


def _affine(image: Image.Image, coefficients: tuple, resample: int) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=_FILL
    )


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    rotated = image.convert("RGBA").rotate(degrees)
    grey = Image.new("RGBA", rotated.size, (GREY,) * 4)
    return Image.composite(rotated, grey, rotated).convert("RGB")


def _translate(image: Image.Image, x: float, y: float) -> Image.Image:
    coefficients = (1, 0, x * image.width, 0, 1, y * image.height)
    return _affine(image, coefficients, Image.Resampling.NEAREST)


# By name: from an image and a magnitude, which has a sign if the operation has one, to an image.
_OPERATIONS = {
    "shearX": lambda i, m: _affine(i, (1, m, 0, 0, 1, 0), Image.Resampling.BICUBIC),
    "shearY": lambda i, m: _affine(i, (1, 0, 0, m, 1, 0), Image.Resampling.BICUBIC),
    "translateX": lambda i, m: _translate(i, m, 0),
    "translateY": lambda i, m: _translate(i, 0, m),
    "rotate": _rotate,
    "color": lambda i, m: ImageEnhance.Color(i).enhance(1 + m),
    "contrast": lambda i, m: ImageEnhance.Contrast(i).enhance(1 + m),
    "sharpness": lambda i, m: ImageEnhance.Sharpness(i).enhance(1 + m),
    "brightness": lambda i, m: ImageEnhance.Brightness(i).enhance(1 + m),
    "posterize": ImageOps.posterize,
    "solarize": ImageOps.solarize,
    "autocontrast": lambda i, m: ImageOps.autocontrast(i),
    "equalize": lambda i, m: ImageOps.equalize(i),
    "invert": lambda i, m: ImageOps.invert(i),
}
_UNSIGNED = {"rotate", "posterize", "solarize"}


def apply_operation(image: Image.Image, op: str, level: int | None, sign: int) -> Image.Image:
    """Returns an RGB image after one operation of AutoAugment. Level and sign are those of
    `datasets.autoaugment`; an operation without them ignores them."""
    magnitude = MAGNITUDES[op][level] if op in MAGNITUDES else 0
    return _OPERATIONS[op](image, magnitude if op in _UNSIGNED else magnitude * sign)


class PillowAutoAugment:
    """AutoAugment's CIFAR-10 policy. It draws a sub-policy uniformly for each image, and applies
    each of the two operations with its probability."""

    def __call__(self, image: Image.Image) -> Image.Image:
        for op, probability, level in random.choice(POLICIES):
            if random.random() < probability:
                image = apply_operation(image, op, level, random.choice((-1, 1)))
        return image


class ArrayCutout:
    """Sets a random square of an image ``[C, H, W]`` to zero, with a NumPy mask."""

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        y, x = np.random.randint(height), np.random.randint(width)
        half = CUTOUT_SIDE // 2
        mask = np.ones((height, width), np.float32)
        mask[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image * torch.from_numpy(mask).expand_as(image)


def make_transform(augment: str, mean: tuple[float, ...], std: tuple[float, ...]):
    """Returns the transform from a Pillow image to a normalised tensor, by the name that
    `--augment` takes."""
    crop_flip = [transforms.RandomCrop(32, padding=PADDING), transforms.RandomHorizontalFlip()]
    before, after = {
        "none": ([], []),
        "crop_flip": (crop_flip, []),
        "autoaugment": ([*crop_flip, PillowAutoAugment()], [ArrayCutout()]),
    }[augment]
    steps = [*before, transforms.ToTensor(), *after, transforms.Normalize(mean, std)]
    return transforms.Compose(steps)
