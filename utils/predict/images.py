"""Reads any number of image files one after the other. Memory use does not grow with the number."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.files.images import pixels_or_fault
from datasets.files.trees import is_cache, is_folder
from utils.machine.cores import usable_cores
from utils.options.data_paths import holds_outputs, is_hidden


def image_paths(places: Iterable[Path], without: Iterable[Path] = ()) -> Iterator[str]:
    """Yields the given files, and the files in the given folders at any depth.

    As in training, hidden files and folders and the caches of decoded images are skipped, and links
    to folders are followed, except for links to a folder above. Folders of runs are skipped too,
    because their pictures are no photographs. Files come in the order of the file system, because
    sorting would need all names in memory.

    Args:
        places: files and folders.
        without: files to leave out, such as those that are being written.
    """
    left_out = {os.path.abspath(path) for path in without}
    for place in places:
        if place.is_dir():
            yield from _below(str(place), frozenset(), left_out)
        else:
            yield str(place)


def _below(folder: str, above: frozenset[str], left_out: set[str]) -> Iterator[str]:
    real = Path(os.path.realpath(folder))
    above |= {str(real), *map(str, real.parents)}
    try:
        entries = os.scandir(folder)
    except OSError:
        yield folder  # reading it as an image fails too, with the reason
        return
    with entries:
        for entry in entries:
            if is_hidden(entry.name) or is_cache(entry.name):
                continue
            if is_folder(entry):
                if os.path.realpath(entry.path) not in above and not holds_outputs(entry.path):
                    yield from _below(entry.path, above, left_out)
            elif _is_file(entry) and os.path.abspath(entry.path) not in left_out:
                yield entry.path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Returns True for a file, and for a link to nothing or to itself, so that it is listed as
    unreadable. Pipes and devices do not count, because reading them might never end."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # reading it as an image fails too, with the reason
        return True


def decoded(
    paths: Iterable[str], prepare: Callable[[Image.Image], Image.Image], ahead: int
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Yields each file with its image, uint8 ``[H, W, 3]``, read as in training, or with a message
    on why it could not be read.

    Args:
        paths: the files.
        prepare: gives an image its size.
        ahead: how many files are decoded before they are asked for; all cores decode.
    """
    waiting: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(pixels_or_fault, path, prepare)))
                if len(waiting) > ahead:
                    first, image = waiting.popleft()
                    yield first, image.result()
            while waiting:
                first, image = waiting.popleft()
                yield first, image.result()
        finally:
            pool.shutdown(cancel_futures=True)
