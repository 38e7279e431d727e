"""The table's figures, one set for each data set and ratio."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from utils.files import atomic_write
from utils.report.figures import LINE_STYLES, PALETTE, POINT_MARKERS
from utils.reproduce.chains import Cell, Result, Table
from utils.reproduce.findings import DATASET_TITLES, margin_course
from utils.reproduce.measures import deviation, mean
from utils.reproduce.published import PUBLISHED
from utils.reproduce.recipes import PROTOCOLS


def draw(table: Table, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Draws the figures of cells of one data set and ratio; those for which there are runs."""
    row = cells[0].row
    title = f"{DATASET_TITLES.get(row.dataset, row.dataset)}, r = {row.ratio}"
    paths = []
    for name, panel in (("top1", top1), ("margins", margins), ("epochs", epochs)):
        figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
        try:
            if panel(axes, table, cells):
                axes.set_title(title)
                paths.append(folder / f"{row.dataset}_{row.ratio}_{name}.png")
                with atomic_write(paths[-1]) as file:
                    # Without the library's version: equal records give equal files.
                    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        finally:
            plt.close(figure)
    return paths


def top1(axes: Axes, table: Table, cells: Sequence[Cell]) -> bool:
    """Top-1 with deviations over seeds, each method beside its published number."""
    lines = list(dict.fromkeys(cell.line for cell in cells))
    for number, protocol in enumerate(PROTOCOLS):
        shown = [c for c in cells if c.protocol == protocol]
        places = [lines.index(cell.line) for cell in shown]
        tops = [[result.top1 for result in table[c].values()] for c in shown]
        axes.errorbar(
            [mean(values) for values in tops],
            np.array(places) + 0.18 * (number - 1),
            xerr=[deviation(values) or 0 for values in tops],
            fmt=POINT_MARKERS[number],
            color=PALETTE[number],
            capsize=3,
            label=f"by {protocol}",
        )
    for place, line in enumerate(lines):
        published = PUBLISHED.get((line.row.dataset, line.row.ratio, line.row.method))
        if published is not None:
            axes.plot([published] * 2, [place - 0.35, place + 0.35], "k:", linewidth=1.5)
    axes.plot([], [], "k:", label="published")
    axes.set_yticks(range(len(lines)), [_name(line, cells) for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel("top-1 on the test set (%), deviation over seeds")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    return True


def margins(axes: Axes, table: Table, cells: Sequence[Cell]) -> bool:
    """The mean margin over feature epochs, a curve for each variant with learned margins."""

    def curve(result: Result) -> tuple[list[int], list[float]] | None:
        course = margin_course(result.chain.run)
        return course and ([*range(len(course.means) + 1)], [course.start, *course.means])

    shown = _curves(axes, table, _one_a_line(cells), curve)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="feature epoch", ylabel="mean margin ε (feature distance)")
    return shown


def epochs(axes: Axes, table: Table, cells: Sequence[Cell]) -> bool:
    """NCM and linear accuracy by epoch of the longest runs of DRO-LT and its control, both by one
    protocol."""
    pairs = [(c.of("control"), c) for c in cells if c.row.method == "dro_lt"]
    pairs = [pair for pair in pairs if pair[0] in table]
    if not pairs:
        return False
    compared = max(pairs, key=lambda pair: pair[0].length)
    for reading, style in (("ncm", "NCM"), ("linear", "linear")):

        def curve(result: Result, reading: str = reading) -> tuple[list[int], list[float]]:
            known = [r for r in result.chain.run.epochs if r["results"]["test"].get(reading)]
            tops = [r["results"]["test"][reading]["top1"] for r in known]
            return [r["epoch"] for r in known], tops

        _curves(axes, table, compared, curve, style, first=4 * (reading == "linear"))
    protocol = compared[0].protocol
    axes.set(xlabel=f"epoch of stage 2, by {protocol}", ylabel="top-1 on the test set (%)")
    return True


def _name(cell: Cell, cells: Sequence[Cell]) -> str:
    """Tells the cell's line of the table from those of the other cells."""
    told = [cell.precision] if len({c.precision for c in cells}) > 1 else []
    told += [cell.subset] if len({c.subset for c in cells}) > 1 else []
    return f"{cell.row.method} ({', '.join([str(cell.length), *told])})"


def _one_a_line(cells: Sequence[Cell]) -> list[Cell]:
    """Of the protocols of a line of the table the first that has runs."""
    firsts = {}
    for cell in cells:
        firsts.setdefault(cell.line, cell)
    return list(firsts.values())


def _curves(
    axes: Axes,
    table: Table,
    cells: Sequence[Cell],
    curve: Callable[[Result], tuple[list[int], list[float]] | None],
    suffix: str = "",
    first: int = 0,
) -> bool:
    """A curve for each run, of one style and legend entry for the runs of a cell."""
    number = first
    for cell in cells:
        found = [c for c in map(curve, table[cell].values()) if c]
        for i, (x, y) in enumerate(found):
            label = f"{_name(cell, cells)} {suffix}" if i == 0 else None
            colour, line = PALETTE[number % len(PALETTE)], LINE_STYLES[number % len(LINE_STYLES)]
            axes.plot(x, y, color=colour, linestyle=line, label=label)
        number += bool(found)
    if number > first:
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    return number > first
