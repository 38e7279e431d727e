"""Tables of image files, as spreadsheets write them."""

import csv
import os
import unicodedata
from collections.abc import Iterator
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
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    if reader.reader.line_num > 1:
        raise csv.Error("the first line ends inside quotation marks")
    return reader


def table_rows(reader: csv.DictReader, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the line and the cells of each row that has a text.

    A row must be one line. Lines behind a quotation mark that is left open would become one cell,
    so that their images would be lost.

    Args:
        reader: from `read_table`, before its first row.
        faults: takes rows that are no rows of a table, or longer than a line.
    """
    rows = reader.reader
    while True:
        first, fault = rows.line_num + 1, None
        try:
            cells = next(rows, None)
        except csv.Error as error:
            cells, fault = [], f"not a row of a table ({error})"
        if cells is None:
            return
        last = rows.line_num
        if fault is None and last > first:
            fault = "a cell with a line break"
        if fault is not None:
            lines = f"line {last}" if first == last else f"lines {first} to {last}"
            faults.append(f"{lines}: {fault}; is a quotation mark left open?")
        elif any(cell.strip() for cell in cells):
            yield first, cells


def listed_name(folder: Path, name: str) -> str:
    """Returns the name of a file that a table lists. The parts of a path may be separated by
    backslashes, as Windows writes them; they become slashes, unless a file has such a name. If no
    file has a name, but one has it in Unicode's composed or decomposed form, that file is meant.

    Args:
        folder: the folder that the name is relative to.
        name: as the table has it.
    """
    if ("\\" not in name and name.isascii()) or "\0" in name:
        return name
    with_slashes = name.replace("\\", "/")
    # Some systems write é as one character and others as two.
    forms = [unicodedata.normalize(form, with_slashes) for form in ("NFC", "NFD")]
    spellings = (name, with_slashes, *forms)
    return next((n for n in spellings if os.path.lexists(folder / n)), with_slashes)
