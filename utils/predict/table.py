"""The table of predictions, a CSV file with one row for each image."""

import csv
import io
import sys
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError
from utils.predict.predictions import Prediction
from utils.predict.targets import written

TABLES = (".csv", ".tsv", ".npz", ".npy")
SHOWN = 200
"""The number of predictions that the page shows."""


def write_table(
    path: Path, results: Iterable[Prediction | str], number: int, places: Sequence[Path]
) -> tuple[list[Prediction], int, int]:
    """Writes the predictions, and lists the skipped files on standard error.

    Args:
        path: the file.
        results: for each image its prediction, or the reason why it is skipped.
        number: how many of the likeliest classes a row has.
        places: files and folders of the images, for the message if there are none.

    Returns:
        The `SHOWN` least certain predictions, the least certain first; the number of all; and the
        number of skipped files.

    Raises:
        UserError: there are no images; nothing has been written, and an earlier table stays.
    """
    kept: list[Prediction] = []
    count = skipped = 0
    first_reason = ""
    with _csv_rows(path) as rows:
        rows.writerow(_header(number))
        for result in tqdm(results, "images", unit="image", disable=None):
            if isinstance(result, str):
                skipped += 1
                first_reason = first_reason or result
                tqdm.write(f"skipped {result}", sys.stderr)
                continue
            count += 1
            # Of equally certain ones the earlier comes first and stays.
            insort(kept, result, key=lambda prediction: prediction.confidences[0])
            del kept[SHOWN:]
            pairs = zip(result.classes, result.confidences, strict=True)
            likeliest = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
            rows.writerow([result.file, *likeliest[:2], *likeliest])
        if count == 0:
            if not skipped:
                raise UserError(f"no files in {', '.join(map(str, places))}")
            is_table = any(place.suffix.lower() in TABLES for place in places)
            hint = "; tables and arrays are not read: give image files or folders"
            raise UserError(
                f"no file could be read as an image ({skipped} skipped); the first: {first_reason}"
                f"{hint if is_table else ''}"
            )
    return kept, count, skipped


def _header(number: int) -> list[str]:
    pairs = ((f"class_{i}", f"probability_{i}") for i in range(1, number + 1))
    return ["file", "class", "confidence", *(name for pair in pairs for name in pair)]


@contextmanager
def _csv_rows(path: Path) -> Iterator:
    """Gives a CSV writer; names that are not UTF-8 keep their bytes."""
    with written(path) as binary:
        text = io.TextIOWrapper(binary, "utf-8", errors="surrogateescape", newline="")
        yield csv.writer(text, lineterminator="\n")
        text.flush()
        text.detach()
