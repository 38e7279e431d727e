"""Image files of any number, one after another: nothing here grows with their number."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from datasets.files.images import fit, read_pixels
from utils.machine.cores import usable_cores


def image_paths(places: Iterable[Path], without: Iterable[Path] = ()) -> Iterator[str]:
    """The files among the places and in the folders among them, at any depth.

    As in training, names that begin with a dot are passed over and linked folders are entered; a
    link back to a folder above is not. Files come in the order in which the file system lists them,
    because sorting would hold all names at once.

    Args:
        places: files and folders.
        without: files that are left out, such as those that are being written.
    """
    left_out = {os.path.abspath(path) for path in without}
    for place in places:
        if place.is_dir():
            yield from _below(str(place), frozenset(), left_out)
        else:
            yield str(place)


def _below(folder: str, above: frozenset[str], left_out: set[str]) -> Iterator[str]:
    above |= {os.path.realpath(folder)}
    try:
        entries = os.scandir(folder)
    except OSError:
        yield folder  # reading it as an image fails too, and says why
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:
                    yield from _below(entry.path, above, left_out)
            elif _is_file(entry) and os.path.abspath(entry.path) not in left_out:
                yield entry.path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file or a link that leads nowhere, which is listed as unreadable; reading a
    pipe or a device might never end."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def decoded(paths: Iterable[str], side: int, ahead: int) -> Iterator[tuple[str, np.ndarray | str]]:
    """Each file with its image as training reads it, uint8 ``[side, side, 3]``, or with the line
    that says why it is none.

    Args:
        paths: files.
        side: of the images, in pixels.
        ahead: files that are decoded at once before they are asked for, on all cores.
    """
    read = partial(read_pixels, prepare=partial(fit, side=side))
    waiting: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(read, path)))
                if len(waiting) > ahead:
                    first, image = waiting.popleft()
                    yield first, image.result()
            while waiting:
                first, image = waiting.popleft()
                yield first, image.result()
        finally:
            pool.shutdown(cancel_futures=True)
