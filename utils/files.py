"""Writes files so that they are never incomplete, checks that a folder can take them, and looks at
many files at once."""

import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 16  # that wait for a file system, such as a network's, at once
PART, PARTS = 16, 1000  # items that a thread takes at a time, and parts that are under way at most
LONGEST_COMPONENT = 255
"""Bytes that most file systems allow in the name of a file or folder."""


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Gives a binary file. At the end it replaces `path`, after it is on the disk. Until then, and
    if anything fails, the previous file stays. Several threads may write at once.

    Raises:
        OSError: the file cannot be written; the error has a file name.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            # NumPy raises one with a text alone, which a file name would hide.
            number, text = error.errno or errno.EIO, error.strerror or str(error)
            raise OSError(number, text, str(path)) from error
        raise


def of_each(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields ``function(item)`` for each item, in order.

    Threads call the function, so that it waits for several files at once. On a network's file
    system, each look at a file takes about a millisecond.

    Args:
        function: such as `os.stat`; threads may call it at once.
        items: read in the calling thread, a part at a time.

    Raises:
        Exception: the function raised it; later items may have been passed to it too.
    """
    left = iter(items)
    parts = iter(lambda: list(islice(left, PART)), [])
    with ThreadPoolExecutor(THREADS) as pool:
        while under_way := list(islice(parts, PARTS)):
            for results in pool.map(lambda part: list(map(function, part)), under_way):
                yield from results


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Makes a folder. If anything fails inside the `with`, the folders that it made are removed,
    as far as they are empty.

    Raises:
        OSError: the folder cannot be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def check_writable(path: Path) -> None:
    """Checks that files can be written into a folder, which may have to be made.

    Raises:
        UserError: they cannot, or a name in the path is too long.
    """
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > LONGEST_COMPONENT:
        raise UserError(
            f"cannot write into {path}: it has a name of {longest} bytes, and a name may have "
            f"{LONGEST_COMPONENT}"
        )
    places = (path, *path.absolute().parents)
    # The last one need not exist either: on Windows it is a drive.
    nearest = next((place for place in places if place.exists()), places[-1])
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"cannot write into {path}: {nearest} is not a writable folder")


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON, with null for NaN.

    Raises:
        OSError: the file cannot be written.
        ValueError: a number is infinite.
    """
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; an empty one if the file is missing or unreadable, or if
    it holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _without_nan(content: Any) -> Any:
    if isinstance(content, float) and math.isnan(content):
        return None
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return content
