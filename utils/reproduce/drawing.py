"""The forest plot: every comparison with its 95 % interval."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from utils.files import atomic_write
from utils.report.figures import PALETTE, POINT_MARKERS
from utils.reproduce.plan import PROTOCOLS, DataSet
from utils.reproduce.results import Frame


def forest(compared: Frame, data: DataSet, folder: Path) -> Path | None:
    """Draws the comparisons of a data set; returns the picture's path from the folder above, or
    None where no comparison has an interval.

    Args:
        compared: as `comparisons.comparisons` gives them.
        data: the data set.
        folder: where the picture goes.
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
            # Without the library's version: equal records give equal files.
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    finally:
        plt.close(figure)
    return path.relative_to(folder.parent)
