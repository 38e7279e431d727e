"""What the table says in words: every sentence is made of numbers of its cells."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from utils.reproduce.chains import Cell, Result, Table, with_defaults
from utils.reproduce.measures import (
    Difference,
    binomial_error,
    deviation,
    difference,
    joint_error,
    mean,
    number_of_images,
)
from utils.reproduce.published import PUBLISHED, REMARKS
from utils.reproduce.recipes import METHODS
from utils.runs.records import RecordedRun

DATASET_TITLES = {"cifar10": "CIFAR-10-LT", "cifar100": "CIFAR-100-LT"}

PARTS = (
    ("the robust loss", "dro_lt", "control"),
    (
        "the robust loss from a stage 1 with AutoAugment",
        "dro_lt_from_autoaugment",
        "control_from_autoaugment",
    ),
    ("AutoAugment and Cutout in stage 1", "ce_autoaugment", "ce"),
    ("LDAM-DRW, over cross-entropy,", "ldam_drw", "ce"),
    ("re-training the classifier alone, balanced,", "classifier_only", "ce"),
    ("fine-tuning the features without the robust loss", "control", "classifier_only"),
    ("all of stage 2", "dro_lt", "ce"),
    ("learning the margins, over one shared margin,", "dro_lt", "dro_lt_shared"),
    ("learning the margins, over margins by sample count,", "dro_lt", "dro_lt_sample_count"),
    ("bounding the margins at zero", "dro_lt_bounded", "dro_lt"),
    ("sparing the margins weight decay", "dro_lt_no_decay", "dro_lt"),
    ("giving margins to the wrong classes, as released,", "dro_lt_released", "dro_lt"),
    ("the robust loss with margins bounded at zero", "dro_lt_bounded", "control"),
    ("the robust loss by normalised distances", "dro_lt_normalised", "control"),
    ("not balancing the classifier phase", "dro_lt_instance", "dro_lt"),
    ("AutoAugment in the stage 1 of DRO-LT", "dro_lt_from_autoaugment", "dro_lt"),
    ("twice the weight decay in stage 1", "ce_decay", "ce"),
    ("twice the weight decay in the stage 1 of DRO-LT", "dro_lt_from_decay", "dro_lt"),
)
"""What is added, by the difference of which two methods."""


def findings(table: Table, cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Sentences by subject on the cells, in their order, which are of one data set and ratio."""
    parts = [sentence for part in PARTS for sentence in _part(table, cells, *part)]
    # One protocol speaks for the margins: their features are trained by the same steps.
    firsts = {cell.line: cell for cell in reversed(cells)}
    margins = [s for c in cells if firsts[c.line] == c for s in _margins(table, c)]
    found = {
        "Does the published number hold?": list(_published(table, cells)),
        "What does each part add?": parts,
        "What do the learned margins do?": margins,
    }
    return {subject: sentences for subject, sentences in found.items() if sentences}


def setting(cell: Cell) -> str:
    """Of which lengths, precision and protocol a sentence is."""
    cut = "" if cell.length.is_full(cell.row) else " (cut short)"
    precision = "" if cell.precision == "float32" else f", {cell.precision}"
    return f"by `{cell.protocol}`, {cell.length} epochs{cut}{precision}"


def _published(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Runs cut short count only where there is none at full length."""
    answered = {(c.row, c.protocol) for c in cells if c.length.is_full(c.row)}
    for cell in cells:
        row = cell.row
        published = PUBLISHED.get((row.dataset, row.ratio, row.method))
        is_answered = not cell.length.is_full(row) and (row, cell.protocol) in answered
        if published is None or is_answered:
            continue
        tops = [result.top1 for result in table[cell].values()]
        remark = REMARKS.get((row.dataset, row.ratio, row.method))
        yield (
            f"{_capital(METHODS[row.method].title)} (`{row.method}`) gives {mean(tops):.2f} "
            f"{setting(cell)}, {mean(tops) - published:+.2f} to the published {published}"
            f"{f', of which {remark}' if remark else ''} "
            f"({_seeds(len(tops), deviation(tops))}): {_agreement(cell, table[cell], published)}."
        )


def _agreement(cell: Cell, results: dict[int, Result], published: float) -> str:
    """What the runs say of the published number."""
    if not cell.length.is_full(cell.row):
        return "a run cut short, which says nothing against it"
    tops = [result.top1 for result in results.values()]
    points = mean(tops) - published
    side = "reached" if points >= 0 else "not reached"
    images = next(filter(None, map(number_of_images, results.values())), None)
    if images is None:
        return f"the published number is {side}"
    error = joint_error(deviation(tops), len(tops), binomial_error(mean(tops), images))
    size = f"twice the standard error of {error:.2f}"
    if abs(points) <= 2 * error:
        return f"it agrees with the published number within {size}"
    return f"the published number is {side}, by more than {size}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _seeds(number: int, spread: float | None) -> str:
    if spread is None:
        return "one seed: no deviation"
    return f"{number} seeds, standard deviation {spread:.2f}"


def _part(table: Table, cells: Sequence[Cell], what: str, ours: str, theirs: str) -> Iterator[str]:
    for cell in cells:
        base = cell.of(theirs)
        if cell.row.method != ours or base not in table:
            continue
        found = difference(table[cell], table[base])
        if found is None:
            continue
        tops = [
            mean([results[seed].top1 for seed in found.seeds])
            for results in (table[cell], table[base])
        ]
        yield (
            f"What {what} adds, {setting(cell)}: **{found.points:+.2f}** points (`{ours}` "
            f"{tops[0]:.2f}, `{theirs}` {tops[1]:.2f}; {_uncertainty(found)}){_verdict(found)}"
            f"{_ncm_difference(table[cell], table[base], found.seeds)}."
        )


def _uncertainty(found: Difference) -> str:
    parts = [_seeds(len(found.seeds), found.deviation)]
    if found.image_error is not None:
        kind = "the same test images" if found.is_paired else "test images taken as independent"
        parts.append(f"standard error over {kind} {found.image_error:.2f}")
    return "; ".join(parts)


def _verdict(found: Difference) -> str:
    if found.error is None:
        return ""
    size = f"twice the standard error of {found.error:.2f}"
    if abs(found.points) <= 2 * found.error:
        return f": within {size}, so these runs cannot tell it from nothing"
    if len(found.seeds) == 1:
        return f": more than {size}, but one seed does not show how runs vary"
    return f": more than {size}"


def _ncm_difference(
    ours: dict[int, Result], theirs: dict[int, Result], seeds: Sequence[int]
) -> str:
    values = [[results[s].accuracies["ncm"] for s in seeds] for results in (ours, theirs)]
    if None in values[0] + values[1]:
        return ""
    first, second = map(mean, values)
    return f"; NCM of the features {first - second:+.2f} ({first:.2f}, {second:.2f})"


@dataclass(frozen=True)
class MarginCourse:
    """How the mean margin and the robust loss of one run went over its feature epochs.

    Args:
        start: the margin at the start.
        means: the mean over classes, of all layers, after each epoch.
        losses: the mean robust loss of each epoch, the sum over layers.
        steepest: a bound on the loss's slope in a margin common to all classes and layers, in
            1 / unit of distance; None where there is none.
    """

    start: float
    means: list[float]
    losses: list[float]
    steepest: float | None

    @property
    def slope(self) -> float:
        """Change per epoch, by least squares over the epochs and the start."""
        values = [self.start, *self.means]
        return float(np.polyfit(range(len(values)), values, 1)[0])

    @property
    def crossing(self) -> int | None:
        """The first epoch after which the mean is below zero."""
        return next((i for i, value in enumerate(self.means, 1) if value < 0), None)

    @property
    def loss_fall(self) -> float:
        """From the first epoch to the last."""
        return self.losses[0] - self.losses[-1]

    @property
    def largest_share(self) -> float | None:
        """The largest part of the loss's fall that the margins' fall can account for, 0 to 1.

        Where ε is added to the distance, 0 ≤ ∂L/∂ε_c and Σ_c ∂L/∂ε_c ≤ 1/τ: a fall of all margins
        by Δ lowers the loss of a layer by at most Δ/τ. A loss is a mean over an epoch, so the
        margins are taken in the middle of it.
        """
        if self.loss_fall <= 0 or self.steepest is None:
            return None
        middles = [(a + b) / 2 for a, b in zip([self.start, *self.means], self.means, strict=False)]
        bound = (middles[0] - middles[-1]) * self.steepest
        return min(1.0, max(0.0, bound / self.loss_fall))


def margin_course(run: RecordedRun) -> MarginCourse | None:
    """Of a run with learned margins and a feature phase with the robust loss; else None."""
    arguments = with_defaults(run.arguments)
    records = [r for r in run.epochs if r["phase"] == "features" and r["margins"]]
    if not records or arguments["margin_type"] != "learned" or _robust_losses(run)[0] is None:
        return None
    by_layer = [list((r.get("layer_margins") or {"": r["margins"]}).values()) for r in records]
    is_added = arguments["robust_distance"] != "squared"
    return MarginCourse(
        1.0 if arguments["as_released"] else arguments["margin"],
        [mean([mean(margins) for margins in layers]) for layers in by_layer],
        _robust_losses(run),
        len(by_layer[0]) / arguments["temperature"] if is_added else None,
    )


def _robust_losses(run: RecordedRun) -> list[float | None]:
    """The robust loss of each feature epoch, summed over layers; None where there is none."""
    records = [r["losses"] for r in run.epochs if r["phase"] == "features"]
    parts = [[v for name, v in losses.items() if "robust" in name] for losses in records]
    return [math.fsum(values) if values else None for values in parts] or [None]


def _margins(table: Table, cell: Cell) -> Iterator[str]:
    runs = [result.chain.run for result in table[cell].values()] if cell.row.start else []
    courses = [course for course in map(margin_course, runs) if course]
    if not courses:
        return
    epochs = len(courses[0].means)
    crossings = [course.crossing for course in courses]
    crossed = (
        f"falls below zero after epoch {', '.join(map(str, crossings))}"
        if None not in crossings
        else "does not fall below zero"
        if not any(crossings)
        else "falls below zero with some seeds only"
    )
    last = mean([course.means[-1] for course in courses])
    text = (
        f"The mean margin of `{cell.row.method}` ({cell.length} epochs) changes by "
        f"{mean([course.slope for course in courses]):+.3f} an epoch over {epochs} feature epochs, "
        f"from {courses[0].start:g} to {last:.2f}, and {crossed}"
    )
    shares = [course.largest_share for course in courses]
    if None not in shares:
        text += (
            f"; the robust loss falls by {mean([c.loss_fall for c in courses]):.2f} from the first "
            f"to the last of them, of which the margins' own fall accounts for at most "
            f"{100 * mean(shares):.0f} %"
        )
        fixed = [result.chain.run for result in table.get(cell.of("dro_lt_shared"), {}).values()]
        if fixed and _loss_settings(fixed[0]) == _loss_settings(runs[0]):
            losses = map(_robust_losses, fixed)
            falls = [of_run[0] - of_run[-1] for of_run in losses]
            text += f" (with one fixed margin it falls by {mean(falls):.2f})"
    yield text + "."


def _loss_settings(run: RecordedRun) -> dict:
    """What decides the robust loss but for its margins."""
    names = ("feat_loss", "temperature", "robust_weight", "robust_distance", "feat_layers")
    arguments = with_defaults(run.arguments)
    return {name: arguments[name] for name in names}
