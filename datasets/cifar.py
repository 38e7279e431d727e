"""CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
2009), from the official archives (through torchvision) or from trees of PNG files."""

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.splits import BalancedData, Split
from utils.errors import UserError

NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
HELDOUT_IMAGES_PER_CLASS = 20
CONNECT_SECONDS = 10
SIDE = 32


def load_cifar(name: str, root: Path) -> BalancedData:
    """`cifar10` or `cifar100` below `root`: the official archive if it is there, else a PNG tree
    ``root/name/{train,test}/<class>/*.png``, else the official archive by download.

    Raises:
        UserError: the files are missing and cannot be downloaded, or are damaged.
    """
    source = _torchvision_source(name)
    unpacked, archive = root / source.base_folder, root / source.filename
    tree = root / name
    if (tree / "train").is_dir() and not (unpacked.is_dir() or archive.is_file()):
        return _load_tree(name, tree)
    return _load_official(name, root)


def _torchvision_source(name: str):
    import torchvision  # half a second to import, so only where needed

    return {
        "cifar10": torchvision.datasets.CIFAR10,
        "cifar100": torchvision.datasets.CIFAR100,
    }[name]


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_official(name: str, root: Path) -> BalancedData:
    source = _torchvision_source(name)
    new_folders = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        with _connect_timeout(CONNECT_SECONDS):
            train = source(str(root), train=True, download=True)
            test = source(str(root), train=False, download=True)
    except Exception as error:  # torchvision lets urllib's, tarfile's and its own through
        with suppress(OSError):
            for folder in new_folders:
                folder.rmdir()
        raise UserError(
            f"--dataset {name}: not found under {root} and the download failed ({error}); put "
            f"{source.filename} (md5 {source.tgz_md5}) from {source.url} into {root}, or PNG "
            f"files into {root / name}/{{train,test}}/<class>/"
        ) from error
    return BalancedData(
        train=Split.from_arrays(train.data, np.asarray(train.targets)),
        test=Split.from_arrays(test.data, np.asarray(test.targets)),
        class_names=list(train.classes),
    )


@dataclass(frozen=True)
class _Listing:
    """The PNG files of a split, by class and then by name, both sorted."""

    classes: list[str]
    files: list[Path]
    labels: list[int]
    digest: str


def _list_split(folder: Path) -> _Listing:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    files, labels = [], []
    digest = hashlib.sha256()
    for label, name in enumerate(classes):
        entries = sorted(os.scandir(folder / name), key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.lower().endswith(".png"):
                status = entry.stat()
                digest.update(
                    f"{name}/{entry.name} {status.st_size} {status.st_mtime_ns}\n".encode()
                )
                files.append(Path(entry.path))
                labels.append(label)
    return _Listing(classes, files, labels, digest.hexdigest())


def _read_png(path: Path) -> np.ndarray | str:
    """The image, uint8 ``[32, 32, 3]``, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{path}: {error}"
    if pixels.shape != (SIDE, SIDE, 3):
        return f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels instead of {SIDE}x{SIDE}"
    return pixels


def _decode(listing: _Listing, title: str) -> np.ndarray:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(_read_png, listing.files, chunksize=64)
        images = list(tqdm(decoded, title, total=len(listing.files), unit="image", disable=None))
    faults = [image for image in images if isinstance(image, str)]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"unreadable images: {'; '.join(faults[:3])}{more}")
    return np.stack(images)


def _load_tree(name: str, tree: Path) -> BalancedData:
    listings = {split: _list_split(tree / split) for split in ("train", "test")}
    classes = listings["train"].classes
    if len(classes) != NUM_CLASSES[name]:
        raise UserError(
            f"--dataset {name} needs {NUM_CLASSES[name]} class folders in {tree / 'train'}, "
            f"which has {len(classes)}"
        )
    if listings["test"].classes != classes:
        unpaired = sorted(set(classes) ^ set(listings["test"].classes))
        raise UserError(f"classes in only one of train and test of {tree}: {', '.join(unpaired)}")
    for split, listing in listings.items():
        empty = sorted(set(range(len(classes))) - set(listing.labels))
        if empty:
            names = ", ".join(classes[label] for label in empty)
            raise UserError(f"no PNG files of {names} in {tree / split}")
    digest = " ".join(listing.digest for listing in listings.values())
    cache = tree / "decoded.npz"
    images = _read_cache(cache, digest)
    if images is None:
        images = {
            split: _decode(listing, f"decoding {name} {split}")
            for split, listing in listings.items()
        }
        _write_cache(cache, digest, images)
    splits = {
        split: Split.from_arrays(images[split], np.asarray(listing.labels))
        for split, listing in listings.items()
    }
    return BalancedData(splits["train"], splits["test"], classes)


def _read_cache(path: Path, digest: str) -> dict[str, np.ndarray] | None:
    """The decoded images, or None where they are missing, damaged or of other files."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["listing"]) != digest:
                return None
            return {split: arrays[split] for split in ("train", "test")}
    except Exception:  # whatever is wrong with the cache, the PNG files are the truth
        return None


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
