"""Compares runs on one page:

python -m utils.report RUN [RUN ...] [--output FILE.html]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import run_program
from utils.options import values
from utils.options.parse import Parser


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m utils.report",
        description="Compares runs on one self-contained HTML page.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=values.path,
        metavar="RUN",
        help="folder of a run's records, either stage, or of several seeds",
    )
    parser.add_argument(
        "--output",
        type=values.path,
        default=Path("comparison.html"),
        metavar="FILE.html",
        help="the page (default: %(default)s); its figures also go to FILE_figures/, as *.png and "
        "*.pdf",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the comparison page that the command line `argv` (`sys.argv` if None) asks for.

    Returns:
        The exit status: 0 done, 1 a failure such as a full disk, 2 bad input.
    """

    def program() -> None:
        arguments = _parser().parse_args(argv)
        # The libraries are imported only after the arguments have been checked.
        from utils.report.page import write_page

        print(write_page(arguments.runs, arguments.output))

    return run_program("report", program)


if __name__ == "__main__":
    sys.exit(main())
