"""Trees of image files: which files are images, and which class each image has."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from datasets.files.images import IMAGE_SUFFIXES, is_image
from utils.errors import UserError
from utils.files import of_each
from utils.options.data_paths import holds_outputs, is_hidden, names_in
from utils.text import as_text, shown

CACHE_NAME = re.compile(r"(.*\.)?decoded(-\d+)?\.npz")


@dataclass(frozen=True)
class FileList:
    """Names of image files, relative to `root`, and the label of each.

    `prefix` is the path from the data root to `root`, such as ``train/``.
    """

    root: Path
    names: list[str]
    labels: list[int]
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def files(self) -> list[str]:
        """Names relative to the data root."""
        return [self.prefix + name for name in self.names]

    def path(self, name: str) -> str:
        """Returns the path of one of the files."""
        return os.path.join(self.root, name)

    def part(self, positions: np.ndarray) -> "FileList":
        """Returns the files at these positions, int64 ``[M]``."""
        names = [self.names[i] for i in positions]
        return replace(self, names=names, labels=[self.labels[i] for i in positions])

    def digest(self) -> str:
        """Returns a SHA-256 of the names, sizes and modification times of the files.

        Raises:
            OSError: a file is missing.
        """
        digest = hashlib.sha256()
        statuses = of_each(os.stat, map(self.path, self.names))
        for name, status in zip(self.names, statuses, strict=True):
            digest.update(os.fsencode(name))
            digest.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


@dataclass
class Remarks:
    """What a search for images found beside images.

    Attributes:
        faults: what is wrong; the run does not start if there is any.
        other_files: files in class folders that are not images.
        outside: files beside the class folders.
        outputs: folders of runs and of comparisons.
        hidden: folders beside the class folders that have images, and a name for hidden ones.
    """

    faults: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    def ignored(self) -> list[str]:
        """Returns which files and folders were ignored, in words."""
        kinds = [
            ("file", "that Pillow cannot open as an image", self.other_files),
            ("file", "outside the class folders", self.outside),
            ("folder", "with runs", self.outputs),
            ("folder", "with a hidden name", self.hidden),
        ]
        return [
            f"{len(names)} {noun}{'s' * (len(names) > 1)} {kind} ({_example(names)})"
            for noun, kind, names in kinds
            if names
        ]


def _example(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"such as {names[0]}"


def class_name(folder: str) -> str:
    """Returns the name of the class that a folder of this name holds. It is in Unicode's composed
    form (NFC), because some systems write ``é`` as one character and others as two."""
    return unicodedata.normalize("NFC", as_text(folder))


def class_folders(
    folder: Path, remarks: Remarks | None = None, without: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Returns the class folders inside a folder: from the name of each class, sorted, to the names
    of its folders. Hidden folders and folders of runs are left out.

    Args:
        folder: the folder of a split, or of a tree without splits.
        remarks: takes files beside the class folders, folders that are left out, and faults.
        without: real paths of folders that are no classes.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {shown(folder)}")
    remarks = remarks or Remarks()
    hidden = [folder / name for name in names_in(folder) if is_hidden(name)]
    remarks.hidden += [shown(place) for place in hidden if _has_images(place)]
    found: dict[str, list[str]] = {}
    for entry in _entries(folder, remarks):
        if is_folder(entry):
            if os.path.realpath(entry.path) in without:
                continue
            if holds_outputs(entry.path):
                remarks.outputs.append(shown(entry.path))
            else:
                found.setdefault(class_name(entry.name), []).append(entry.name)
        elif _is_there(entry, remarks) and not is_cache(entry.name):
            remarks.outside.append(shown(entry.path))
    return {name: found[name] for name in sorted(found)}


def list_classes(
    folder: Path, classes: Sequence[str], found: dict[str, list[str]], remarks: Remarks, prefix=""
) -> FileList:
    """Returns the images at any depth below the class folders, by class and then by name.

    Args:
        folder: the folder that holds the class folders.
        classes: names of the classes, in the order of their labels.
        found: the folders of each class, from `class_folders`.
        remarks: takes files that are not images, folders of runs, and faults.
        prefix: the path from the data root to `folder`, such as ``train/``.
    """
    names, labels = [], []
    for label, name in enumerate(classes):
        images = [
            f"{place}/{image}"
            for place in found.get(name, [])
            for image in images_below(folder / place, remarks)
        ]
        names += images
        labels += [label] * len(images)
    return FileList(folder, names, labels, prefix)


def images_below(folder: Path, remarks: Remarks) -> list[str]:
    """Returns the names, relative to the folder, of the images at any depth below it, sorted.

    A file is an image if Pillow can open it, whatever its suffix. A file with the suffix of an
    image is always counted as one, so that a broken image is reported as such.
    """
    place = Path(os.path.realpath(folder))
    above = (str(place), *map(str, place.parents))
    return sorted(_images(folder, "", above, remarks))


def count_by_suffix(folder: Path) -> int:
    """Returns how many files at any depth below the folder have the suffix of an image. No file is
    opened, no link to a folder is followed, and hidden ones do not count."""
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        count += sum(f.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(f) for f in files)
    return count


def _images(folder: Path, inside: str, above: tuple[str, ...], remarks: Remarks) -> Iterator[str]:
    """Yields the images below a folder. `inside` is its path from where the search began; `above`
    has the real paths of the folders that it is in, to find links that lead back up."""
    for entry in _entries(folder, remarks):
        name = inside + entry.name
        if is_folder(entry):
            place = os.path.realpath(entry.path)
            if place in above:
                remarks.faults.append(f"{shown(entry.path)}: a link to a folder that it is in")
            elif holds_outputs(place):
                remarks.outputs.append(shown(entry.path))
            else:
                yield from _images(Path(entry.path), f"{name}/", (*above, place), remarks)
        elif _is_there(entry, remarks):
            is_by_name = entry.is_file() and entry.name.lower().endswith(IMAGE_SUFFIXES)
            if is_by_name or (entry.is_file() and is_image(entry.path)):
                yield name
            else:
                remarks.other_files.append(shown(entry.path))


def _entries(folder: Path, remarks: Remarks) -> list[os.DirEntry]:
    """Returns what is in a folder, sorted by name, without hidden files and folders."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        remarks.faults.append(f"{shown(folder)}: {error.strerror}")
        return []


def _has_images(folder: Path) -> bool:
    """Returns True if a file right in the folder has the suffix of an image."""
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in names_in(folder))


def is_folder(entry: os.DirEntry) -> bool:
    """Returns True for a folder and for a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself, which counts as a file
        return False


def _is_there(entry: os.DirEntry, remarks: Remarks) -> bool:
    """Returns True unless the entry is a link to nothing, which is added to the faults."""
    if not entry.is_symlink() or os.path.exists(entry.path):
        return True
    remarks.faults.append(f"{shown(entry.path)}: a link to nothing")
    return False


def is_cache(name: str) -> bool:
    """Returns True for the decoded images that this project keeps beside a tree or a table
    (`datasets.files.decode`)."""
    return CACHE_NAME.fullmatch(name) is not None


def list_pngs(folder: Path, classes: Sequence[str]) -> FileList:
    """Returns the files ``folder/<class>/*.png``, by class and then by name."""
    names, labels = [], []
    for label, name in enumerate(classes):
        files = names_in(folder / name)
        found = [f for f in files if f.lower().endswith(".png") and not f.startswith(".")]
        names += [f"{name}/{file}" for file in found]
        labels += [label] * len(found)
    return FileList(folder, names, labels, f"{folder.parent.name}/{folder.name}/")
