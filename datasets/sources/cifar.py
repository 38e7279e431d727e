"""CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
2009), from the official archives (through torchvision) or from trees of PNG files."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files.decode import cache_beside, decode_once
from datasets.files.images import SHOWN_FAULTS, exactly
from datasets.files.trees import class_folders, list_pngs
from datasets.splits import BalancedData, Split
from utils.errors import UserError, is_out_of_memory
from utils.text import listed

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
OFFICIAL = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "batches.meta"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz", "meta"),
}
"""Folder, archive, and a file that is only in the folder, by torchvision's names for them."""
CONNECT_SECONDS = 10
LOCK = ".download.lock"
SIDE = 32


def load_cifar(name: str, root: Path) -> BalancedData:
    """Returns `cifar10` or `cifar100` below `root`, uint8 ``[N, 3, 32, 32]``.

    It is read from the official archive, or from its content, if that is there, else from a PNG
    tree ``root/name/{train,test}/<class>/*.png``. If neither is there, the archive is downloaded.

    Raises:
        UserError: the files are missing and cannot be downloaded, or they are damaged.
    """
    if _has_tree(name, root) and not _has_official(name, root):
        return _load_tree(name, root / name)
    return _load_official(name, root)


def is_here(name: str, root: Path) -> bool:
    """Returns True if the data set is below `root`, so that `load_cifar` need not download it."""
    return _has_tree(name, root) or _has_official(name, root)


def _has_tree(name: str, root: Path) -> bool:
    return (root / name / "train").is_dir()


def _has_official(name: str, root: Path) -> bool:
    unpacked, archive, content = (root / official for official in OFFICIAL[name])
    return unpacked.is_dir() or archive.is_file() or content.is_file()


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Inside, no other process downloads into the folder or unpacks there, if it can be written and
    its file system has locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            _lock(root / LOCK, stack)
        yield


def _lock(path: Path, stack: ExitStack) -> None:
    """Waits for the lock of a file. The stack keeps it until it ends, and then removes the file.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    while fcntl is not None:
        file = stack.enter_context(path.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        # Who had the lock has removed the file; a later job may have made another.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                stack.callback(path.unlink, missing_ok=True)
                return


def official_sets(name: str, root: Path) -> dict[str, Any]:
    """Returns torchvision's data sets `train` and `test`, whose unpacked files are in a folder of
    `root` or in `root` itself. They are downloaded or unpacked if they are missing, by one process
    at a time, and checked by md5.

    Raises:
        UserError: they are missing and cannot be downloaded or unpacked, or they are damaged.
    """
    # Two seconds to import, so only where needed.
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity

    def sets(source: Any, download: bool = False) -> dict[str, Any]:
        return {
            split: source(str(root), train=split == "train", download=download)
            for split in ("train", "test")
        }

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    in_root_itself = type(source.__name__, (source,), {"base_folder": ""})
    archive = root / source.filename
    new_folders = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        for unpacked in (source, in_root_itself):
            with suppress(RuntimeError):  # a file is missing or damaged
                return sets(unpacked)
        with _alone(root), _connect_timeout(CONNECT_SECONDS):
            was_there = archive.exists()
            try:
                return sets(source, download=True)
            except BaseException:  # an interrupt too
                if not was_there and not check_integrity(archive, source.tgz_md5):
                    archive.unlink(missing_ok=True)  # torchvision leaves what it has received
                raise
    except Exception as error:  # torchvision passes on urllib's and tarfile's errors too
        with suppress(OSError):
            for folder in new_folders:
                folder.rmdir()
        if is_out_of_memory(error):
            raise
        if check_integrity(archive, source.tgz_md5):
            raise UserError(
                f"--dataset {name}: {archive} cannot be unpacked in its folder ({error}); unpack "
                "it elsewhere (tar -xf) and give that folder as --data_root"
            ) from error
        raise UserError(
            f"--dataset {name}: not found under {root} and the download failed ({error}); put "
            f"{source.filename} (md5 {source.tgz_md5}) from {source.url} into {root}, or PNG "
            f"files into {root / name}/{{train,test}}/<class>/"
        ) from error


def _load_official(name: str, root: Path) -> BalancedData:
    train, test = official_sets(name, root).values()
    return BalancedData(
        train=Split.from_arrays(train.data, np.asarray(train.targets)),
        test=Split.from_arrays(test.data, np.asarray(test.targets)),
        class_names=list(train.classes),
    )


def _load_tree(name: str, tree: Path) -> BalancedData:
    classes, found = (list(class_folders(tree / split)) for split in ("train", "test"))
    if len(classes) != NUM_CLASSES[name]:
        raise UserError(
            f"--dataset {name} needs {NUM_CLASSES[name]} class folders in {tree / 'train'}, "
            f"which has {len(classes)}"
        )
    if found != classes:
        unpaired = sorted(set(classes) ^ set(found))
        raise UserError(f"classes in only one of train and test of {tree}: {', '.join(unpaired)}")
    files = {split: list_pngs(tree / split, classes) for split in ("train", "test")}
    for split, listing in files.items():
        empty = sorted(set(range(len(classes))) - set(listing.labels))
        if empty:
            names = ", ".join(classes[label] for label in empty)
            raise UserError(f"no PNG files of {names} in {tree / split}")
    faults: list[str] = []
    cache = cache_beside(tree, SIDE)
    images = decode_once(files, SIDE, f"decoding {name}", cache, faults, prepare=exactly)
    if faults:
        raise UserError(f"unreadable images: {listed(faults, SHOWN_FAULTS, '; ')}")
    splits = {
        split: Split.from_arrays(images[split], np.asarray(listing.labels), listing.files)
        for split, listing in files.items()
    }
    return BalancedData(splits["train"], splits["test"], classes)
