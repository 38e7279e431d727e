"""A user's own images in an npz file with the keys of MedMNIST (Yang et al., "MedMNIST v2 - A
large-scale lightweight benchmark", Scientific Data 2023)."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.files.images import SHOWN_FAULTS, fit
from datasets.origin import Origin
from datasets.sources.own_splits import check_class_count, roles_of
from datasets.splits import BalancedData, Split
from utils.errors import UserError, is_out_of_memory
from utils.options.flags import Options
from utils.options.values import MAX_SIDE, MIN_SIDE
from utils.text import listed, shown

SPLITS = ("train", "val", "test")
SHOWN_CLASSES = 5  # classes without training images that a message names


def load_npz(options: Options, recorded: Mapping) -> BalancedData:
    """Returns the images of the npz file at `--data_root`.

    - `{train,test,val}_images`: uint8 ``[N, S, S]`` or ``[N, S, S, 1]`` (grey, repeated to three
      channels) or ``[N, S, S, 3]``, with a side S from 8 to 1024 pixels;
    - `{train,test,val}_labels`: integers ``[N]`` or ``[N, 1]``.

    `val_*` are the held-out images; if there is no `test_*`, they are the test set.

    Raises:
        UserError: the file is missing or damaged, an array is missing or has another type or shape,
            the splits have images of several sizes and no size is given or recorded, there is one
            class, a class has no training images, or `--test_fraction` is given.
    """
    path = Path(options.data_root)
    arrays, names = _read(path)
    splits = [split for split in SPLITS if any(name.startswith(split) for name in arrays)]
    faults = [] if "train" in splits else ["no train_images"]
    if not {"test", "val"} & set(splits):
        faults.append("neither test_images nor val_images")
    if faults or len(arrays) < 2 * len(splits):
        faults.insert(0, _held(names))
    for split in splits:
        faults += _faults(split, arrays.get(f"{split}_images"), arrays.get(f"{split}_labels"))
    if not faults:
        faults = _label_faults({split: _labels(arrays, split) for split in splits})
    if not faults and options.image_side is None:
        sides = [arrays[f"{split}_images"].shape[1] for split in splits]
        if len(set(sides)) > 1:
            faults = [f"{', '.join(splits)} have images of the sides {sides}: give --image_size"]
    if faults:
        raise UserError(f"--data_root {path}: {listed(faults, SHOWN_FAULTS, '; ')}")
    classes = [str(label) for label in range(int(_labels(arrays, "train").max()) + 1)]
    check_class_count(classes, options)
    roles = roles_of({split: f"{split}_images" for split in splits}, options, recorded)
    own_side = arrays["train_images"].shape[1]
    side = options.image_side or own_side
    loaded = {
        role: Split.from_arrays(_resized(arrays[f"{split}_images"], side), _labels(arrays, split))
        for split, role in roles.items()
    }
    named = {role: f"{split}_images" for split, role in roles.items()}
    others = [name for name in names if name not in arrays]
    ignored = (f"other arrays ({listed(others)})",) if others else ()
    origin = Origin(named["test"], named.get("heldout"), ignored, are_whole=side == own_side)
    return BalancedData(loaded["train"], loaded["test"], classes, loaded.get("heldout"), origin)


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays with MedMNIST's names, and the names of all arrays."""
    if (other := _other_kind(path)) is not None:
        raise UserError(f"--data_root {shown(path)}: {other}, not an npz file of several arrays")
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {n: _array(arrays, n) for n in wanted if n in arrays.files}, sorted(arrays.files)
    except Exception as error:  # whatever the bytes made of the reader
        if is_out_of_memory(error):
            raise
        raise UserError(f"--data_root {path}: not a readable npz file ({error})") from error


def _array(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """Returns one array of an npz file.

    Raises:
        ValueError: it has Python objects in it, or is no array.
    """
    try:
        found = arrays[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        # NumPy's message is about pickles, which could run any code.
        raise ValueError(
            f"{name} are Python objects: save images as uint8 of one size, labels as whole numbers"
        ) from None
    if not isinstance(found, np.ndarray):  # NumPy gives the bytes of other files
        raise ValueError(f"{name} is not an array")
    return found


def _other_kind(path: Path) -> str | None:
    """Returns what the file is, judged by its first bytes; None if it may be an npz file."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"--data_root {shown(path)}: {error.strerror}") from None
    if start.startswith(b"PK"):
        return None
    kinds = {b"\x93NUMPY": "one array (npy)", b"\x80": "a pickle", b"\x89HDF": "an HDF5 file"}
    for beginning, kind in kinds.items():
        if start.startswith(beginning):
            return kind
    if not start:
        return "an empty file"
    if start.lstrip().startswith(b"<"):
        return "a web page or another text with tags (was the download refused?)"
    is_text = all(byte in b"\t\n\r" or byte >= 32 for byte in start)
    return f"a text that begins with {start[:40].decode('latin-1')!r}" if is_text else "other bytes"


def _held(names: list[str]) -> str:
    """Returns which arrays the file holds, and how to rename them if they have Keras' names."""
    told = f"the file holds {listed(names)}"
    if {"x_train", "y_train"} <= set(names):
        told += (
            " (Keras' names: save x_train as train_images, y_train as train_labels, x_test as "
            "test_images, y_test as test_labels)"
        )
    return told


def _labels(arrays: dict[str, np.ndarray], split: str) -> np.ndarray:
    return arrays[f"{split}_labels"].reshape(-1).astype(np.int64)


def _faults(split: str, images: np.ndarray | None, labels: np.ndarray | None) -> list[str]:
    """Returns what is wrong with the arrays of one split."""
    if images is None or labels is None:
        missing = [kind for kind, a in (("images", images), ("labels", labels)) if a is None]
        return [f"no {split}_{kind}" for kind in missing]
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    is_square = is_image and images.shape[1] == images.shape[2] in range(MIN_SIDE, MAX_SIDE + 1)
    if images.dtype != np.uint8 or not is_square:
        scaled = " (multiply values from 0 to 1 by 255 first)" if images.dtype.kind == "f" else ""
        return [
            f"{split}_images are {images.dtype} {list(images.shape)}, not uint8{scaled} [N, S, S], "
            f"[N, S, S, 1] or [N, S, S, 3] with a side S from {MIN_SIDE} to {MAX_SIDE}"
        ]
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        return [
            f"{split}_labels are {labels.dtype} {list(labels.shape)}, not one whole number for "
            f"each of {len(images)} images"
        ]
    return [] if len(images) else [f"{split}_images has no images"]


def _label_faults(labels: dict[str, np.ndarray]) -> list[str]:
    """Returns a message for negative labels and for classes without training images."""
    lowest = {split: found.min() for split, found in labels.items()}
    faults = [f"{split}_labels go down to {low}" for split, low in lowest.items() if low < 0]
    trained = set(labels["train"].tolist())
    for split, found in labels.items():
        expected = range(max(trained) + 1) if split == "train" else np.unique(found).tolist()
        lacking = list(islice((k for k in expected if k not in trained), SHOWN_CLASSES))
        if lacking:
            faults.append(
                f"no training images of the classes {lacking} of {split}_labels (labels count from "
                "0, without gaps)"
            )
    return faults


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    """Returns the images as uint8 ``[N, side, side, 3]``."""
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] == 1:
        images = images.repeat(3, axis=3)
    if images.shape[1] == side:
        return images
    return np.stack([np.asarray(fit(Image.fromarray(image), side)) for image in images])
