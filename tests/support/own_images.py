"""Small data sets like a user's own, as a tree and in an npz file."""

import numpy as np
import pytest

from datasets import load_data
from tests.support.pictures import noise, options, save
from utils.errors import UserError

CLASSES = ("ant", "bee", "cat")


def write_folder(root, counts=(6, 3, 2), splits=("train", "test"), side=32):
    """Writes a tree of noise with these numbers of training images, and two images of each class in
    the other splits."""
    for seed, split in enumerate(splits):
        for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            for i in range(count if split == "train" else 2):
                pixels = noise(side, side, 3, seed=1000 * seed + 100 * label + i)
                save(root / split / name / f"{i:02}.png", pixels)
    return root


def folder_data(root, *flags):
    return load_data(options("--dataset", "folder", "--data_root", root, *flags))


def refused(root, *flags):
    """Returns the message with which a tree is refused."""
    with pytest.raises(UserError) as raised:
        folder_data(root, *flags)
    return str(raised.value)


def write_npz(path, counts=(6, 4, 3), side=28, colour=False, flat_labels=False, **changes):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    labels = np.random.default_rng(0).permutation(labels)
    arrays = {}
    for seed, split in enumerate(("train", "val", "test")):
        found = labels if split == "train" else labels[:5]
        shape = (len(found), side, side, 3) if colour else (len(found), side, side)
        centre = 60 + 60 * found.reshape(-1, *[1] * (len(shape) - 1))
        arrays[f"{split}_images"] = (centre + noise(*shape, seed=seed) // 8).astype(np.uint8)
        arrays[f"{split}_labels"] = found if flat_labels else found[:, None]
    arrays |= changes
    np.savez_compressed(path, **{name: a for name, a in arrays.items() if a is not None})
    return arrays


def npz_data(path, *flags):
    return load_data(options("--dataset", "npz", "--data_root", path, *flags))
