"""How learned margins change during the feature phase, from the logs of runs."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from utils.options.flags import Options
from utils.reproduce.results import CHAINS, LINE, Frame
from utils.runs.records import RecordedRun


@dataclass(frozen=True)
class MarginCourse:
    """The mean margin and the robust loss of one run, for each feature epoch.

    Args:
        start: the margin at the start.
        means: the mean margin over classes and layers after each epoch.
        losses: the mean robust loss of each epoch, summed over layers.
        steepest: an upper bound on how fast the loss can fall with a margin that all classes and
            layers share, in 1 / unit of distance; None if no bound is known.
    """

    start: float
    means: list[float]
    losses: list[float]
    steepest: float | None

    @property
    def slope(self) -> float:
        """The change of the mean margin per epoch, by least squares."""
        values = [self.start, *self.means]
        return float(np.polyfit(range(len(values)), values, 1)[0])

    @property
    def crossing(self) -> int | None:
        """The first epoch after which the mean margin is below zero, or None."""
        return next((i for i, value in enumerate(self.means, 1) if value < 0), None)

    @property
    def loss_fall(self) -> float:
        """How much the robust loss falls from the first epoch to the last."""
        return self.losses[0] - self.losses[-1]

    @property
    def largest_share(self) -> float | None:
        """The largest share (0 to 1) of the fall of the loss that the fall of the margins can
        explain; None if no bound is known or the loss does not fall.

        If ε is added to the distance, 0 ≤ ∂L/∂ε_c and Σ_c ∂L/∂ε_c ≤ 1/τ; if the margins belong to
        other classes, as in the released code, the sum is bounded alone. So if all margins fall by
        Δ, the loss of a layer falls by at most Δ/τ. If they fall by different amounts, their mean
        counts, because a class-aware sampler draws all classes equally often. The loss is a mean
        over an epoch, so it is compared with the margins in the middle of that epoch.
        """
        if self.loss_fall <= 0 or self.steepest is None:
            return None
        middles = [(a + b) / 2 for a, b in zip([self.start, *self.means], self.means, strict=False)]
        bound = (middles[0] - middles[-1]) * self.steepest
        return min(1.0, max(0.0, bound / self.loss_fall))


def margin_course(run: RecordedRun) -> MarginCourse | None:
    """Returns the course of a run, or None if it has no learned margins or no robust loss."""
    options = Options.from_record(run.arguments)
    records = [r for r in run.epochs if r["phase"] == "features" and r["margins"]]
    losses = robust_losses(run)
    if not records or options.margin_type != "learned" or losses is None:
        return None
    by_layer = [list((r.get("layer_margins") or {"": r["margins"]}).values()) for r in records]
    is_added = options.robust_distance != "squared"
    return MarginCourse(
        options.starting_margin,
        [float(np.mean([np.mean(margins) for margins in layers])) for layers in by_layer],
        losses,
        len(by_layer[0]) / options.temperature if is_added else None,
    )


def robust_losses(run: RecordedRun) -> list[float] | None:
    """Returns the robust loss of each feature epoch, summed over layers, or None if the run has no
    robust loss."""
    records = [r["losses"] for r in run.epochs if r["phase"] == "features"]
    parts = [[v for name, v in losses.items() if "robust" in name] for losses in records]
    return [math.fsum(values) for values in parts] if parts and all(parts) else None


def margin_courses(frame: Frame) -> Frame:
    """Returns the mean course over the seeds of whole chains, for each row and length with learned
    margins. Each seed counts once, because its features take the same steps in all protocols."""
    chains = frame[frame["of_seeds"] == CHAINS].drop_duplicates([*LINE, "seed"])
    lines = [
        {
            **{name: line[name] for name in LINE},
            "start": course.start,
            "last": course.means[-1],
            "slope": course.slope,
            "crossing": course.crossing or "never",
            "loss_fall": course.loss_fall,
            "share": np.nan if course.largest_share is None else course.largest_share,
        }
        for line in chains.to_dict("records")
        if (course := margin_course(line["run"]))
    ]
    if not lines:
        return pd.DataFrame()
    courses: Frame = pd.DataFrame(lines).groupby(LINE, sort=False)
    means = {name: (name, "mean") for name in ("start", "last", "slope", "loss_fall")}
    share = ("share", lambda shares: shares.mean(skipna=False))
    return courses.agg(**means, share=share, crossings=("crossing", list)).reset_index()
