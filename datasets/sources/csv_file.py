"""A user's own images, listed in a table with the columns `path`, `label` and, if wanted,
`split`."""

import csv
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from datasets.files.images import DataFaults
from datasets.files.trees import FileList
from datasets.sources.from_files import load_files
from datasets.sources.own_splits import with_test_split
from datasets.splits import BalancedData
from utils.errors import UserError
from utils.options.data_paths import split_called
from utils.options.flags import Options
from utils.options.image_tables import listed_name, read_table, table_rows
from utils.text import listed, shown

COLUMNS = ("path", "label", "split")


def load_csv(options: Options, recorded: Mapping) -> BalancedData:
    """Returns the images that the table at `--data_root` lists.

    The table is UTF-8 text with or without a byte order mark. Its columns are separated by commas,
    semicolons or tabs. Paths are relative to the table, and a label may be any text. Classes are
    sorted: first whole numbers by value, then other labels. If there is no column `split`, a test
    set is split off (`own_splits.with_test_split`).

    Raises:
        UserError: there is no table, a line has no path, label or known split, or a cell too many,
            an image is missing, unreadable or listed twice, or a class has no training images.
    """
    path = Path(options.data_root)
    faults: list[str] = []
    ignored: list[str] = []
    rows = list(_rows(path, faults, ignored))
    trained = {label for _, label, split in rows if split == "train"}
    if not faults and not trained:
        faults.append("no line of the split train" if rows else "no images are listed")
    # `--check_images True` reads the images of the other lines too.
    if faults and not (options.check_images and rows):
        raise DataFaults(f"--data_root {shown(path)}", faults)
    classes = sorted({label for _, label, _ in rows}, key=_number_first)
    if not faults:  # a line with a fault may be the training image that a label lacks
        lacking = [label for label in classes if label not in trained]
        faults += [f"label {label!r} has no training images" for label in lacking]
    of_class = {label: k for k, label in enumerate(classes)}
    lists = {}
    for split in dict.fromkeys(split for *_, split in rows):
        # The order of a tree: class after class; a class keeps the order of the table.
        chosen = [row for row in rows if row[2] == split]
        chosen.sort(key=lambda row: of_class[row[1]])
        labels = [of_class[label] for _, label, _ in chosen]
        lists[split] = FileList(path.parent, [name for name, *_ in chosen], labels)
    names = {split: f"lines of the split {split}" for split in lists}
    lists, origin = with_test_split(classes, lists, names, options, recorded, faults)
    loaded = load_files(lists, options, faults, beside=path)
    others = (f"other columns ({listed(ignored)})",) if ignored else ()
    return BalancedData(**loaded, class_names=classes, origin=replace(origin, ignored=others))


def _rows(path: Path, faults: list[str], ignored: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields path, label and split of each image; adds what is wrong with lines to `faults`, and
    the names of other columns to `ignored`."""
    first: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = read_table(file)
            header, delimiter = _header(reader), reader.reader.dialect.delimiter
            if (fault := _header_fault(header, delimiter)) is not None:
                faults.append(fault)
                return
            ignored += [name for name in header if name and name not in COLUMNS]
            for line, cells in table_rows(reader, faults):
                name, label, split, fault = _row(path.parent, header, cells, delimiter)
                if fault is None:
                    before = first.setdefault(os.path.abspath(path.parent / name), line)
                    fault = None if before == line else f"{name} is already listed in line {before}"
                if fault is None:
                    yield name, label, split
                else:
                    faults.append(f"line {line}: {fault}")
    except FileNotFoundError:
        raise UserError(f"--data_root {shown(path)}: no such file") from None
    except OSError as error:
        raise UserError(f"--data_root {shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(
            f"--data_root {shown(path)}: not a table of text in UTF-8; save it as one (in Excel: "
            "CSV UTF-8)"
        ) from None
    except csv.Error as error:
        raise UserError(f"--data_root {shown(path)}: not a table (line 1: {error})") from None


def _header(reader: csv.DictReader) -> list[str]:
    """Returns the names of the columns."""
    header = list(reader.fieldnames or [])
    while header and not header[-1]:  # spreadsheets write delimiters behind the last cell
        header.pop()
    return header


def _header_fault(header: list[str], delimiter: str) -> str | None:
    """Returns what is wrong with the names of the columns; None if nothing is."""
    if not {"path", "label"} <= set(header):
        return (
            "its first line must name the columns path,label or path,label,split, not "
            f"{delimiter.join(header)[:80]!r}"
        )
    twice = [column for column in COLUMNS if header.count(column) > 1]
    return f"line 1: two columns have the name {twice[0]}" if twice else None


def _row(
    folder: Path, header: list[str], cells: list[str], delimiter: str
) -> tuple[str, str, str, str | None]:
    """Returns path, label and split of a line, and what is wrong with it; None if nothing is."""
    row = dict(zip(header, cells, strict=False))
    name, label, split = (row.get(column, "").strip() for column in COLUMNS)
    name = listed_name(folder, name)
    if "split" not in header:
        split = "train"
    fault = _surplus(cells[len(header) :], delimiter) or _fault(name, label, split)
    return name, unicodedata.normalize("NFC", label), split_called(split) or "", fault


def _surplus(cells: list[str], delimiter: str) -> str | None:
    """Returns a message about the first text in cells that no column has; None if all are empty."""
    texts = [cell.strip() for cell in cells if cell.strip()]
    if not texts:
        return None
    return (
        f"{texts[0]!r} is in no column of the first line; a cell with {delimiter!r} in it needs "
        "quotation marks"
    )


def _fault(name: str, label: str, split: str) -> str | None:
    """Returns what is wrong with a line; None if nothing is."""
    if not name or "\0" in name:
        return "no path"
    if not label:
        return f"no label for {name}"
    if split_called(split) is None:
        return f"split {split!r} is not train, val or test"
    return None


def _number_first(label: str) -> tuple[bool, int, str]:
    """Returns a sort key: whole numbers by their value, then other labels by their text."""
    is_number = label.isascii() and label.isdigit() and len(label) < 19
    return not is_number, int(label) if is_number else 0, label
