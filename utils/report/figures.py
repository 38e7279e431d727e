"""Draws a run's records on given axes, for `report.png` and for the comparison page."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from utils.evaluation.calibration import expected_calibration_error, reliability_bins
from utils.evaluation.shot_groups import FEW_BELOW, GROUPS, MANY_ABOVE, group_of_counts

# Okabe and Ito's palette can be told apart by colour-blind readers. Lines and markers differ too,
# for print without colour.
COLOURS = {"many": "#0072B2", "medium": "#009E73", "few": "#D55E00", "all": "#000000"}
LINES = {"many": "--", "medium": "-.", "few": ":", "all": "-"}
MARKERS = {"many": "o", "medium": "s", "few": "^"}
NCM_COLOUR = "#CC79A7"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", "-.", ":")
POINT_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")

MAX_TICKS = 12
MAX_CELLS = 200
"""With more classes, neighbours by size share a row and a column of the confusion matrix. A cell
would be smaller than a pixel, and most of them would not be drawn."""
MAX_NAME = 16
"""The largest number of characters of a class's name in a figure."""


def losses(axes: Axes, records: Sequence[dict]) -> None:
    """Draws a run's training losses, and its cross-entropy on the test images, over epochs.

    Args:
        axes: where to draw.
        records: the entries of `log.jsonl`.
    """
    names = dict.fromkeys(name for record in records for name in record["losses"])
    for i, name in enumerate(names):
        having = [record for record in records if name in record["losses"]]
        values = [record["losses"][name] for record in having]
        colour, line = PALETTE[i % len(PALETTE)], LINE_STYLES[i % len(LINE_STYLES)]
        axes.plot(epochs_of(having), values, color=colour, linestyle=line, label=f"train {name}")
    test = [record["results"]["test"]["linear"]["loss"] for record in records]
    axes.plot(epochs_of(records), test, color="0.5", linestyle="--", label="test cross-entropy")
    _mark_phases(axes, records)
    axes.set(title="Losses")
    _epoch_axis(axes)
    axes.legend()


def accuracies(axes: Axes, records: Sequence[dict]) -> None:
    """Draws a run's accuracies on the test images over epochs: of the network's own classifier, for
    all images and by group, and of NCM.

    Args:
        axes: where to draw.
        records: the entries of `log.jsonl`.
    """
    epochs = epochs_of(records)
    for name in ("top1", *GROUPS):
        values = [record["results"]["test"]["linear"][name] for record in records]
        if any(value is not None for value in values):
            key = "all" if name == "top1" else name
            style: dict[str, Any] = {"color": COLOURS[key], "linestyle": LINES[key]}
            axes.plot(epochs, np.array(values, dtype=float), label=f"linear, {key}", **style)
    with_ncm = [record for record in records if record["results"]["test"]["ncm"]]
    values = [record["results"]["test"]["ncm"]["top1"] for record in with_ncm]
    dashed: dict[str, Any] = {
        "color": NCM_COLOUR,
        "linestyle": "--",
        "marker": ".",
        "markevery": 0.1,
    }
    axes.plot(epochs_of(with_ncm), values, label="NCM, all", **dashed)
    _mark_phases(axes, records)
    axes.set(title="Accuracy on the test set", ylabel="top-1 (%)")
    _epoch_axis(axes)
    axes.legend()


def accuracy_by_size(axes: Axes, per_class: Sequence[float | None], counts: np.ndarray) -> None:
    """Draws the accuracy of each class against its number of training images.

    Args:
        axes: where to draw.
        per_class: accuracies in percent ``[K]``; None or NaN for a class without images.
        counts: training images of each class ``[K]``.
    """
    _scatter_by_size(axes, np.array(per_class, dtype=float), counts)
    axes.set(title="Accuracy of each class against its size", ylabel="linear top-1 (%)")
    # All runs have one scale; the legend has room above 100 %, where no point can be.
    axes.set(ylim=(-4, 119), yticks=range(0, 101, 20))
    axes.legend(loc="upper center", ncols=3, columnspacing=1, handletextpad=0.2)


def margins_over_time(axes: Axes, records: Sequence[dict], counts: np.ndarray) -> None:
    """Draws the mean and the range of each group's margins over epochs.

    Args:
        axes: where to draw.
        records: entries of `log.jsonl` that have margins.
        counts: training images of each class ``[K]``.
    """
    margins = np.array([record["margins"] for record in records])
    groups = group_of_counts(counts)
    epochs = epochs_of(records)
    for group in GROUPS:
        members = margins[:, groups == group]
        if members.size:
            style: dict[str, Any] = {"color": COLOURS[group], "linestyle": LINES[group]}
            axes.plot(epochs, members.mean(axis=1), label=group, **style)
            low, high = members.min(axis=1), members.max(axis=1)
            axes.fill_between(epochs, low, high, color=COLOURS[group], alpha=0.15)
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    _mark_phases(axes, records)
    axes.set(title="Margins: mean and range of each group", ylabel="ε")
    _epoch_axis(axes)
    axes.legend()


def margins_by_size(axes: Axes, record: dict, counts: np.ndarray) -> None:
    """Draws the margins of one epoch against the classes' numbers of training images."""
    _scatter_by_size(axes, np.array(record["margins"]), counts)
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.set(title=f"Margins against class size, epoch {record['epoch']}", ylabel="ε")


def confusion(
    axes: Axes,
    labels: np.ndarray,
    preds: np.ndarray,
    counts: np.ndarray,
    names: Sequence[str],
) -> None:
    """Draws the confusion matrix, largest class first. Each row, a true class, adds up to 100 %. If
    there are more than `MAX_CELLS` classes, each row and column is a group of classes of similar
    size.

    Args:
        axes: where to draw.
        labels, preds: true and predicted labels ``[N]``.
        counts: training images of each class ``[K]``.
        names: names of the classes ``[K]``; shown if they are few.
    """
    # Scikit-learn takes most of a second to import, and training does not need it.
    from sklearn.metrics import confusion_matrix

    by_size = np.argsort(-counts, kind="stable")
    cells = min(len(counts), MAX_CELLS)
    cell_of = np.empty(len(counts), dtype=np.int64)
    cell_of[by_size] = np.arange(len(counts)) * cells // len(counts)
    pair = cell_of[labels], cell_of[preds]
    shares = confusion_matrix(*pair, labels=np.arange(cells), normalize="true")
    # The scale is a square root, so that a few percent can be seen among a hundred classes.
    scale = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(100 * shares, cmap="cividis", norm=scale, interpolation="nearest")
    if len(counts) <= MAX_TICKS:
        shown = [class_name(names, label) for label in by_size]
        axes.set_xticks(range(len(counts)), shown, rotation=90 if max(map(len, shown)) > 2 else 0)
        axes.set_yticks(range(len(counts)), shown)
    is_grouped = cells < len(counts)
    rows = f"{cells} groups" if is_grouped else "classes"
    axes.set(
        title=f"Confusion on the test set, {rows} by size",
        xlabel="predicted (largest class first)",
        ylabel="true",
    )
    unit = "% of the true group of classes" if is_grouped else "% of the true class"
    ticks = (0, 1, 5, 20, 40, 60, 80, 100)
    axes.figure.colorbar(image, ax=axes, label=unit, ticks=ticks)


@dataclass(frozen=True)
class Curve:
    """One run's values over epochs.

    Args:
        label: the text in the legend; None if another run of the same settings has it.
        style: number of the settings; it decides colour, line and marker.
        epochs, values: the points of the curve.
        is_finished: False if the run is unfinished; then the curve ends in a cross.
    """

    label: str | None
    style: int
    epochs: Sequence[int]
    values: Sequence[float]
    is_finished: bool = True


def compare(axes: Axes, curves: Sequence[Curve], title: str, ylabel: str) -> None:
    """Draws the curves of several runs. Runs of the same settings share one entry of the legend."""
    for curve in curves:
        style = _style(curve.style)
        every = max(1, len(curve.values) // 8)
        # Curves that lie on each other have their markers at different epochs. Steps of the golden
        # ratio keep any number of markers apart.
        start = int(every * (0.618 * curve.style % 1))
        axes.plot(
            curve.epochs,
            curve.values,
            label=curve.label,
            markevery=(start, every),
            markersize=4,
            linewidth=1.4 if len(curves) <= 6 else 1,
            alpha=0.85,
            **style,
        )
        if not curve.is_finished and len(curve.values):
            end = curve.epochs[-1], curve.values[-1]
            axes.plot(*end, marker="x", markersize=9, markeredgewidth=2, color=style["color"])
    axes.set(title=title, ylabel=ylabel)
    _epoch_axis(axes)
    labelled = [curve.label for curve in curves if curve.label]
    columns = max(1, min(6, 60 // (6 + max(map(len, labelled), default=1))))
    axes.figure.legend(loc="outside lower center", ncols=columns)


def reliability(axes: Axes, confs: np.ndarray, correct: np.ndarray) -> None:
    """Draws for each bin of confidence the accuracy of its images, and the share of images in it.

    Args:
        axes: where to draw.
        confs: largest softmax probability of each image ``[N]``.
        correct: True for each image whose prediction is right, bool ``[N]``.
    """
    shares, confidence, accuracy = reliability_bins(confs, correct)
    centres = (np.arange(len(shares)) + 0.5) / len(shares)
    width = 1 / len(shares)
    axes.bar(centres, 100 * shares, width, color="0.85", edgecolor="0.6", label="% of images")
    axes.plot([0, 1], [0, 100], color="0.4", linestyle="--", linewidth=1, label="calibrated")
    axes.plot(
        confidence,
        100 * accuracy,
        color=COLOURS["many"],
        marker="o",
        markersize=5,
        label="accuracy (%)",
    )
    error = 100 * expected_calibration_error(confs, correct)
    axes.set(
        title=f"Reliability, expected calibration error {error:.2f} %",
        xlabel="confidence (mean of the bin)",
        ylabel="%",
        xlim=(0, 1),
        ylim=(0, 103),
    )
    axes.legend(loc="upper left")


@dataclass(frozen=True)
class ClassCloud:
    """A class in the map of features.

    Args:
        name: the text in the legend.
        features: features of its test images ``[N, D]``.
        centroid: mean of its training features ``[D]``, or None.
        margin: radius ε of the circle around the centroid, or None.
    """

    name: str
    features: np.ndarray
    centroid: np.ndarray | None
    margin: float | None


def feature_map(axes: Axes, clouds: Sequence[ClassCloud], title: str) -> None:
    """Draws the classes' features in the plane of their two largest principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2).fit(np.concatenate([cloud.features for cloud in clouds]))
    reached = []
    for i, cloud in enumerate(clouds):
        colour, marker = PALETTE[i % len(PALETTE)], POINT_MARKERS[i % len(POINT_MARKERS)]
        style = {"color": colour, "marker": marker}
        points = pca.transform(cloud.features) if len(cloud.features) else np.empty((0, 2))
        axes.scatter(*points.T, s=14, alpha=0.55, linewidths=0, label=cloud.name, **style)
        reached.append(points)
        if cloud.centroid is None:
            continue
        centre = pca.transform(cloud.centroid[np.newaxis])[0]
        axes.scatter(*centre, s=70, edgecolors="black", linewidths=1.4, zorder=3, **style)
        reached.append(centre[np.newaxis])
        if cloud.margin is not None and cloud.margin > 0:
            line = LINE_STYLES[i % len(LINE_STYLES)]
            look = {"fill": False, "color": colour, "linestyle": line, "linewidth": 1.6}
            axes.add_patch(Circle(centre, cloud.margin, zorder=4, **look))
    _frame(axes, np.vstack(reached), max((cloud.margin or 0 for cloud in clouds), default=0))
    axes.set(title=title, xlabel="first component", ylabel="second component")
    axes.locator_params(nbins=6)
    axes.figure.legend(
        loc="outside lower center", ncols=2, markerscale=1.6, title="class (training images)"
    )


def _frame(axes: Axes, points: np.ndarray, margin: float) -> None:
    """Equal scales, so that circles are round, and room for the circles unless they are far larger
    than the cloud of points."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = (high - low).max() or 1.0
    room = min(1.05 * margin, extent) + 0.03 * extent
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlim(low[0] - room, high[0] + room)
    axes.set_ylim(low[1] - room, high[1] + room)
    # Otherwise matplotlib logs that it widens one of them, as it should.
    axes.set_autoscale_on(True)


def plain(text: str) -> str:
    """Returns the text on one line, with `$` escaped, which would begin a formula in matplotlib."""
    return " ".join(text.split()).replace("$", r"\$")


def class_name(names: Sequence[str], label: int) -> str:
    """Returns the name of a class for a figure; its number if matplotlib cannot draw the name: its
    font lacks a character, or the script runs from right to left. A long name lacks its middle,
    because long names often begin alike; the number tells those apart that are still equal."""
    name = _cut(names[label])
    font = get_font(findfont(FontProperties()))
    if not name or any(
        not font.get_char_index(ord(char)) or unicodedata.bidirectional(char) in ("R", "AL")
        for char in name
    ):
        return str(label)
    is_unique = sum(_cut(other) == name for other in names) == 1
    return plain(name if is_unique else f"{label} {name}")


def _cut(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME else f"{name[:6]}…{name[7 - MAX_NAME :]}"


def epochs_of(records: Sequence[dict]) -> list[int]:
    """Returns the epochs of these entries of `log.jsonl`."""
    return [record["epoch"] for record in records]


def _style(number: int) -> dict:
    """Returns colour, line and marker of the settings with this number. The combination repeats
    after 56 numbers, the least common multiple of 7, 4 and 8."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        "marker": POINT_MARKERS[number % len(POINT_MARKERS)],
    }


def _epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.locator_params("x", integer=True)


def _mark_phases(axes: Axes, records: Sequence[dict]) -> None:
    for before, after in pairwise(records):
        if before["phase"] != after["phase"]:
            axes.axvline(before["epoch"] + 0.5, color="0.6", linestyle=":", linewidth=1)


def _scatter_by_size(axes: Axes, values: np.ndarray, counts: np.ndarray) -> None:
    groups = group_of_counts(counts)
    for group in GROUPS:
        members = groups == group
        if members.any():
            axes.scatter(
                counts[members],
                values[members],
                s=18,
                marker=MARKERS[group],
                color=COLOURS[group],
                label=f"{group} ({members.sum()})",
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for bound in (FEW_BELOW, MANY_ABOVE):
        axes.axvline(bound, color="0.8", linewidth=1, zorder=0)
    axes.set_xlabel("training images of the class")
