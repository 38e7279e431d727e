"""Tables of image files, as spreadsheets write them."""

import csv
import os
from pathlib import Path
from typing import TextIO

DELIMITERS = ",;\t"


def read_table(file: TextIO) -> csv.DictReader:
    """Returns a reader of the table's rows. The names of its columns are in lower case and without
    spaces around them.

    The delimiter is a comma, a semicolon or a tab, whichever the first line has most of:
    spreadsheets write semicolons in countries with decimal commas.

    Args:
        file: open at its beginning, with `newline=""`.

    Raises:
        csv.Error: the first line is no line of a table.
    """
    first = file.readline()
    file.seek(0)
    reader = csv.DictReader(file, delimiter=max(DELIMITERS, key=first.count), skipinitialspace=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    return reader


def listed_name(folder: Path, name: str) -> str:
    """Returns the name of a file that a table lists. The parts of a path may be separated by
    backslashes, as Windows writes them; they become slashes, unless a file has such a name.

    Args:
        folder: the folder that the name is relative to.
        name: as the table has it.
    """
    is_of_windows = "\\" in name and "\0" not in name and not os.path.lexists(folder / name)
    return name.replace("\\", "/") if is_of_windows else name
