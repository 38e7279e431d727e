"""The forest plot: the comparisons with their 95 % intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import atomic_write
from utils.report.figures import PALETTE, POINT_MARKERS
from utils.reproduce.plan import PROTOCOLS, DataSet
from utils.reproduce.results import Frame

MEANINGS = {
    "test": "epoch chosen on the test set",
    "heldout": "epoch chosen on held-out images",
    "last": "last epoch",
}
APART = 0.26
"""How far the points of two protocols are apart, in lines."""


def forest(compared: Frame, data: DataSet, folder: Path) -> Path | None:
    """Draws the comparisons of a data set and writes the picture. A line of it has one part at one
    length, with a point for each protocol.

    Args:
        compared: the result of `comparisons.comparisons`.
        data: the data set.
        folder: where the picture goes.

    Returns:
        The path of the picture relative to the parent of `folder`, or None if no comparison has an
        interval.
    """
    groups = by_part_and_length(compared)
    if not groups:
        return None
    figure = Figure(figsize=(9, 1.8 + 0.3 * len(groups)), layout="constrained")
    draw(figure.subplots(), groups, data.title)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{data.name}{f'_{data.ratio}' if data.ratio else ''}_forest.png"
    with atomic_write(path) as file:
        # Without the version of matplotlib, so that the same records give the same file.
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return path.relative_to(folder.parent)


def draw(axes: Axes, groups: Sequence[Sequence[dict[str, Any]]], title: str) -> None:
    """Draws comparisons on the axes of a figure.

    Args:
        axes: where to draw.
        groups: the result of `by_part_and_length`; each list is a line.
        title: of the data set.
    """
    has_subsets = len({lines[0]["data"] for lines in groups}) > 1
    names = []
    for place, lines in enumerate(groups):
        first, count = lines[0], len(lines[0]["seeds"])
        of_subset = f", subset {first['data'].subset}" if has_subsets else ""
        of_seeds = f"{count} seed{'s' if count > 1 else ''}"
        star = "*" if first["mixed_precision"] else ""
        names.append(f"{first['what']}{star} ({first['length']}, {of_seeds}{of_subset})")
        for i, line in enumerate(lines):
            points, (low, high) = line["difference"].points, line["difference"].interval
            number = PROTOCOLS.index(line["protocol"])
            axes.errorbar(
                [points],
                [place + APART * (i - (len(lines) - 1) / 2)],
                xerr=[[points - low], [high - points]],
                fmt=POINT_MARKERS[number],
                color=PALETTE[number],
                capsize=2,
                markersize=5,
            )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), names, fontsize="small")
    axes.invert_yaxis()
    text = "difference in top-1 on the test set (points), 95 % interval"
    has_stars = any(lines[0]["mixed_precision"] for lines in groups)
    axes.set_xlabel(f"{text}\n* between two precisions" if has_stars else text)
    for number, protocol in enumerate(PROTOCOLS):
        marker, colour = POINT_MARKERS[number], PALETTE[number]
        axes.plot([], [], marker, color=colour, label=MEANINGS[protocol])
    axes.grid(axis="x", alpha=0.3)
    axes.figure.legend(loc="outside lower center", ncols=len(PROTOCOLS), fontsize="small")
    axes.set_title(title)


def by_part_and_length(compared: Frame) -> list[list[dict[str, Any]]]:
    """Returns the comparisons that have an interval: a list for each part, length, precision and
    subset, with the comparison by each protocol. Of each list, only those with the most seeds are
    kept."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for line in compared.to_dict("records"):
        if line["difference"].interval:
            key = line["what"], line["length"], line["precision"], line["data"]
            groups.setdefault(key, []).append(line)
    most = [max(len(line["seeds"]) for line in lines) for lines in groups.values()]
    return [
        [line for line in lines if len(line["seeds"]) == seeds]
        for lines, seeds in zip(groups.values(), most, strict=True)
    ]
