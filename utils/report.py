"""Figures from a run's record files alone: `report.png` of one run, and a page that compares runs:

python -m utils.report RUN [RUN ...] [--output FILE.html]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from utils import figures
from utils.errors import UserError
from utils.files import atomic_write
from utils.runlog import read_records


def write_report(folder: Path, class_counts: list[int], selected: dict | None) -> Path:
    """Draws `report.png` from the run's `log.jsonl` and `predictions.npz`.

    Args:
        folder: of the run's records.
        class_counts: training images per class ``[K]``.
        selected: the selected epoch's entry of `summary.json`, or None for an unfinished run, of
            which the last epoch is shown.

    Returns:
        The figure's path.
    """
    records = read_records(folder)
    counts = np.asarray(class_counts)
    panels = []
    if records:
        panels += [
            lambda axes: figures.losses(axes, records),
            lambda axes: figures.accuracies(axes, records),
        ]
    chosen = selected or (records[-1]["results"]["test"] if records else None)
    if chosen:
        per_class = chosen["linear"]["per_class"]
        panels.append(lambda axes: figures.accuracy_by_size(axes, per_class, counts))
    with_margins = [record for record in records if record["margins"]]
    if with_margins:
        panels += [
            lambda axes: figures.margins_over_time(axes, with_margins, counts),
            lambda axes: figures.margins_by_size(axes, with_margins[-1], counts),
        ]
    predictions = folder / "predictions.npz"
    if predictions.exists():
        with np.load(predictions, allow_pickle=False) as arrays:
            labels, preds = arrays["labels"], arrays["preds"]
        panels.append(lambda axes: figures.confusion(axes, labels, preds, counts))
    rows = max(1, -(-len(panels) // 3))
    with plt.rc_context({"legend.fontsize": "small"}):
        figure, grid = plt.subplots(rows, 3, figsize=(15, 4.4 * rows), layout="constrained")
        for axes, draw in zip(grid.flat, panels, strict=False):
            draw(axes)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        path = folder / "report.png"
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return path


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m utils.report",
        description="Compares runs on one self-contained HTML page.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run's records, either stage"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        metavar="FILE.html",
        help="the page (default: %(default)s); its figures also go to FILE_figures/*.png",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the comparison page that the command line `argv` (`sys.argv` if None) asks for.

    Returns:
        The exit status: 0 done, 2 bad input.
    """
    try:
        arguments = _parser().parse_args(argv)
        # The page is no concern of training, which imports this module for `write_report`.
        from utils.page import write_page

        page = write_page(arguments.runs, arguments.output)
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"report: error: {message}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
