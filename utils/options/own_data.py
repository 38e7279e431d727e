"""A digest of own data, made from the names and sizes of files. No image is opened."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation")


@cache
def content_digest(root: str, without: tuple[str, ...] = ()) -> str | None:
    """Returns a digest of eight hexadecimal digits. A copy of the data has the same digest, other
    data have another one. Returns None if there is nothing at `root`, or it cannot be read.

    Args:
        root: a file, or a folder with images. For a file its content counts. For a folder the
            names and sizes of its images count: the images of its splits, or of all sub-folders if
            it has no splits.
        without: folders below `root` that are not part of the data, such as run folders.
    """
    path = Path(root).expanduser()
    digest = hashlib.sha256()
    try:
        if path.is_file():
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        elif path.is_dir():
            for line in sorted(_listing(path, [os.path.realpath(place) for place in without])):
                digest.update(line)
        else:
            return None
    except OSError:  # loading the data reports what cannot be read
        return None
    return digest.hexdigest()[:8]


def _listing(root: Path, without: Sequence[str]) -> Iterator[bytes]:
    """Yields a line for each file: its name below `root`, and its size in bytes."""
    folders = [entry for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."]
    splits = [entry for entry in folders if entry.name.lower() in SPLITS]
    below = [entry.path for entry in splits or folders]
    while below:
        folder = below.pop()
        if os.path.realpath(folder) in without:
            continue
        for entry in os.scandir(folder):
            if entry.is_dir():
                below.append(entry.path)
            elif entry.is_file() and entry.name[0] != ".":
                name = os.path.relpath(entry.path, root)
                yield f"{name}\0{entry.stat().st_size}\n".encode(errors="surrogateescape")
