"""All images of a list of files decoded into memory, and the result kept beside them."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.files.images import fit, read_pixels
from datasets.files.trees import FileList
from utils.errors import RunError
from utils.machine.cores import usable_cores

# Counts up whenever pixels are made of files in another way: then no earlier cache is used.
DECODING = 2


def cache_beside(place: Path, side: int) -> Path:
    """Where the decoded images of a tree, or of a table of files, are kept."""
    if place.is_dir():
        return place / f"decoded-{side}.npz"
    return place.with_name(f"{place.stem}.decoded-{side}.npz")


def decode(
    files: FileList,
    side: int,
    title: str,
    faults: list[str],
    prepare: Callable[..., Image.Image] = fit,
) -> np.ndarray:
    """All images, uint8 ``[N, side, side, 3]``; what is wrong with files is added to `faults`.

    Raises:
        RunError: they do not fit into memory.
    """
    try:
        images = np.zeros((len(files), side, side, 3), np.uint8)
    except MemoryError:
        raise RunError(
            f"{len(files)} images of {side}x{side} pixels need {3 * len(files) * side**2 / 1e9:.1f}"
            " GB of memory, which is not there: --stream True reads them from their files"
        ) from None
    read = partial(read_pixels, prepare=partial(prepare, side=side))
    with ThreadPoolExecutor(usable_cores()) as pool:
        decoded = pool.map(read, map(files.path, files.names))
        progress = tqdm(decoded, title, total=len(files), unit="image", disable=None)
        for i, pixels in enumerate(progress):
            if isinstance(pixels, str):
                faults.append(pixels)
            else:
                images[i] = pixels
    return images


def decode_once(
    splits: dict[str, FileList],
    side: int,
    title: str,
    cache: Path,
    faults: list[str],
    prepare: Callable[..., Image.Image] = fit,
) -> dict[str, np.ndarray]:
    """As `decode` for every split, from the cache if it is of these files and was decoded in the
    same way; the cache is made if nothing is wrong."""
    digest = _digest(splits)
    shapes = {name: (len(files), side, side, 3) for name, files in splits.items()}
    images = None if digest is None else _read_cache(cache, digest, shapes)
    if images is None:
        images = {
            name: decode(files, side, f"{title} {name}", faults, prepare)
            for name, files in splits.items()
        }
        if not faults and digest is not None:
            _write_cache(cache, digest, images)
    return images


def _digest(splits: dict[str, FileList]) -> str | None:
    """What tells these files and this way of decoding them from others; None where a file is
    missing."""
    try:
        return " ".join([f"{DECODING}", *(files.digest() for files in splits.values())])
    except OSError:
        return None


def _read_cache(
    path: Path, digest: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """The decoded images, or None where they are missing, damaged or of other files."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["listing"]) != digest:
                return None
            images = {name: arrays[name] for name in shapes}
    except Exception:  # whatever is wrong with the cache, the files are the truth
        return None
    is_right = all(images[n].shape == s and images[n].dtype == np.uint8 for n, s in shapes.items())
    return images if is_right else None


def _write_cache(path: Path, digest: str, images: dict[str, np.ndarray]) -> None:
    """Saves the decoded images where the folder is writable: a convenience, never an error."""
    with suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                # NumPy's hints take the ** for allow_pickle too.
                np.savez(file, listing=np.array(digest), **images)  # pyright: ignore[reportArgumentType]
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
