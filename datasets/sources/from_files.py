"""From lists of image files to splits, which are decoded into memory or streamed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.files.decode import cache_beside, decode_once
from datasets.files.images import LARGE_SIDE, DataFaults, check_range, fault_of, pixels_or_fault
from datasets.files.trees import FileList
from datasets.loading.reader import ImageReader, check_shared_memory
from datasets.splits import AnySplit, Split, StreamedSplit
from utils.files import of_each
from utils.machine.cores import usable_cores
from utils.machine.memory import usable_memory
from utils.options.flags import Options

MEMORY_SHARE = 0.25  # of the memory that a process may use: larger sets are streamed


def load_files(
    splits: dict[str, FileList], options: Options, faults: list[str], beside: Path | None = None
) -> dict[str, AnySplit]:
    """Returns the images of each split, decoded or streamed.

    Of images that are streamed, only the headers are read here, unless `--check_images` asks for
    more. If something is known to be wrong or a file is missing, no image is decoded either.

    Args:
        splits: the files of each split, by name.
        options: only `image_side`, `stream`, `workers`, `gpu` and `check_images` are used, and
            names for messages.
        faults: what is already known to be wrong.
        beside: the folder of the tree or the table of the files, where the cache of decoded images
            is kept (`cache_beside`); None for no cache.

    Raises:
        DataFaults: `faults` is not empty, or a file is unreadable.
        RunError: there is too little memory, or too little memory that processes can share.
    """
    side = _side_of(options)
    is_streamed = streams(options, sum(map(len, splits.values())))
    # Decoding may take an hour, and with a fault nothing of it would be kept.
    if is_streamed or (not options.check_images and (faults or _lack_files(splits))):
        fault = _pixel_fault if options.check_images else _header_fault
        for name, files in splits.items():
            faults += faults_in(files, fault, f"checking {options.dataset} {name}")
    if not is_streamed and (options.check_images or not faults):
        cache = None if beside is None else cache_beside(beside, side)
        title = f"decoding {options.dataset}"
        images = decode_once(splits, side, title, cache, faults, goes_on=options.check_images)
    if faults:
        raise DataFaults(f"--data_root {options.data_root}", faults)
    if not is_streamed:
        return {
            name: Split.from_arrays(images[name], np.array(files.labels), files.files)
            for name, files in splits.items()
        }
    check_shared_memory(options.workers, side)
    # Pinned memory needs a context on a GPU, which may be full or another user's.
    is_pinned = options.gpu != "cpu" and torch.cuda.is_available()
    reader = ImageReader(options.workers, is_pinned)
    return {name: StreamedSplit(files, side, reader) for name, files in splits.items()}


def _side_of(options: Options) -> int:
    """Returns the side in pixels of images that are read from files."""
    side = options.image_side
    assert side is not None, f"--dataset {options.dataset} is not read from image files"
    return side


def streams(options: Options, num_images: int) -> bool:
    """Returns True if so many images are to be read from their files in each epoch.

    `--stream auto` streams images of 64 pixels and more, because their training crops are taken
    from the original file. It also streams smaller images that would take more than a quarter of
    the memory that a process may use.
    """
    if isinstance(options.stream, bool):
        return options.stream
    side = _side_of(options)
    decoded = num_images * 3 * side**2
    return side >= LARGE_SIDE or decoded > MEMORY_SHARE * usable_memory()


def _lack_files(splits: dict[str, FileList]) -> bool:
    """Returns True if a file is missing."""
    paths = (files.path(name) for files in splits.values() for name in files.names)
    return not all(of_each(os.path.isfile, paths))


def faults_in(files: FileList, fault: Callable[[str], str | None], title: str) -> list[str]:
    """Returns a message for each file that has a fault.

    Args:
        files: the images.
        fault: from the path of a file to what is wrong with it; None if nothing is.
        title: of the progress bar.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = pool.map(fault, map(files.path, files.names))
        progress = tqdm(found, title, total=len(files), unit="image", disable=None)
        return [message for message in progress if message is not None]


def _pixel_fault(path: str) -> str | None:
    """Returns what is wrong with a file, which is read to its end; None if nothing is."""
    found = pixels_or_fault(path, lambda image: image)
    return found if isinstance(found, str) else None


def _header_fault(path: str) -> str | None:
    """Returns what is wrong with the first bytes of a file; None if nothing is."""
    try:
        with Image.open(path) as image:
            check_range(image)
            return None
    except Exception as error:  # Pillow's readers raise errors of many types for broken files
        return fault_of(path, error)
