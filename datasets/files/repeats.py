"""Images that a data set has more than once."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.files.images import IMAGE_SUFFIXES
from utils.files import of_each
from utils.text import shown

BLOCK = 4096  # bytes at the beginning and in the middle tell most images of one size apart
FORMATS = (*IMAGE_SUFFIXES, ".arw", ".cr2", ".dng", ".nef")  # and RAW files that Pillow opens


def repeats(folder: Path, images_of: Mapping[str, Sequence[tuple[str, int]]]) -> list[str]:
    """Returns remarks on test and held-out images that are training images too, and on images in
    several classes. Images are the same if their files have the same bytes. Files whose names
    differ in the ending alone are taken for one photograph in several formats, if the endings are
    of images: `scan.0001` and `scan.0002` are two.

    Args:
        folder: the one that the names of the images are relative to.
        images_of: name and label of each image of the splits `train`, `test` and, if there is one,
            `heldout`, in this order.

    Raises:
        OSError: a file cannot be read.
    """
    images = [(split, label, file) for split in images_of for file, label in images_of[split]]
    pairs = defaultdict(list)
    for group in _equal([os.path.join(folder, file) for *_, file in images]):
        (first_split, first_label, first), *others = (images[i] for i in group)
        if first_split == "train":
            for split, _, file in others:
                pairs[split].append((file, first))
        if elsewhere := [file for _, label, file in others if label != first_label]:
            pairs["classes"].append((first, elsewhere[0]))
    of_stem = defaultdict(list)
    for split, _, file in images:
        stem, ending = os.path.splitext(file)
        if ending.lower() in FORMATS:
            of_stem[stem].append((split, file))
    copies = {file for file, _ in pairs["test"] + pairs["heldout"]}
    for (first_split, first), *others in of_stem.values():
        if first_split == "train":
            pairs["formats"] += [
                (file, first) for split, file in others if split != "train" and file not in copies
            ]
    return [
        f"{len(pairs[kind])} {noun}{'s are' if len(pairs[kind]) > 1 else ' is'} {where} (such as "
        f"{' and '.join(map(shown, pairs[kind][0]))})"
        for kind, noun, where in (
            ("test", "test image", "also among the training images"),
            ("heldout", "held-out image", "also among the training images"),
            ("formats", "test or held-out image", "in another format among the training images"),
            ("classes", "image", "in several classes"),
        )
        if pairs[kind]
    ]


def _equal(paths: Sequence[str]) -> list[list[int]]:
    """Returns the positions of files with the same bytes, a list for each content that more than
    one file has. Files are read only if their sizes are equal, and whole only if their bytes at the
    beginning and in the middle are equal too."""
    groups = [list(range(len(paths)))]
    for key in (os.path.getsize, _blocks, _content):
        parts = defaultdict(list)
        places = ((number, i) for number, group in enumerate(groups) for i in group)
        keys = of_each(key, (paths[i] for group in groups for i in group))
        count = sum(map(len, groups))
        progress = tqdm(keys, "comparing files", count, leave=False, unit="file", disable=None)
        for (number, i), found in zip(places, progress, strict=True):
            parts[number, found].append(i)
        groups = [part for part in parts.values() if len(part) > 1]
    return groups


def _blocks(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        beginning = file.read(BLOCK)
        file.seek(os.path.getsize(path) // 2)
        return hashlib.sha256(beginning + file.read(BLOCK)).digest()


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
