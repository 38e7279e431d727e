"""How learned margins change during the feature phase, from the logs of runs."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from utils.reproduce.results import CHAINS, LINE, Frame
from utils.runs.records import RecordedRun


def course(means: Sequence[float], losses: Sequence[float], steepest: float | None) -> dict:
    """Returns what the feature phase of a run does to its learned margins.

    `start` and `last` are the mean margins at its ends, `slope` is their change per epoch by least
    squares, and `crossing` is the first epoch after which the mean margin is below zero, or
    `never`. `loss_fall` says how much the loss falls from the first epoch to the last. `share` is
    the largest share (0 to 1) of this fall that the fall of the margins can explain; NaN if no
    bound is known or the loss does not fall.

    If ε is added to the distance, 0 ≤ ∂L/∂ε_c and Σ_c ∂L/∂ε_c ≤ 1/τ; if the margins belong to
    other classes, as in the released code, the sum is bounded alone. So if all margins fall by Δ,
    the loss of a layer falls by at most Δ/τ. If they fall by different amounts, their mean counts,
    because a class-aware sampler draws all classes equally often. The loss is a mean over an epoch,
    so it is compared with the margins in the middle of that epoch.

    Args:
        means: the mean margin over classes and layers at the start and after each epoch.
        losses: the mean robust loss of each epoch, summed over layers.
        steepest: an upper bound on how fast the loss can fall with a margin that all classes and
            layers share, in 1 / unit of distance; None if no bound is known.
    """
    middles = [(a + b) / 2 for a, b in pairwise(means)]
    fall = losses[0] - losses[-1]
    share = math.nan
    if fall > 0 and steepest is not None:
        share = min(1.0, max(0.0, (middles[0] - middles[-1]) * steepest / fall))
    return {
        "start": means[0],
        "last": means[-1],
        "slope": float(np.polyfit(range(len(means)), means, 1)[0]),
        "crossing": next((i for i, value in enumerate(means) if i and value < 0), "never"),
        "loss_fall": fall,
        "share": share,
    }


def margin_course(run: RecordedRun) -> dict | None:
    """Returns the `course` of a run, or None if it has no learned margins or no robust loss."""
    options = run.options
    records = [r for r in run.epochs if r["phase"] == "features" and r["margins"]]
    robust = [[v for name, v in r["losses"].items() if "robust" in name] for r in records]
    if not records or not all(robust) or options.margin_type != "learned":
        return None
    by_layer = [list((r.get("layer_margins") or {"": r["margins"]}).values()) for r in records]
    means = [float(np.mean([np.mean(margins) for margins in layers])) for layers in by_layer]
    is_added = options.robust_distance != "squared"
    steepest = len(by_layer[0]) / options.temperature if is_added else None
    return course([options.starting_margin, *means], [math.fsum(v) for v in robust], steepest)


def margin_courses(frame: Frame) -> Frame:
    """Returns the mean course over the seeds of whole chains, for each row and length with learned
    margins. Each seed counts once, because its features take the same steps in all protocols."""
    chains = frame[frame["of_seeds"] == CHAINS].drop_duplicates([*LINE, "seed"])
    lines = [
        {name: line[name] for name in LINE} | found
        for line in chains.to_dict("records")
        if (found := margin_course(line["run"]))
    ]
    if not lines:
        return pd.DataFrame()
    courses: Frame = pd.DataFrame(lines).groupby(LINE, sort=False)
    means = {name: (name, "mean") for name in ("start", "last", "slope", "loss_fall")}
    share = ("share", lambda shares: shares.mean(skipna=False))
    return courses.agg(**means, share=share, crossings=("crossing", list)).reset_index()
