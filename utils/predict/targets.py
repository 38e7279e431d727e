"""The files that a prediction writes: which of them it may write, and how."""

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.errors import UserError
from utils.files import atomic_write

HEADER = re.compile(rb"file,class,confidence(,class_\d,probability_\d)*\r?\n")
"""The first line of a table of predictions. One with further columns has work of the user in it."""
PAGE, TITLE = b"<!DOCTYPE html>", b"<title>Predictions by "
"""What a page of predictions begins with, and what is soon behind it."""


def check_targets(targets: Sequence[Path]) -> None:
    """Checks that the files can be written, and that nothing else is lost by it.

    Raises:
        UserError: there is no folder for a file, or none that may be written; a folder is at its
            place, or a file that is neither a table nor a page; or two targets are the same file.
    """
    for target in targets:
        if not (is_standard_output(target) or _is_stream(target)):
            _check_file(target)
    if len({os.path.realpath(target) for target in targets}) < len(targets):
        raise UserError(f"cannot write {' and '.join(map(str, targets))}: they are the same file")


@contextmanager
def written(target: Path) -> Iterator[IO[bytes]]:
    """Gives a binary file. A file on the disk appears after it is complete, where a link leads to.
    A pipe, a device and standard output are written to at once.

    Raises:
        OSError: the file cannot be written.
    """
    if is_standard_output(target):
        # A file that is opened once more would be written from its beginning.
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
            yield file
    elif _is_stream(target):
        with open(target, "wb") as file:
            yield file
    else:
        with atomic_write(_place(target)) as file:
            yield file


def is_standard_output(target: Path) -> bool:
    """Returns True if standard output goes to the target, as it does to ``/dev/stdout``."""
    try:
        return os.path.samestat(os.stat(target), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # there is no such file, or the stream has none
        return False


def _is_stream(target: Path) -> bool:
    """Returns True for a pipe, and for a device such as ``/dev/null``. A disk does not count."""
    try:
        mode = os.stat(target).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _place(target: Path) -> Path:
    """Returns where the target's link leads to; the target itself if it is no link."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def _check_file(target: Path) -> None:
    place = _place(target)
    if not place.parent.is_dir():
        raise UserError(f"cannot write {target}: no folder {place.parent}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {target}: {place.parent} is not a writable folder")
    if place.is_dir():
        raise UserError(f"cannot write {target}: it is a folder")
    if os.path.lexists(place) and not _may_be_replaced(place):
        raise UserError(
            f"cannot write {target}: it is there already, and neither a table nor a page of "
            "predictions; give a new name"
        )


def _may_be_replaced(place: Path) -> bool:
    """Returns True for an empty file, a table of predictions and a page of predictions. Their
    beginning tells them: a .csv file may as well be a table of labels. A file with the name of an
    image is none of them."""
    # This imports torch, so only where it is needed.
    from datasets.files.images import IMAGE_SUFFIXES

    if not place.is_file() or place.suffix.lower() in IMAGE_SUFFIXES:
        return False
    with open(place, "rb") as file:
        beginning = file.read(512).lstrip()
    is_page = beginning.startswith(PAGE) and TITLE in beginning
    return not beginning or bool(HEADER.match(beginning)) or is_page
