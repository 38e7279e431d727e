"""The sections of the comparison page that are drawn from logs: curves, accuracy of each class, and
margins."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes

from utils.evaluation.shot_groups import FEW_BELOW, MANY_ABOVE
from utils.report import figures
from utils.report.run_groups import SettingsGroup, class_counts
from utils.runs.records import MissingRecord, RecordedRun

Found = TypeVar("Found")

MAX_LABELLED = 6
"""Legends describe the groups if there are no more than this; otherwise they have only letters."""
MAX_LABEL = 44
"""The largest number of characters of a label in a legend."""


@dataclass(frozen=True)
class Figure:
    """One picture of the page.

    Args:
        name: name of its PNG file, without the suffix.
        caption, alt: the text below the picture, and its description for screen readers; plain
            text.
        draw: draws the picture on given axes.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[Axes], None]


@dataclass
class Section:
    """A section of the page: its anchor, its heading, a text about its figures, the figures, and a
    sentence for each figure that is left out. All texts are plain text."""

    identifier: str
    title: str
    intro: str
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def leave_out(self, group: SettingsGroup, reason: object, remedy: str) -> None:
        """Adds a sentence on which group is left out, why, and what to do about it."""
        self.missing.append(f"Left out for {name_of(group)}: {reason}; {remedy}.")

    def first_runs(
        self,
        groups: Iterable[SettingsGroup],
        attempt: Callable[[RecordedRun], Found],
        remedy: str,
    ) -> Iterator[tuple[SettingsGroup, RecordedRun, Found]]:
        """Yields each group with its first run for which `attempt` finds what it needs, and the
        result of `attempt`. A group without such a run is left out, for the reason that `attempt`
        gives for its first run."""
        for group in groups:
            reasons = []
            for run in group.by_rank:
                try:
                    yield group, run, attempt(run)
                    break
                except MissingRecord as reason:
                    reasons.append(reason)
            else:
                self.leave_out(group, reasons[0], remedy)


def name_of(group: SettingsGroup, run: RecordedRun | None = None) -> str:
    """Returns the name of a group, or of one of its runs, for captions."""
    seed = f", seed {run.seed}" if run else ""
    return f"{group.letter} ({group.description}{seed})"


def training_curves(groups: Sequence[SettingsGroup]) -> Section:
    """Returns the section of accuracies and losses over epochs, with all runs on common axes."""
    intro = "One line per run; runs of the same settings share colour, line and marker."
    runs = [run for group in groups for run in group.runs]
    if any(run.epochs and not run.is_finished for run in runs):
        intro += " A cross ends the line of an unfinished run."
    section = Section("curves", "Training curves", intro)
    for group in groups:
        if not any(run.epochs for run in group.runs):
            section.leave_out(group, "there is no epoch in its log.jsonl", "train it")

    def add(name: str, title: str, ylabel: str, caption: str, read: Callable) -> None:
        curves = _curves(groups, read)
        if curves:
            alt = f"{title} against the epoch, lines of {len(curves)} runs."
            draw = partial(figures.compare, curves=curves, title=title, ylabel=ylabel)
            section.figures.append(Figure(name, caption, alt, draw))

    add(
        "linear",
        "Linear accuracy on the test set",
        "top-1 (%)",
        "Top-1 accuracy of the network's own classifier on the test set.",
        lambda record: record["results"]["test"]["linear"]["top1"],
    )
    add(
        "ncm",
        "NCM accuracy on the test set",
        "top-1 (%)",
        "Top-1 accuracy of the nearest class mean on the test set, at epochs that have it.",
        lambda record: (record["results"]["test"]["ncm"] or {}).get("top1"),
    )
    add(
        "test_loss",
        "Cross-entropy on the test set",
        "loss",
        "Mean cross-entropy of the test images.",
        lambda record: record["results"]["test"]["linear"]["loss"],
    )
    names = dict.fromkeys(
        name for run in runs for record in run.epochs for name in record["losses"]
    )
    for i, name in enumerate(names):
        caption = f"The part {name} of the training loss, over the epochs that have it."
        title = f"Training loss: {figures.plain(name)}"
        add(
            f"train_loss_{i + 1}",
            title,
            "loss",
            caption,
            lambda record, name=name: record["losses"].get(name),
        )
    return section


def _curves(
    groups: Sequence[SettingsGroup], read: Callable[[dict], float | None]
) -> list[figures.Curve]:
    curves = []
    for group in groups:
        label: str | None = _label(group, len(groups))
        for run in group.runs:
            points = [(record["epoch"], read(record)) for record in run.epochs]
            points = [(epoch, value) for epoch, value in points if value is not None]
            if points:
                epochs, values = zip(*points, strict=True)
                curves.append(figures.Curve(label, group.number, epochs, values, run.is_finished))
                label = None
    return curves


def _label(group: SettingsGroup, count: int) -> str:
    if count > MAX_LABELLED:
        return group.letter
    text = f"{group.letter}: {group.description}"
    return figures.plain(text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…")


def accuracy_by_class(groups: Sequence[SettingsGroup]) -> Section:
    """Returns the section of per-class accuracies against class size, as means over each group's
    runs."""
    section = Section(
        "classes",
        "Accuracy of each class against its size",
        f"The vertical lines at {FEW_BELOW} and {MANY_ABOVE} training images separate few-, "
        "medium- and many-shot classes. In brackets: number of classes.",
    )
    for group in groups:
        shown = [run for run in group.finished or group.unfinished if run.shown]
        if not shown:
            section.leave_out(group, "no epoch is finished", "train it")
            continue
        try:
            counts = class_counts(shown[0])
        except MissingRecord as reason:
            section.leave_out(group, reason, "continue it with --resume True")
            continue
        which = "selected epoch" if shown[0].is_finished else "last epoch so far (unfinished)"
        over = f", mean over {len(shown)} runs" if len(shown) > 1 else ""
        name = name_of(group)
        section.figures.append(
            Figure(
                f"{group.letter}_accuracy_by_size",
                f"{name}: {which}{over}.",
                f"Accuracy of {len(counts)} classes against their training images, {name}.",
                partial(figures.accuracy_by_size, per_class=_mean_per_class(shown), counts=counts),
            )
        )
    return section


def _mean_per_class(runs: Sequence[RecordedRun]) -> list[float]:
    """Returns the mean accuracy of each class; NaN for a class that a run has no test images of."""
    per_class = [shown["test"]["linear"]["per_class"] for run in runs if (shown := run.shown)]
    return np.array(per_class, dtype=float).mean(axis=0).tolist()


def margins(groups: Sequence[SettingsGroup]) -> Section:
    """Returns the section of margins over epochs and against class size, with one run of each
    group."""
    section = Section(
        "margins",
        "Margins",
        "First figure: mean (line) and range (band) of the margins ε of the many-, medium- and "
        "few-shot classes, with a dotted line between the phases. Second figure: the margin of "
        "each class.",
    )

    def attempt(run: RecordedRun) -> np.ndarray:
        if run.margin_record is None:
            raise MissingRecord("no epoch of it has the robust loss")
        return class_counts(run)

    remedy = "train a stage 2 with robust_loss in --feat_loss, or a stage 1 with --robust_weight"
    for group, run, counts in section.first_runs(groups, attempt, remedy):
        records = [record for record in run.epochs if record["margins"]]
        shown, name = run.margin_record, name_of(group, run)
        assert shown is not None  # `attempt` has checked it
        section.figures += [
            Figure(
                f"{group.letter}_margins_over_time",
                f"{name}: margins over time.",
                f"Margins against the epoch by group of classes, {name}.",
                partial(figures.margins_over_time, records=records, counts=counts),
            ),
            Figure(
                f"{group.letter}_margins_by_size",
                f"{name}: margins at epoch {shown['epoch']}.",
                f"Margins of {len(counts)} classes against their training images, {name}.",
                partial(figures.margins_by_size, record=shown, counts=counts),
            ),
        ]
    return section
