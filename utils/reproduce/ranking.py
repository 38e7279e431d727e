"""The readings of the robust loss in the order that held-out images put them in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from utils.reproduce.chains import Cell, Table, class_mean
from utils.reproduce.measures import mean

CONTROL = "control"


@dataclass(frozen=True)
class Ranked:
    """One reading, at the last epoch of its runs, in percent.

    Args:
        cell: what it is.
        seeds: those of the mean.
        heldout: the mean of per-class accuracies on held-out images.
        test: top-1 on the test set.
        ncm: top-1 of the nearest class mean on the test set.
    """

    cell: Cell
    seeds: list[int]
    heldout: float
    test: float
    ncm: float


@dataclass(frozen=True)
class Ranking:
    """Readings that start from the same stage 1 and have the same length, precision and protocol,
    the best on held-out images first."""

    readings: list[Ranked]

    @property
    def control(self) -> Ranked:
        return next(r for r in self.readings if r.cell.row.method == CONTROL)

    def lines(self) -> Iterator[str]:
        """As Markdown: a table and what it says."""
        control = self.control
        cell = control.cell
        yield (
            f"Last epochs of the runs by `{cell.protocol}`, {cell.length} epochs, "
            f"{cell.precision}; in brackets against `{CONTROL}`, which has no robust loss.\n"
        )
        yield "| row | held-out | test | NCM, test | seeds |\n|---|---|---|---|---|"
        for reading in self.readings:
            pairs = (
                (reading.heldout, control.heldout),
                (reading.test, control.test),
                (reading.ncm, control.ncm),
            )
            values = " | ".join(
                f"{ours:.2f}" + ("" if reading is control else f" ({ours - theirs:+.2f})")
                for ours, theirs in pairs
            )
            yield f"| `{reading.cell.row.method}` | {values} | {len(reading.seeds)} |"
        best, *_ = (r for r in self.readings if r is not control)
        ahead = best.heldout - control.heldout
        verdict = (
            f"{ahead:+.2f} points ahead of the control there, {best.test - control.test:+.2f} on "
            "the test set"
            if ahead > 0
            else f"but the control is {-ahead:.2f} points ahead of it"
        )
        yield (
            f"\nOf the readings, held-out images choose `{best.cell.row.method}` "
            f"({best.heldout:.2f}), {verdict}."
        )


def rankings(table: Table, cells: Sequence[Cell]) -> Iterator[Ranking]:
    """One for each length and precision with a control and at least two readings; of the protocols
    the one with most of them, `heldout` before the others."""
    lines = dict.fromkeys((c.length, c.precision) for c in cells if c.row.method == CONTROL)
    for length, precision in lines:
        found = [
            [
                c
                for c in cells
                if (c.length, c.precision, c.protocol) == (length, precision, protocol)
                and c.row.start == c.of(CONTROL).row.start
                and c.row.recipe.has_features
            ]
            for protocol in ("heldout", "last", "test")
        ]
        readings = [r for c in max(found, key=len) if (r := _ranked(table, c))]
        methods = [r.cell.row.method for r in readings]
        if CONTROL in methods and len(methods) > 2:
            yield Ranking(sorted(readings, key=lambda r: -r.heldout))


def _ranked(table: Table, cell: Cell) -> Ranked | None:
    """None where a run has no held-out images."""
    summaries = {seed: result.chain.run.summary for seed, result in sorted(table[cell].items())}
    if not all(s.get("heldout") for s in summaries.values()):
        return None
    lasts = [(s["heldout"]["last"], s["test"]["last"]) for s in summaries.values()]
    return Ranked(
        cell,
        list(summaries),
        mean([class_mean(heldout["linear"]) for heldout, _ in lasts]),
        mean([test["linear"]["top1"] for _, test in lasts]),
        mean([test["ncm"]["top1"] for _, test in lasts]),
    )
