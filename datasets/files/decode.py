"""Decodes all images of a list of files into memory, and keeps the result in a cache file."""

import glob
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.files.images import fit, pixels_or_fault, read_pixels
from datasets.files.trees import FileList
from utils.errors import RunError, warn
from utils.files import atomic_write
from utils.machine.cores import usable_cores

# Raise it whenever files are decoded in another way, so that earlier caches are not used.
DECODING = 3

LONGEST_PAUSE = 600
"""Seconds without growth after which a part of a cache counts as that of a killed process."""


def cache_beside(place: Path, side: int) -> Path:
    """Returns the path of the cache: in the folder of a tree, or beside a table of files."""
    if place.is_dir():
        return place / f"decoded-{side}.npz"
    return place.with_name(f"{place.stem}.decoded-{side}.npz")


def _decode(
    files: FileList,
    side: int,
    title: str,
    faults: list[str],
    prepare: Callable[..., Image.Image],
    goes_on: bool,
) -> np.ndarray:
    """Returns the images of one split, as `decode_once` does."""
    try:
        images = np.zeros((len(files), side, side, 3), np.uint8)
    except MemoryError:
        raise RunError(
            f"{len(files)} images of {side}x{side} pixels need {3 * len(files) * side**2 / 1e9:.1f}"
            " GB of memory, which is not there: --stream True reads them from their files"
        ) from None
    read_one = pixels_or_fault if goes_on else read_pixels
    read = partial(read_one, prepare=partial(prepare, side=side))
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
    cache: Path | None,
    faults: list[str],
    prepare: Callable[..., Image.Image] = fit,
    goes_on: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the images of each split, uint8 ``[N, side, side, 3]``. An unreadable image is black.

    They are read from the cache if it was made of these files in the same way. Otherwise it is
    written, unless a file has a fault.

    Args:
        splits: the images of each split.
        side: width and height of the result in pixels.
        title: of the progress bar.
        cache: path of the cache file; None for no cache.
        faults: a message is added for each unreadable file.
        prepare: makes an RGB image side × side pixels large, as ``prepare(image, side=side)``.
        goes_on: True if a file that memory runs out for is a fault and no error.

    Raises:
        RunError: the images do not fit into memory.
    """
    digest = _digest(splits) if cache else None
    shapes = {name: (len(files), side, side, 3) for name, files in splits.items()}
    images = _read_cache(cache, digest, shapes) if cache and digest else None
    if images is None:
        images = {
            name: _decode(files, side, f"{title} {name}", faults, prepare, goes_on)
            for name, files in splits.items()
        }
        if cache and digest and not faults:
            _write_cache(cache, digest, images)
    return images


def _digest(splits: dict[str, FileList]) -> str | None:
    """Returns a digest of the files and of the way of decoding; None if a file is missing."""
    try:
        return " ".join([f"{DECODING}", *(files.digest() for files in splits.values())])
    except OSError:
        return None


def _read_cache(
    path: Path, digest: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """Returns the cached images, or None if the cache is missing, damaged or of other files."""
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
    """Saves the decoded images, or warns that they cannot be saved, as in a read-only folder. It
    deletes what killed processes have left of this cache, which can be gigabytes for each."""
    try:
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with suppress(OSError):  # it is another user's, or another process deletes it too
                if time.time() - part.stat().st_mtime > LONGEST_PAUSE:
                    part.unlink()
        with atomic_write(path) as file:
            # By NumPy's type hints, ** could also be allow_pickle.
            np.savez(file, listing=np.array(digest), **images)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        warn(
            f"{path} cannot be written ({error.strerror}), so every run decodes the images again "
            "(docs/data.md, Cache)"
        )
