"""Draws `report.png`, the figure of one run."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from utils.files import atomic_write, read_json
from utils.report import figures
from utils.report.run_groups import class_names
from utils.runs.records import read_epochs


def write_report(folder: Path, class_counts: list[int], selected: dict) -> Path:
    """Draws `report.png` from the run's `log.jsonl` and `predictions.npz`, and returns its path.

    Args:
        folder: folder of the run's records.
        class_counts: training images of each class ``[K]``.
        selected: the selected epoch's entry of `summary.json`.

    Raises:
        OSError: the figure cannot be written.
    """
    records = read_epochs(folder)
    counts = np.asarray(class_counts)
    panels = []
    if records:
        panels += [
            lambda axes: figures.losses(axes, records),
            lambda axes: figures.accuracies(axes, records),
        ]
    per_class = selected["linear"]["per_class"]
    panels.append(lambda axes: figures.accuracy_by_size(axes, per_class, counts))
    with_margins = [record for record in records if record["margins"]]
    if with_margins:
        panels += [
            lambda axes: figures.margins_over_time(axes, with_margins, counts),
            lambda axes: figures.margins_by_size(axes, with_margins[-1], counts),
        ]
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        labels, preds = arrays["labels"], arrays["preds"]
    names = class_names(read_json(folder / "args.json"), len(counts))
    panels.append(lambda axes: figures.confusion(axes, labels, preds, counts, names))
    rows = -(-len(panels) // 3)
    with matplotlib.rc_context({"legend.fontsize": "small"}):
        figure = Figure(figsize=(15, 4.4 * rows), layout="constrained")
        grid = figure.subplots(rows, 3)
        for axes, draw in zip(grid.flat, panels, strict=False):
            draw(axes)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        path = folder / "report.png"
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=110)
    return path
