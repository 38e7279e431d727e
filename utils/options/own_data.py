"""What own data are, told by names and sizes of files; no image is opened."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation")


@cache
def content_digest(root: str, without: tuple[str, ...] = ()) -> str | None:
    """Returns eight hexadecimal digits that are the same for a copy of the data and differ for
    other data; None where there is nothing at `root`.

    Args:
        root: a file, or a folder with images: those of its splits where it has any, else all that
            lie in sub-folders. A file's content counts, of images their names and sizes.
        without: folders below it that are not part of the data, such as those of runs.
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
    except OSError:  # what cannot be read is for the loading of the data to say
        return None
    return digest.hexdigest()[:8]


def _listing(root: Path, without: Sequence[str]) -> Iterator[bytes]:
    """Name, below `root`, and size of each file."""
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
