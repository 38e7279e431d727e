"""Made-up records of finished runs of the table, for testing what is made of records alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from utils.options.parse import parse_options
from utils.options.recipes import RECIPES
from utils.reproduce.filing import read_records
from utils.reproduce.plan import Cell, DataSet, Length
from utils.reproduce.results import as_frame

CLASS_COUNTS = [200, 10]
TINY = Length(2, 2, 1)
CIFAR100 = DataSet("cifar100", 100, "0123abcd")


def accuracies(top1: float) -> dict:
    return {
        "top1": top1,
        "top5": 100.0,
        "many": top1 + 5,
        "medium": None,
        "few": top1 - 5,
        "per_class": [top1 + 5, top1 - 5],
        "loss": 1.0,
    }


def cell_of(
    row: str,
    length: Length = TINY,
    seed: int = 0,
    start_seed: int | None = None,
    protocol: str = "test",
    data: DataSet = CIFAR100,
    precision: str = "float32",
) -> Cell:
    """A cell of a row, of a whole chain unless another start is named."""
    recipe = RECIPES[row]
    if recipe.start is None:
        return Cell(data, row, length.of(recipe), precision, seed)
    start = seed if start_seed is None else start_seed
    return Cell(data, row, length.of(recipe), precision, seed, start, protocol)


def frame_of(root: Path) -> pd.DataFrame:
    """The results of the runs below `root`."""
    return as_frame(read_records(root / "runs"))


def predictions(top1: float) -> np.ndarray:
    """Of 100 images of class 0, of which the first `top1` are right."""
    return (np.arange(100) >= top1).astype(int)


def write_run(
    root: Path,
    row: str,
    tops: list[float],
    *,
    ncm: list[float] | None = None,
    heldout: list[float] | None = None,
    margins: list[float] | None = None,
    robust: list[float] | None = None,
    preds: np.ndarray | None = None,
    others: dict[str, np.ndarray] | None = None,
    selected: int | None = None,
    layers: int = 1,
    folder: Path | None = None,
    teacher: Path | None = None,
    **of_cell,
) -> Path:
    """Writes a run's records where those of its cell belong below `root/runs`; returns the folder.

    Args:
        row: its recipe.
        tops: top-1 on the test set by epoch.
        ncm, heldout: NCM's on the test set and top-1 on held-out images (NCM's too) by epoch.
        margins: by epoch, one for all classes.
        robust: the robust loss by epoch.
        preds: predictions of the selected epoch, of 100 images of class 0.
        others: other arrays of `predictions.npz`.
        selected: the epoch; that of the highest top-1 if None.
        layers: that the margins and the robust loss are recorded of, all alike.
        folder: another place for the records.
        teacher: the folder of the run that it is distilled from.
        of_cell: what else tells the cell, as `cell_of` takes it.
    """
    cell = cell_of(row, **of_cell)
    length, protocol, seed = cell.length, cell.protocol, cell.seed
    options = parse_options(cell.command(Path("X") if cell.start else teacher))
    folder = folder or root / "runs" / cell.record
    folder.mkdir(parents=True)
    machine = {"device": "cpu", "processor": "abacus", "commit": "0ddba11", "command": ["main.py"]}
    arguments = options.as_dict() | {"machine": machine, "class_counts": CLASS_COUNTS}
    arguments["fingerprint"] = cell.data.subset * 8
    (folder / "args.json").write_text(json.dumps(arguments))
    assert len(tops) == options.epochs
    records = []
    for i, top1 in enumerate(tops):
        phase = "pretraining"
        if cell.start:
            phase = "features" if i < length.features else "classifier"
        results = {"test": {"linear": accuracies(top1), "ncm": accuracies((ncm or tops)[i])}}
        if heldout:
            results["heldout"] = {name: accuracies(heldout[i]) for name in ("linear", "ncm")}
        record = {"epoch": i + 1, "phase": phase, "lr": 0.1, "seconds": 1.0, "results": results}
        record |= {"losses": {"robust_loss": robust[i]} if robust else {"ce": 1.0}}
        record |= {"margins": [margins[i]] * 2 if margins else None}
        if layers > 1:
            names = [f"layer{n}" for n in range(layers)]
            record["losses"] = {f"robust_loss@{name}": robust[i] for name in names}
            record["layer_margins"] = dict.fromkeys(names, record["margins"])
        records.append(record)
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    best = tops.index(max(tops)) + 1 if selected is None else selected
    best = options.epochs if protocol == "last" else best

    def of(epoch: int) -> dict:
        return {"epoch": epoch, **records[epoch - 1]["results"]["test"]}

    summary = {
        **{"dataset": cell.data.name, "arch": "resnet32", "stage": options.stage, "seed": seed},
        **{"selected_on": protocol, "epochs": options.epochs, "seconds": 10.0},
        **{"class_counts": CLASS_COUNTS},
        "test": {"selected": of(best), "last": of(options.epochs)},
    }
    summary["heldout"] = heldout and {
        "images": 200,
        **{
            name: {"epoch": epoch, **records[epoch - 1]["results"]["heldout"]}
            for name, epoch in (("selected", best), ("last", options.epochs))
        },
    }
    if preds is not None:
        labels = np.zeros(len(preds), dtype=int)
        np.savez(folder / "predictions.npz", labels=labels, preds=preds, **(others or {}))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def without_ncm(folder: Path) -> None:
    """Removes NCM's accuracies on the test set from the summary of a run."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    for which in ("selected", "last"):
        summary["test"][which]["ncm"] = None
    path.write_text(json.dumps(summary))
