"""Accuracies as aligned text."""

from collections.abc import Sequence

import numpy as np

from utils.evaluation.accuracy_records import balanced_accuracy
from utils.evaluation.shot_groups import GROUPS, group_of_counts
from utils.text import printable

COLUMNS = ("top1", "top5", "balanced", "macro_f1", *GROUPS)
OF_CLASSIFIERS = (*COLUMNS, "worst", "ece")
"""Two more for the classifiers of `--readings`: the accuracy of the worst class, and the expected
calibration error (ECE)."""
GAP = "   "


def accuracy_table(
    rows: dict[str, dict], class_counts: Sequence[int], columns: Sequence[str] = COLUMNS
) -> str:
    """Returns accuracies in percent as aligned text, with a line for each record. The first line
    has the number of classes in each group.

    Args:
        rows: records of `accuracy_record`, by the title of their lines.
        class_counts: training images of each class ``[K]``.
        columns: the keys of the records to show.
    """
    groups = group_of_counts(class_counts)
    sizes = {group: f"{group} ({(groups == group).sum()})" for group in GROUPS}
    headers = {"top1": "top-1", "top5": "top-5", "balanced": "balanced", "macro_f1": "macro F1"}
    headers |= {**sizes, "worst": "worst class", "ece": "ECE"}
    table = [["", *(headers[column] for column in columns)]]
    for name, record in rows.items():
        # Records of earlier versions may lack a column.
        record = {**record, "balanced": _balanced(record)}
        table.append([name, *(_percent(record.get(column), 2) for column in columns)])
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}"
        + "".join(f"{GAP}{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in table
    )


def _balanced(record: dict) -> float | dict | None:
    """Returns the balanced accuracy in percent; of several seeds, its mean and deviation. None if
    an earlier version made the record of several seeds."""
    is_of_several = isinstance(record["top1"], dict)
    return record.get("balanced") if is_of_several else balanced_accuracy(record)


def per_class_table(
    linear: dict, ncm: dict, class_names: Sequence[str], class_counts: Sequence[int]
) -> str:
    """Returns the accuracies of each class in percent as aligned text, largest class first, and
    the precision of the network's own classifier.

    Args:
        linear, ncm: records of `accuracy_record` of the two classifiers.
        class_names: names of the classes ``[K]``.
        class_counts: training images of each class ``[K]``.
    """
    by_size = np.argsort(-np.asarray(class_counts), kind="stable")
    names = [printable(name) for name in class_names]
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':<{width}}{'images':>8}{'linear':>8}{'NCM':>8}{'precision':>11}"]
    for label in by_size:
        accuracies = (_percent(r["per_class"][label], 1) for r in (linear, ncm))
        cells = "".join(f"{cell:>8}" for cell in (class_counts[label], *accuracies))
        precision = _percent(linear["precision"][label], 1)
        lines.append(f"{names[label]:<{width}}{cells}{precision:>11}")
    return "\n".join(lines)


def _percent(value: float | dict | None, decimals: int) -> str:
    if isinstance(value, dict):
        mean, deviation = (_percent(value[part], decimals) for part in ("mean", "std"))
        return mean if value["std"] is None else f"{mean} ± {deviation}"
    return "n/a" if value is None else f"{value:.{decimals}f}"
