"""Image files: finding them in trees, decoding them all into memory, and keeping the result."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import functional
from tqdm import tqdm

from utils.errors import UserError
from utils.machine.cores import usable_cores

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)

# From this side on images are treated as ImageNet's are, below it as CIFAR's.
LARGE_SIDE = 64
SHOWN_FAULTS = 3


def listed(faults: Sequence[str]) -> str:
    """The first few faults, and how many more there are."""
    more = len(faults) - SHOWN_FAULTS
    return "; ".join(faults[:SHOWN_FAULTS]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class FileList:
    """Image files by name, relative to their root, and the labels of these images."""

    root: Path
    names: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def digest(self) -> str:
        """SHA-256 of the names, sizes and times of the files."""
        digest = hashlib.sha256()
        for name in self.names:
            status = os.stat(self.path(name))
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in it, sorted; hidden ones are none.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    entries = os.scandir(folder)
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def list_tree(folder: Path, classes: Sequence[str], suffixes: tuple[str, ...]) -> FileList:
    """The image files ``folder/<class>/<file>``, by class and then by name, both in order; a class
    without a folder has none."""
    names, labels = [], []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        files = sorted(entry.name for entry in os.scandir(folder / name))
        found = [f for f in files if f.lower().endswith(suffixes) and not f.startswith(".")]
        names += [f"{name}/{file}" for file in found]
        labels += [label] * len(found)
    return FileList(folder, names, labels)


def to_rgb(image: Image.Image) -> Image.Image:
    """In three channels of 8 bits: grey is repeated, of 16 bits the upper 8 are taken, and
    transparency is ignored.

    Raises:
        ValueError: 32-bit grey, which has no known range.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit grey has no known range: save it with 8 or 16 bits")
    return image.convert("RGB")


def fit(image: Image.Image, side: int) -> Image.Image:
    """The centre of the image as side × side pixels; an image of that size is taken as it is.

    The shorter side is first resized (bilinear, antialiased) to `side`, or, from 64 pixels on, to
    256/224 of it, as ImageNet's test images are.
    """
    if image.size == (side, side):
        return image
    shorter = round(side * 256 / 224) if side >= LARGE_SIDE else side
    return functional.center_crop(functional.resize(image, shorter), [side, side])


def exactly(image: Image.Image, side: int) -> Image.Image:
    """The image as it is.

    Raises:
        ValueError: it has another size.
    """
    if image.size != (side, side):
        raise ValueError(f"{image.width}x{image.height} pixels instead of {side}x{side}")
    return image


def read_pixels(path: str, prepare: Callable[[Image.Image], Image.Image]) -> np.ndarray | str:
    """The prepared image, uint8 ``[H, W, 3]``, or what is wrong with the file."""
    try:
        with Image.open(path) as image:
            return np.asarray(prepare(to_rgb(image)))
    except Exception as error:  # whatever the bytes made of the reader
        return f"{path}: {error or type(error).__name__}"


def decode(
    files: FileList,
    side: int,
    title: str,
    faults: list[str],
    prepare: Callable[[Image.Image, int], Image.Image] = fit,
) -> np.ndarray:
    """All images, uint8 ``[N, side, side, 3]``; what is wrong with files is added to `faults`."""
    images = np.zeros((len(files), side, side, 3), np.uint8)
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
    prepare: Callable[[Image.Image, int], Image.Image] = fit,
) -> dict[str, np.ndarray]:
    """As `decode` for every split, from the cache if it is of these files; it is made if nothing
    is wrong."""
    digest = " ".join(files.digest() for files in splits.values())
    shapes = {name: (len(files), side, side, 3) for name, files in splits.items()}
    images = _read_cache(cache, digest, shapes)
    if images is None:
        images = {
            name: decode(files, side, f"{title} {name}", faults, prepare)
            for name, files in splits.items()
        }
        if not faults:
            _write_cache(cache, digest, images)
    return images


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
                np.savez(file, listing=np.array(digest), **images)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
