"""The table's figures, one set for each data set and ratio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from utils.files import atomic_write
from utils.report.figures import LINE_STYLES, PALETTE, POINT_MARKERS
from utils.reproduce.comparisons import comparisons, paired_seeds
from utils.reproduce.margins import margin_course
from utils.reproduce.plan import PROTOCOLS, DataSet
from utils.reproduce.published import PUBLISHED
from utils.reproduce.results import CELL, CHAINS, LINE, Frame, Line, only, tabulate
from utils.runs.records import RecordedRun

Curve = Callable[[RecordedRun], tuple[list[int], list[float]] | None]


def draw(frame: Frame, folder: Path) -> dict[DataSet, list[Path]]:
    """Draws the figures of each data set for which there are runs; returns their paths."""
    paths: dict[DataSet, list[Path]] = {}
    if frame.empty:
        return paths
    for (name, ratio), of_set in frame.groupby(["name", "ratio"], sort=False):
        data = DataSet(str(name), int(ratio))
        stem = f"{name}_{ratio}" if ratio else str(name)
        panels = {"forest": forest, "top1": top1, "epochs": epochs, "margins": margins}
        for kind, panel in panels.items():
            path = folder / f"{stem}_{kind}.png"
            if _drawn(path, panel, of_set, data.title):
                paths.setdefault(data, []).append(path)
    return paths


def _drawn(path: Path, panel: Callable, frame: Frame, title: str) -> bool:
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    try:
        if not panel(axes, frame):
            return False
        axes.set_title(title)
        with atomic_write(path) as file:
            # Without the library's version: equal records give equal files.
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return True
    finally:
        plt.close(figure)


def forest(axes: Axes, frame: Frame) -> bool:
    """The comparisons with their 95 % intervals."""
    lines = [c for c in comparisons(frame).to_dict("records") if c["difference"].interval]
    if not lines:
        return False
    figure: Any = axes.figure
    figure.set_size_inches(9, 1.5 + 0.26 * len(lines))
    for place, line in enumerate(lines):
        found = line["difference"]
        low, high = found.interval
        number = PROTOCOLS.index(line["protocol"])
        axes.errorbar(
            [found.points],
            [place],
            xerr=[[found.points - low], [high - found.points]],
            fmt=POINT_MARKERS[number],
            color=PALETTE[number],
            capsize=3,
        )
    names = [
        f"{c['what']} ({c['length']}, {len(c['seeds'])} seed{'s' if len(c['seeds']) > 1 else ''})"
        for c in lines
    ]
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("difference in top-1 on the test set (points), 95 % interval")
    for number, protocol in enumerate(PROTOCOLS):
        axes.plot([], [], POINT_MARKERS[number], color=PALETTE[number], label=f"by {protocol}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    return True


def top1(axes: Axes, frame: Frame) -> bool:
    """Top-1 with sample deviations over seeds, each row beside its published number."""
    table = tabulate(frame)
    lines = [line for _, line in table.drop_duplicates(LINE).iterrows()]
    figure: Any = axes.figure
    figure.set_size_inches(8, 1.5 + 0.3 * len(lines))
    for number, protocol in enumerate(PROTOCOLS):
        shown = table[table["protocol"] == protocol]
        places = [
            next(i for i, line in enumerate(lines) if all(line[k] == cell[k] for k in LINE))
            for _, cell in shown.iterrows()
        ]
        axes.errorbar(
            shown["top1_mean"].to_numpy(float),
            np.array(places) + 0.18 * (number - 1),
            xerr=shown["top1_std"].to_numpy(float, na_value=0.0),
            fmt=POINT_MARKERS[number],
            color=PALETTE[number],
            capsize=3,
            label=f"by {protocol}",
        )
    for place, line in enumerate(lines):
        published = PUBLISHED.get((line["name"], line["ratio"], line["row"]))
        if published is not None and line["of_seeds"] == CHAINS:
            axes.plot([published] * 2, [place - 0.35, place + 0.35], "k:", linewidth=1.5)
    axes.plot([], [], "k:", label="published")
    axes.set_yticks(range(len(lines)), [_name(line, table) for line in lines], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("top-1 on the test set (%), sample deviation over seeds")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    return True


def margins(axes: Axes, frame: Frame) -> bool:
    """The mean margin over feature epochs, a curve for each run with learned margins."""

    def curve(run: RecordedRun) -> tuple[list[int], list[float]] | None:
        course = margin_course(run)
        return course and ([*range(len(course.means) + 1)], [course.start, *course.means])

    chains = frame[frame["of_seeds"] == CHAINS].drop_duplicates([*LINE, "seed"])
    shown = _curves(axes, [group for _, group in chains.groupby(LINE, sort=False)], frame, curve)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="feature epoch", ylabel="mean margin ε (feature distance)")
    return shown > 0


def epochs(axes: Axes, frame: Frame) -> bool:
    """NCM and linear accuracy by epoch of the longest runs of DRO-LT and its control, both by one
    protocol."""
    pairs = []
    for _, ours in frame[frame["row"] == "dro_lt"].groupby(CELL, sort=False):
        same = [name for name in CELL if name != "row"]
        base = only(frame[frame["row"] == "control"], same, ours.iloc[0])
        if paired_seeds(ours, base):
            pairs.append((base, ours))
    if not pairs:
        return False
    compared = max(pairs, key=lambda pair: pair[1].iloc[0]["length"])
    for reading, style in (("ncm", "NCM"), ("linear", "linear")):

        def curve(run: RecordedRun, reading: str = reading) -> tuple[list[int], list[float]]:
            known = [r for r in run.epochs if r["results"]["test"].get(reading)]
            tops = [r["results"]["test"][reading]["top1"] for r in known]
            return [r["epoch"] for r in known], tops

        _curves(axes, compared, frame, curve, style, first=4 * (reading == "linear"))
    protocol = compared[0].iloc[0]["protocol"]
    axes.set(xlabel=f"epoch of stage 2, by {protocol}", ylabel="top-1 on the test set (%)")
    return True


def _name(line: Line, lines: Frame) -> str:
    """Tells a line of the table from the others."""
    told = [line[name] for name in ("precision", "subset") if lines[name].nunique() > 1]
    told += [] if line["of_seeds"] == CHAINS else [line["of_seeds"]]
    return f"{line['row']} ({', '.join([str(line['length']), *told])})"


def _curves(
    axes: Axes, groups: list | tuple, frame: Frame, curve: Curve, suffix: str = "", first=0
) -> int:
    """A curve for each run, of one style and legend entry for the runs of a group; how many groups
    have any."""
    number = first
    for group in groups:
        found = [c for c in map(curve, group["run"]) if c]
        for i, (x, y) in enumerate(found):
            label = f"{_name(group.iloc[0], frame)} {suffix}".strip() if i == 0 else None
            colour, line = PALETTE[number % len(PALETTE)], LINE_STYLES[number % len(LINE_STYLES)]
            axes.plot(x, y, color=colour, linestyle=line, label=label)
        number += bool(found)
    if number > first:
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    return number - first
