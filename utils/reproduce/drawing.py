"""The forest plot: all comparisons with their 95 % intervals."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from utils.files import atomic_write
from utils.report.figures import PALETTE, POINT_MARKERS
from utils.reproduce.plan import PROTOCOLS, DataSet
from utils.reproduce.results import Frame


def forest(compared: Frame, data: DataSet, folder: Path) -> Path | None:
    """Draws the comparisons of a data set and writes the picture.

    Args:
        compared: the result of `comparisons.comparisons`.
        data: the data set.
        folder: where the picture goes.

    Returns:
        The path of the picture relative to the parent of `folder`, or None if no comparison has an
        interval.
    """
    lines = [line for line in compared.to_dict("records") if line["difference"].interval]
    if not lines:
        return None
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.26 * len(lines)), layout="constrained")
    try:
        for place, line in enumerate(lines):
            points, (low, high) = line["difference"].points, line["difference"].interval
            number, errors = PROTOCOLS.index(line["protocol"]), [[points - low], [high - points]]
            marker, colour = POINT_MARKERS[number], PALETTE[number]
            axes.errorbar([points], [place], xerr=errors, fmt=marker, color=colour, capsize=3)
        names = [
            f"{line['what']} ({line['length']}, {count} seed{'s' if count > 1 else ''})"
            for line in lines
            if (count := len(line["seeds"]))
        ]
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(lines)), names, fontsize="small")
        axes.invert_yaxis()
        axes.set_xlabel("difference in top-1 on the test set (points), 95 % interval")
        for number, protocol in enumerate(PROTOCOLS):
            axes.plot([], [], POINT_MARKERS[number], color=PALETTE[number], label=f"by {protocol}")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(fontsize="small")
        axes.set_title(data.title)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{data.name}{f'_{data.ratio}' if data.ratio else ''}_forest.png"
        with atomic_write(path) as file:
            # Without the version of matplotlib, so that the same records give the same file.
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    finally:
        plt.close(figure)
    return path.relative_to(folder.parent)
