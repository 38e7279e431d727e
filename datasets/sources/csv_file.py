"""One's own images listed in a table: columns `path`, `label` and, where wanted, `split`."""

import csv
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from datasets.files.cache import cache_beside
from datasets.files.decode import load_files, side_of
from datasets.files.images import listed, shown
from datasets.files.trees import FileList
from datasets.sources.own_splits import FoundSplits, with_test_split
from datasets.splits import BalancedData
from utils.errors import UserError
from utils.options.data_paths import split_called
from utils.options.flags import Options

COLUMNS = ("path", "label", "split")


def load_csv(options: Options) -> BalancedData:
    """The images of the table at `--data_root`, UTF-8 with or without a byte order mark. Paths are
    relative to the table, labels any text; whole numbers are sorted as numbers. Without `split`,
    `--test_fraction` splits off a test set.

    Raises:
        UserError: no such table, lines that are no path and label, images that are missing,
            unreadable or listed twice, or a class that training lacks.
    """
    path = Path(options.data_root)
    faults: list[str] = []
    rows = list(_rows(path, faults))
    if not rows and not faults:
        faults.append("no images are listed")
    if faults:
        raise UserError(f"--data_root {shown(path)}: {listed(faults)}")
    trained = {label for _, label, split in rows if split == "train"}
    if not trained:
        raise UserError(f"--data_root {shown(path)}: no line of the split train")
    classes = sorted(trained, key=_number_first)
    for label in sorted({label for _, label, _ in rows} - trained):
        faults.append(f"label {label!r} has no training images")
    of_class = {label: k for k, label in enumerate(classes)}
    lists = {}
    for split in dict.fromkeys(split for *_, split in rows):
        # In the order of the classes, as in a tree; within a class in that of the table.
        chosen = [row for row in rows if row[2] == split and row[1] in of_class]
        chosen.sort(key=lambda row: of_class[row[1]])
        labels = [of_class[label] for _, label, _ in chosen]
        lists[split] = FileList(path.parent, [name for name, *_ in chosen], labels)
    names = {split: f"lines of the split {split}" for split in lists}
    found = with_test_split(FoundSplits(classes, lists, names), options, faults)
    loaded = load_files(found.lists, options, faults, cache_beside(path, side_of(options)))
    return BalancedData(
        loaded["train"], loaded["test"], classes, loaded.get("heldout"), origin=found.origin()
    )


def _rows(path: Path, faults: list[str]) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each image."""
    first: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip().lower() for name in reader.fieldnames or []]
            if not {"path", "label"} <= set(header):
                faults.append(
                    "its first line must name the columns path,label or path,label,split, not "
                    f"{','.join(header)[:80]!r}"
                )
                return
            reader.fieldnames = header
            for row in reader:
                name, label, split = ((row.get(column) or "").strip() for column in COLUMNS)
                if "split" not in header:
                    split = "train"
                fault = _fault(name, label, split)
                if fault is None and name in first:
                    fault = f"{name} is listed in line {first[name]} already"
                if fault is not None:
                    faults.append(f"line {reader.line_num}: {fault}")
                    continue
                first[name] = reader.line_num
                yield name, unicodedata.normalize("NFC", label), split_called(split) or ""
    except FileNotFoundError:
        raise UserError(f"--data_root {shown(path)}: no such file") from None
    except OSError as error:
        raise UserError(f"--data_root {shown(path)}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"--data_root {shown(path)}: not a table of text in UTF-8 ({error})"
        ) from None


def _fault(name: str, label: str, split: str) -> str | None:
    """What is wrong with a line."""
    if not name or "\0" in name:
        return "no path"
    if not label:
        return f"no label of {name}"
    if split_called(split) is None:
        return f"split {split!r} is none of train, val and test"
    return None


def _number_first(label: str) -> tuple[bool, int, str]:
    """Whole numbers by their value, before other text."""
    is_number = label.isascii() and label.isdigit() and len(label) < 19
    return not is_number, int(label) if is_number else 0, label
