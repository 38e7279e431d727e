"""The log of a run: for each epoch a row in `log.csv` and in `log.jsonl`, TensorBoard events, and a
line on the console."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError
from utils.evaluation.accuracy_records import balanced_accuracy
from utils.files import atomic_write
from utils.runs.records import read_epochs
from utils.runs.tensorboard import EventFile

CLASSIFIERS = ("linear", "ncm")
GEOMETRY = ("length", "within", "between", "centroid_error")
MARGIN_RANGE = ("margin_min", "margin_mean", "margin_max")
ACCURACIES = ("top1", "top5", "balanced", "many", "medium", "few")
ONLY_IN_SUMMARIES = ("precision", "recall")
"""Lists per class that the log leaves out: `per_class` has the numbers of `recall`, and nothing
reads `precision` from the log."""


def columns(
    loss_names: Sequence[str], splits: Sequence[str], layers: Sequence[str] = ()
) -> list[str]:
    """Returns the columns of `log.csv`. Accuracies are in percent, seconds are of the wall clock.

    Args:
        loss_names: names of the losses of all phases.
        splits: names of the evaluated splits.
        layers: names of the layers with their own margins, if there are several.
    """
    return [
        *("epoch", "phase", "lr", "seconds", "images_per_second"),
        *("train_loss", *(f"train_{name}" for name in loss_names), "train_top1"),
        *(
            f"{split}_{name}"
            for split in splits
            for name in ("loss", *(f"{c}_{a}" for c in CLASSIFIERS for a in ACCURACIES), *GEOMETRY)
        ),
        *MARGIN_RANGE,
        *(f"{name}@{layer}" for layer in layers for name in MARGIN_RANGE),
    ]


def flatten(record: dict) -> dict:
    """Returns an epoch's record as a row of `log.csv`: its plain values, its losses, its accuracies
    without those of each class, the geometry of its features, and the range of its margins."""
    plain = ("epoch", "phase", "lr", "seconds", "images_per_second", "train_loss", "train_top1")
    row = {name: record[name] for name in plain}
    row |= {f"train_{name}": value for name, value in record["losses"].items()}
    for split, results in record["results"].items():
        row[f"{split}_loss"] = results["linear"]["loss"]
        for classifier in CLASSIFIERS:
            accuracies = results.get(classifier) or {}
            if accuracies:
                accuracies = {**accuracies, "balanced": balanced_accuracy(accuracies)}
            row |= {f"{split}_{classifier}_{name}": accuracies.get(name) for name in ACCURACIES}
        if geometry := results.get("geometry"):
            error = geometry["centroid_error"]["mean"]
            values = {**geometry, "centroid_error": error}
            row |= {f"{split}_{name}": values[name] for name in GEOMETRY}
    if record.get("margins"):
        row |= zip(MARGIN_RANGE, _range(record["margins"]), strict=True)
    for layer, margins in record.get("layer_margins", {}).items():
        names = (f"{name}@{layer}" for name in MARGIN_RANGE)
        row |= zip(names, _range(margins), strict=True)
    return row


def _range(margins: Sequence[float]) -> tuple[float, float, float]:
    """Returns the smallest margin, the mean and the largest."""
    return min(margins), sum(margins) / len(margins), max(margins)


def finished_epochs(folder: Path, done: int) -> list[dict]:
    """Returns the epochs in a run's `log.jsonl` up to the epoch `done` of its last checkpoint.

    Raises:
        UserError: the file is not a log of epochs, or lacks this epoch.
    """
    kept = [record for record in read_epochs(folder) if record["epoch"] <= done]
    if done and (not kept or kept[-1]["epoch"] != done):
        raise UserError(f"{folder / 'log.jsonl'}: the finished epoch {done} is not in it")
    return kept


class EpochLog:
    """Writes the log of a run.

    Args:
        folder: an existing folder.
        loss_names: names of the losses of all phases.
        splits: names of the evaluated splits.
        done_epochs: number of finished epochs. A resumed run repeats later epochs, so their rows
            are dropped.
        layers: names of the layers with their own margins, if there are several.

    Raises:
        UserError: the folder's `log.jsonl` is not the log of this run.
    """

    def __init__(
        self,
        folder: Path,
        loss_names: Sequence[str],
        splits: Sequence[str],
        done_epochs: int,
        layers: Sequence[str] = (),
    ) -> None:
        self.columns = columns(loss_names, splits, layers)
        self.jsonl, self.csv = folder / "log.jsonl", folder / "log.csv"
        kept = finished_epochs(folder, done_epochs)
        try:
            rows = [",".join(self.columns) + "\n", *(self._csv_row(r) for r in kept)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.jsonl}: not the log of this run ({error!r})") from error
        with atomic_write(self.jsonl) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
        with atomic_write(self.csv) as file:
            file.write("".join(rows).encode())
        self.events = EventFile(folder, f".after{done_epochs}", purge_step=done_epochs + 1)

    def _csv_row(self, record: dict) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerow(flatten(record))
        return text.getvalue()

    def add(self, record: dict) -> None:
        """Adds an epoch to both files and to the TensorBoard events."""
        for path, line in (
            (self.jsonl, json.dumps(_without_lists(record)) + "\n"),
            (self.csv, self._csv_row(record)),
        ):
            with open(path, "a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # a checkpoint needs the lines of its epochs
        row = flatten(record)
        epoch = row["epoch"]
        for name in self.columns:
            if isinstance(row.get(name), (int, float)) and name != "epoch":
                group, _, rest = name.partition("_")
                self.events.add_scalar(f"{group}/{rest}" if rest else name, row[name], epoch)
        if record.get("margins"):
            self.events.add_histogram("margins", record["margins"], epoch)
        for layer, margins in record.get("layer_margins", {}).items():
            self.events.add_histogram(f"margins@{layer}", margins, epoch)

    def close(self) -> None:
        self.events.close()


def _without_lists(record: dict) -> dict:
    """Returns the epoch's record without the lists that only summaries have."""

    def shortened(accuracies: dict | None) -> dict | None:
        if accuracies is None:
            return None
        return {k: v for k, v in accuracies.items() if k not in ONLY_IN_SUMMARIES}

    results = {
        split: {name: shortened(accuracies) for name, accuracies in of_split.items()}
        for split, of_split in record["results"].items()
    }
    return record | {"results": results}


def console_line(record: dict, last_epoch: int, seconds_left: float) -> str:
    """Returns the line on the console about an epoch.

    Args:
        record: the epoch's record, as `log.jsonl` has it.
        last_epoch: the last epoch of the stage.
        seconds_left: estimated time to the end of the stage.
    """
    losses = ", ".join(f"{name} {value:.4f}" for name, value in record["losses"].items())
    parts = [f"{record['phase']} {record['epoch']}/{last_epoch}", losses]
    for split, results in record["results"].items():
        accuracies = [f"{split} {results['linear']['top1']:.2f} %"]
        if results.get("ncm"):
            accuracies.append(f"NCM {results['ncm']['top1']:.2f} %")
        parts.append(", ".join(accuracies))
    if record.get("margins"):
        parts.append(f"margins {min(record['margins']):.2f} to {max(record['margins']):.2f}")
    parts.append(f"{record['images_per_second']:.0f} images/s")
    parts.append(f"{record['seconds']:.1f} s, {duration(seconds_left)} left")
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """Returns a time as text, ``MM:SS`` or ``H:MM:SS``."""
    return tqdm.format_interval(int(seconds))
