"""Digests of files, and of a user's own data. They read names, sizes and tables, but no image."""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from utils.files import of_each
from utils.options.data_paths import expanded, holds_outputs, is_hidden, split_folders
from utils.options.image_tables import listed_name, read_table

DIGITS = 8
"""Hexadecimal digits of a digest in a name."""

SIDECAR_SUFFIXES = (".db", ".ini", ".txt", ".xml", ".json", ".csv", ".xmp", ".aae")


@cache
def file_digest(path: str) -> str | None:
    """Returns the SHA-256 of a file's content, 64 hexadecimal digits; None if there is no such file
    or it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def forget_digests() -> None:
    """Forgets all digests, so that each command reads the files as they are then."""
    file_digest.cache_clear()
    content_digest.cache_clear()


@cache
def content_digest(root: str, without: tuple[str, ...] = (), is_table: bool = False) -> str | None:
    """Returns a digest of eight hexadecimal digits. A copy of the data has the same digest, other
    data have another one. Returns None if there is nothing at `root`, or it cannot be read.

    Args:
        root: a file, or a folder with images. For a file its content counts. For a folder the
            names and sizes of its images count: the images of its splits, or of all sub-folders if
            it has no splits.
        without: folders below `root` that are not part of the data.
        is_table: True if `root` is a table of images, whose sizes count too.
    """
    path = expanded(root)
    digest = hashlib.sha256()
    try:
        if path.is_file():
            content = file_digest(str(path))
            if content is None or not is_table:
                return content and content[:DIGITS]
            digest.update(content.encode())
            for size in of_each(_size, _listed_files(path)):
                digest.update(b"%d\n" % size)
        elif path.is_dir():
            entries = _files(path, [os.path.realpath(place) for place in without])
            for line in sorted(of_each(partial(_line, path), entries)):
                digest.update(line)
        else:
            return None
    except OSError:  # loading the data reports what cannot be read
        return None
    return digest.hexdigest()[:DIGITS]


def _listed_files(table: Path) -> Iterator[Path]:
    """Yields each file that a table lists, in its order."""
    with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            for row in read_table(file):
                name = listed_name(table.parent, (row.get("path") or "").strip())
                if name:  # or else an empty row, or one that loading the data reports
                    yield table.parent / name
        except csv.Error:  # loading the data reports this too
            return


def _size(path: Path) -> int:
    """Returns the size of a file in bytes; -1 if it is missing, which loading the data reports."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def _files(root: Path, without: Sequence[str]) -> Iterator[os.DirEntry]:
    """Yields each file below `root`. Hidden files and folders and folders of runs are left out, as
    when the images are loaded. So are files that programs write beside images, and that are no
    images by their suffix: they may come and go."""
    folders = [e.name for e in _entries(root) if e.is_dir() and not holds_outputs(e.path)]
    below = [os.path.join(root, name) for name in split_folders(root, folders) or folders]
    while below:
        folder = below.pop()
        if os.path.realpath(folder) in without or holds_outputs(folder):
            continue
        for entry in _entries(folder):
            if entry.is_dir():
                below.append(entry.path)
            elif entry.is_file() and not entry.name.lower().endswith(SIDECAR_SUFFIXES):
                yield entry


def _line(root: Path, entry: os.DirEntry) -> bytes:
    """Returns the name of a file below `root`, and its size in bytes."""
    name = os.path.relpath(entry.path, root).replace(os.sep, "/")
    return f"{name}\0{entry.stat().st_size}\n".encode(errors="surrogateescape")


def _entries(folder: str | Path) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_hidden(entry.name))
