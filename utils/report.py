"""`report.png`: one page of figures, drawn from a run's record files alone."""

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix

from utils.files import atomic_write
from utils.metrics import FEW_BELOW, GROUPS, MANY_ABOVE, group_of_counts
from utils.runlog import read_records

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = {"many": "#0072B2", "medium": "#009E73", "few": "#D55E00", "all": "#000000"}
NCM_COLOUR = "#CC79A7"


def write_report(folder: Path, class_counts: list[int], selected: dict | None) -> Path:
    """Draws `report.png` from the run's `log.jsonl` and `predictions.npz`.

    Args:
        folder: of the run's records.
        class_counts: training images per class ``[K]``.
        selected: the selected epoch's entry of `summary.json`, or None for an unfinished run, of
            which the last epoch is shown.

    Returns:
        The figure's path.
    """
    records = read_records(folder)
    counts = np.asarray(class_counts)
    panels = []
    if records:
        panels += [
            lambda axes: _losses(axes, records),
            lambda axes: _accuracies(axes, records),
        ]
    chosen = selected or (records[-1]["results"]["test"] if records else None)
    if chosen:
        panels.append(lambda axes: _accuracy_by_size(axes, chosen, counts))
    with_margins = [record for record in records if record["margins"]]
    if with_margins:
        panels += [
            lambda axes: _margins_over_time(axes, with_margins, counts),
            lambda axes: _margins_by_size(axes, with_margins[-1], counts),
        ]
    predictions = folder / "predictions.npz"
    if predictions.exists():
        panels.append(lambda axes: _confusion(axes, predictions, counts))
    rows = max(1, -(-len(panels) // 3))
    figure, grid = plt.subplots(rows, 3, figsize=(15, 4.4 * rows), layout="constrained")
    for axes, draw in zip(grid.flat, panels, strict=False):
        draw(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    path = folder / "report.png"
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return path


def _epochs(records: list[dict]) -> list[int]:
    return [record["epoch"] for record in records]


def _mark_phases(axes: Axes, records: list[dict]) -> None:
    for before, after in pairwise(records):
        if before["phase"] != after["phase"]:
            axes.axvline(before["epoch"] + 0.5, color="0.6", linestyle=":", linewidth=1)


def _losses(axes: Axes, records: list[dict]) -> None:
    names = dict.fromkeys(name for record in records for name in record["losses"])
    for name in names:
        having = [record for record in records if name in record["losses"]]
        values = [record["losses"][name] for record in having]
        axes.plot(_epochs(having), values, label=f"train {name}")
    test = [record["results"]["test"]["linear"]["loss"] for record in records]
    axes.plot(_epochs(records), test, color="0.5", linestyle="--", label="test cross-entropy")
    _mark_phases(axes, records)
    axes.set(title="Losses", xlabel="epoch")
    axes.legend(fontsize="small")


def _accuracies(axes: Axes, records: list[dict]) -> None:
    epochs = _epochs(records)
    for name in ("top1", *GROUPS):
        values = [record["results"]["test"]["linear"][name] for record in records]
        if any(value is not None for value in values):
            label, colour = ("all", "all") if name == "top1" else (name, name)
            known = [np.nan if value is None else value for value in values]
            axes.plot(epochs, known, label=f"linear, {label}", color=COLOURS[colour])
    with_ncm = [record for record in records if record["results"]["test"]["ncm"]]
    values = [record["results"]["test"]["ncm"]["top1"] for record in with_ncm]
    axes.plot(_epochs(with_ncm), values, color=NCM_COLOUR, linestyle="--", label="NCM, all")
    _mark_phases(axes, records)
    axes.set(title="Accuracy on the test set", xlabel="epoch", ylabel="top-1 (%)")
    axes.legend(fontsize="small")


def _scatter_by_size(axes: Axes, values: np.ndarray, counts: np.ndarray, marker: str) -> None:
    groups = group_of_counts(counts)
    for group in GROUPS:
        members = groups == group
        if members.any():
            axes.scatter(
                counts[members],
                values[members],
                s=18,
                marker=marker,
                color=COLOURS[group],
                label=f"{group} ({members.sum()})",
            )
    axes.set_xscale("log")
    for bound in (FEW_BELOW, MANY_ABOVE):
        axes.axvline(bound, color="0.8", linewidth=1, zorder=0)
    axes.set_xlabel("training images of the class")


def _accuracy_by_size(axes: Axes, chosen: dict, counts: np.ndarray) -> None:
    per_class = [np.nan if a is None else a for a in chosen["linear"]["per_class"]]
    _scatter_by_size(axes, np.array(per_class, dtype=float), counts, "o")
    axes.set(title="Accuracy of each class against its size", ylabel="linear top-1 (%)")
    axes.legend(fontsize="small")


def _margins_over_time(axes: Axes, records: list[dict], counts: np.ndarray) -> None:
    margins = np.array([record["margins"] for record in records])
    groups = group_of_counts(counts)
    for group in GROUPS:
        members = margins[:, groups == group]
        if members.size:
            colour = COLOURS[group]
            axes.plot(_epochs(records), members.mean(axis=1), color=colour, label=group)
            axes.fill_between(
                _epochs(records), members.min(axis=1), members.max(axis=1), color=colour, alpha=0.15
            )
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    _mark_phases(axes, records)
    axes.set(title="Margins: mean and range of each group", xlabel="epoch", ylabel="ε")
    axes.legend(fontsize="small")


def _margins_by_size(axes: Axes, record: dict, counts: np.ndarray) -> None:
    _scatter_by_size(axes, np.array(record["margins"]), counts, "^")
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.set(title=f"Margins against class size, epoch {record['epoch']}", ylabel="ε")


def _confusion(axes: Axes, predictions: Path, counts: np.ndarray) -> None:
    with np.load(predictions, allow_pickle=False) as arrays:
        labels, preds = arrays["labels"], arrays["preds"]
    by_size = np.argsort(-counts, kind="stable")
    shares = confusion_matrix(labels, preds, labels=by_size, normalize="true")
    image = axes.imshow(100 * shares, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    axes.set(
        title="Confusion on the test set, classes by size",
        xlabel="predicted (largest class first)",
        ylabel="true",
    )
    axes.figure.colorbar(image, ax=axes, label="% of the true class")
