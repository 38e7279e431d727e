"""Small images, as arrays and as files, and options by their flags."""

import numpy as np
from PIL import Image

from utils.options.parse import parse_options


def options(*flags):
    return parse_options([str(flag) for flag in flags])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(split):
    """Returns the images of a split as uint8 [N, H, W, 3]."""
    return split.images.permute(0, 2, 3, 1).numpy()


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_images(folder, number, side=8):
    for i in range(number):
        save(folder / f"{i:04}.png", noise(side, side, 3, seed=i))
    return folder
