"""`table.json`: the table's cells in percent."""

from utils.evaluation.shot_groups import GROUPS
from utils.reproduce.chains import Cell, Result
from utils.reproduce.measures import deviation, mean
from utils.reproduce.published import PUBLISHED


def entry(cell: Cell, results: dict[int, Result]) -> dict:
    """One line of `table.json`: means over the seeds, the deviation null with one seed; seconds are
    those of the row's own stage."""
    row, found = cell.row, [results[seed] for seed in sorted(results)]
    published = PUBLISHED.get((row.dataset, row.ratio, row.method))
    top1 = mean([result.top1 for result in found])
    return {
        "method": row.method,
        "dataset": row.dataset,
        "ratio": row.ratio,
        "protocol": cell.protocol,
        "top1_mean": _rounded(top1),
        "top1_std": _rounded(deviation([result.top1 for result in found])),
        "seeds": len(found),
        **{
            name: _rounded(mean([result.accuracies[name] for result in found]))
            for name in (*GROUPS, "ncm")
        },
        "published": published,
        "difference": None if published is None else _rounded(top1 - published),
        "length": str(cell.length),
        "is_full_length": cell.length.is_full(row),
        "precision": cell.precision,
        "subset": cell.subset or None,
        "seed_list": sorted(results),
        "epochs": [result.epoch for result in found],
        "final_epoch_top1": _rounded(mean([_final_top1(result) for result in found])),
        "stage1_epochs": cell.length.stage_1,
        "seconds": _rounded(mean([result.chain.run.seconds for result in found]), 1),
    }


def _final_top1(result: Result) -> float:
    return result.chain.run.summary["test"]["last"]["linear"]["top1"]


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
