"""The readings of the robust loss in the order that held-out images put them in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from utils.reproduce.chains import Cell, Result, Table
from utils.reproduce.measures import (
    comparable_seeds,
    deviation,
    joint_error,
    mean,
    unpaired_error,
)
from utils.runs.records import accuracies_of

CONTROL = "control"
COMPARED = ("heldout", "top1", "ncm")


@dataclass(frozen=True)
class Reading:
    """One reading against the control, at the last epoch of the runs of the seeds that both have.

    Args:
        cell: what it is.
        seeds: those.
        accuracies: in percent: `heldout`, the mean of per-class accuracies on held-out images;
            `top1` and `ncm` on the test set.
        ahead: of the control, in points, by the same names.
        error: the standard error of `ahead["heldout"]` by seeds and images, the images taken as
            independent, which makes it too large.
    """

    cell: Cell
    seeds: list[int]
    accuracies: dict[str, float]
    ahead: dict[str, float]
    error: float


@dataclass(frozen=True)
class Ranking:
    """Readings of the same length, precision, images and protocol, the best on held-out images
    first, and the accuracies of their control, over all its seeds."""

    control: Cell
    seeds: list[int]
    accuracies: dict[str, float]
    readings: list[Reading]

    def lines(self) -> Iterator[str]:
        """As Markdown: a table and what it says."""
        cell = self.control
        yield (
            f"Last epochs of the runs by `{cell.protocol}`, {cell.length} epochs, "
            f"{cell.precision}; in brackets against `{CONTROL}`, which has no robust loss, over "
            "the seeds that both have; ± is the standard error, held-out images taken as "
            "independent."
        )
        if cell.protocol == "test":
            yield (
                "\nThe checkpoints that these last epochs go back to were chosen on the test set."
            )
        yield "\n| row | held-out | test | NCM, test | seeds |\n|---|---|---|---|---|"
        yield _row(CONTROL, [f"{self.accuracies[name]:.2f}" for name in COMPARED], self.seeds)
        for reading in self.readings:
            values = [f"{reading.accuracies[n]:.2f} ({reading.ahead[n]:+.2f}" for n in COMPARED]
            values[0] += f" ± {reading.error:.2f}"
            yield _row(reading.cell.row.method, [f"{v})" for v in values], reading.seeds)
        best = self.readings[0]
        ahead = best.ahead["heldout"]
        if abs(ahead) <= 2 * best.error:
            verdict = "within twice the standard error, so these images do not tell them apart"
        else:
            verdict = f"more than twice the standard error {'ahead' if ahead > 0 else 'behind'}"
        yield (
            f"\nOf the readings, held-out images choose `{best.cell.row.method}`, {ahead:+.2f} "
            f"against the control there: {verdict}. On the test set it is at "
            f"{best.accuracies['top1']:.2f}, {best.ahead['top1']:+.2f} against the control."
        )


def _row(method: str, values: Sequence[str], seeds: Sequence[int]) -> str:
    return f"| `{method}` | {' | '.join(values)} | {len(seeds)} |"


def rankings(table: Table, cells: Sequence[Cell]) -> Iterator[Ranking]:
    """One for each length, precision and set of images with a control and at least two readings; of
    the protocols the one with most of them, `heldout` before the others."""
    controls = dict.fromkeys(cell.line for cell in cells if cell.row.method == CONTROL)
    for line in controls:
        found = [_ranking(table, cells, line.by(p)) for p in ("heldout", "last", "test")]
        best = max(found, key=lambda ranking: len(ranking.readings) if ranking else 0)
        if best and len(best.readings) > 1:
            yield best


def _ranking(table: Table, cells: Sequence[Cell], control: Cell) -> Ranking | None:
    base = _lasts(table.get(control, {}))
    if not base:
        return None
    readings = []
    for cell in cells:
        is_reading = cell == control.of(cell.row.method) and _is_of_the_feature_loss(cell)
        if not is_reading or cell == control:
            continue
        own = _lasts(table[cell])
        seeds = [s for s in comparable_seeds(table[cell], table[control]) if s in own and s in base]
        if seeds:
            readings.append(_reading(cell, own, base, seeds, _images(table[cell][seeds[0]])))
    readings.sort(key=lambda reading: -reading.ahead["heldout"])
    return Ranking(control, sorted(base), _means(base, sorted(base)), readings)


def _is_of_the_feature_loss(cell: Cell) -> bool:
    """Whether it differs from the control in nothing but the loss of the feature phase."""
    recipe = cell.row.recipe
    return recipe.start == "ce" and recipe.has_features and "--cls_" not in recipe.flags


def _lasts(results: dict[int, Result]) -> dict[int, dict[str, float]]:
    """The accuracies of the last epoch by seed, of runs that have held-out images."""
    runs = {seed: result.chain.run for seed, result in results.items()}
    found = {seed: accuracies_of(run.results("last")) for seed, run in runs.items()}
    return {seed: a for seed, a in found.items() if a["heldout"] is not None}


def _images(result: Result) -> int:
    return result.chain.run.summary["heldout"]["images"]


def _means(lasts: dict[int, dict[str, float]], seeds: Sequence[int]) -> dict[str, float]:
    return {name: mean([lasts[seed][name] for seed in seeds]) for name in COMPARED}


def _reading(
    cell: Cell,
    own: dict[int, dict[str, float]],
    base: dict[int, dict[str, float]],
    seeds: list[int],
    images: int,
) -> Reading:
    ours, theirs = _means(own, seeds), _means(base, seeds)
    spread = deviation([own[seed]["heldout"] - base[seed]["heldout"] for seed in seeds])
    image_error = unpaired_error(ours["heldout"], theirs["heldout"], images)
    ahead = {name: ours[name] - theirs[name] for name in COMPARED}
    return Reading(cell, seeds, ours, ahead, joint_error(spread, len(seeds), image_error))
