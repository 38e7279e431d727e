"""Compares runs on one page:

python -m utils.report RUN [RUN ...] [--output FILE.html]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.options.parse import Parser


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
        from utils.report.page import write_page

        page = write_page(arguments.runs, arguments.output)
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"report: error: {message}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
