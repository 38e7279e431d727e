"""One's own images in an npz file, with the keys of MedMNIST (Yang et al., "MedMNIST v2 - A
large-scale lightweight benchmark", Scientific Data 2023)."""

from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.files.images import fit, listed
from datasets.splits import BalancedData, Split
from utils.errors import UserError
from utils.options.flags import Options

SPLITS = ("train", "val", "test")
SIDES = (8, 1025)
SHOWN = 5  # of the classes that training lacks


def load_archive(options: Options) -> BalancedData:
    """`{train,test,val}_images`, uint8 ``[N, S, S]`` (grey, repeated to three channels) or
    ``[N, S, S, 3]``, and `{train,test,val}_labels`, integers ``[N]`` or ``[N, 1]``. `val_*` are the
    held-out images, or the test set where there is no `test_*`.

    Raises:
        UserError: the file is missing or damaged, or what is in it is something else.
    """
    path = Path(options.data_root)
    arrays = _read(path)
    splits = [split for split in SPLITS if any(name.startswith(split) for name in arrays)]
    faults = [] if "train" in splits else ["no train_images"]
    if not {"test", "val"} & set(splits):
        faults.append("neither test_images nor val_images")
    for split in splits:
        faults += _faults(split, arrays.get(f"{split}_images"), arrays.get(f"{split}_labels"))
    if not faults:
        faults = _label_faults({split: _labels(arrays, split) for split in splits})
    if faults:
        raise UserError(f"--data_root {path}: {listed(faults)}")
    side = options.image_side or arrays["train_images"].shape[1]
    loaded = {
        split: Split.from_arrays(_resized(arrays[f"{split}_images"], side), _labels(arrays, split))
        for split in splits
    }
    classes = [str(label) for label in range(int(loaded["train"].labels.max()) + 1)]
    test = loaded.pop("test" if "test" in loaded else "val")
    return BalancedData(loaded["train"], test, classes, loaded.get("val"))


def _read(path: Path) -> dict[str, np.ndarray]:
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in wanted if name in arrays.files}
    except FileNotFoundError:
        raise UserError(
            f"--data_root {path}: no such file; --dataset npz needs an npz file"
        ) from None
    except Exception as error:  # whatever the bytes made of the reader
        raise UserError(f"--data_root {path}: not a readable npz file ({error})") from error


def _labels(arrays: dict[str, np.ndarray], split: str) -> np.ndarray:
    return arrays[f"{split}_labels"].reshape(-1).astype(np.int64)


def _faults(split: str, images: np.ndarray | None, labels: np.ndarray | None) -> list[str]:
    """What is wrong with the arrays of a split, each by itself."""
    missing = [kind for kind, a in (("images", images), ("labels", labels)) if a is None]
    if missing:
        return [f"no {split}_{kind}" for kind in missing]
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    is_square = is_image and images.shape[1] == images.shape[2] in range(*SIDES)
    if images.dtype != np.uint8 or not is_square:
        return [
            f"{split}_images are {images.dtype} {list(images.shape)}, not uint8 [N, S, S] or "
            f"[N, S, S, 3] with a side S from {SIDES[0]} to {SIDES[1] - 1}"
        ]
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        return [
            f"{split}_labels are {labels.dtype} {list(labels.shape)}, not one whole number for "
            f"each of {len(images)} images"
        ]
    return [] if len(images) else [f"{split}_images are none"]


def _label_faults(labels: dict[str, np.ndarray]) -> list[str]:
    """Negative labels, and classes of which there is no training image."""
    lowest = {split: found.min() for split, found in labels.items()}
    faults = [f"{split}_labels go down to {low}" for split, low in lowest.items() if low < 0]
    trained = set(labels["train"].tolist())
    for split, found in labels.items():
        expected = range(max(trained) + 1) if split == "train" else np.unique(found).tolist()
        lacking = list(islice((label for label in expected if label not in trained), SHOWN))
        if lacking:
            faults.append(f"no training images of the classes {lacking} of {split}_labels")
    return faults


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 ``[N, side, side, 3]``."""
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] == 1:
        images = images.repeat(3, axis=3)
    if images.shape[1] == side:
        return images
    return np.stack([np.asarray(fit(Image.fromarray(image), side)) for image in images])
