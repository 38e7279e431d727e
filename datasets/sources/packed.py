"""One long-tailed set in one file: its training, test and held-out images. It is for machines to
which a whole data set cannot be copied.

64 images of a split at a time are stacked into one tall picture and saved as lossless WebP, which
takes about half of their raw size. Reading gives the same bits back.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.origin import LEFT_OUT, OWN_TEST_SET
from datasets.splits import LongTailedData, Split
from utils.errors import UserError, is_out_of_memory
from utils.files import atomic_write
from utils.options.flags import Options

STACKED = 64
SUBSET_FLAGS = ("dataset", "imb_type", "imb_factor", "rand_number")


def packed_name(options: Options) -> str:
    """Returns the name of the file for these options, such as `cifar100_exp_0.01_0.npz`."""
    return "_".join(str(getattr(options, flag)) for flag in SUBSET_FLAGS) + ".npz"


def write_packed(data: LongTailedData, options: Options, path: Path) -> None:
    """Writes the data, whose subset `options` chose, into the file `path`.

    Raises:
        OSError: the file cannot be written.
    """
    splits = {"train": data.train, "test": data.test, "heldout": data.heldout}
    arrays = {flag: np.array(getattr(options, flag)) for flag in SUBSET_FLAGS}
    arrays["class_names"] = np.array(data.class_names)
    for name, split in splits.items():
        if split is not None:
            arrays |= {f"{name}_{field}": array for field, array in _encode(split).items()}
    with atomic_write(path) as file:
        # By NumPy's type hints, ** could also be allow_pickle.
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def load_packed(options: Options) -> LongTailedData | None:
    """Returns the packed set in `--data_root` that the options name, or None if there is none.

    Raises:
        UserError: the file is damaged or holds another subset than its name says, or
            `--heldout_fraction` is given.
    """
    path = Path(options.data_root, packed_name(options))
    if not path.is_file():
        return None
    if options.heldout_fraction > 0:
        raise UserError(
            f"--heldout_fraction {options.heldout_fraction}: {path} has held-out images of its "
            "own; leave the flag out"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for flag in SUBSET_FLAGS:
            packed, asked = arrays[flag].item(), getattr(options, flag)
            if packed != asked:
                raise UserError(f"{path} was packed with --{flag} {packed}, not {asked}")
        splits: dict[str, Any] = {
            name: _decode(arrays, name) for name in ("train", "test", "heldout")
        }
        class_names = [str(name) for name in arrays["class_names"]]
        origin = OWN_TEST_SET if splits["heldout"] is None else LEFT_OUT
        return LongTailedData(
            name=options.dataset, class_names=class_names, origin=origin, **splits
        )
    except UserError:
        raise
    except Exception as error:  # whatever the bytes made of the readers
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: not a readable packed set ({error!r})") from error


def other_packs(options: Options) -> list[str]:
    """Returns the names of files in `--data_root` that hold other subsets of the data set."""
    return sorted(path.name for path in Path(options.data_root).glob(f"{options.dataset}_*_*.npz"))


def _encode(split: Split) -> dict[str, np.ndarray]:
    images = split.images.permute(0, 2, 3, 1).numpy()
    _, height, width, channels = images.shape
    stacks = [
        images[i : i + STACKED].reshape(-1, width, channels) for i in range(0, len(images), STACKED)
    ]
    with ThreadPoolExecutor() as pool:
        encoded = list(pool.map(_to_webp, stacks))
    return {
        "bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "lengths": np.array([len(stack) for stack in encoded]),
        "height": np.array(height),
        "labels": split.labels.numpy(),
    }


def _to_webp(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


def _decode(arrays: dict[str, np.ndarray], name: str) -> Split | None:
    if f"{name}_labels" not in arrays:
        return None
    content, ends = arrays[f"{name}_bytes"].tobytes(), np.cumsum(arrays[f"{name}_lengths"])
    height = int(arrays[f"{name}_height"])
    pieces = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    with ThreadPoolExecutor() as pool:
        stacks = list(pool.map(_from_webp, pieces))
    images = np.concatenate([s.reshape(-1, height, *s.shape[1:]) for s in stacks])
    return Split.from_arrays(images, arrays[f"{name}_labels"])


def _from_webp(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
        return np.asarray(image.convert("RGB"))
