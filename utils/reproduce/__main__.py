"""The paper's table from its runs: makes the runs that are missing, one after the other, and writes
RESULTS.md, table.json, figures and the runs' small records.

    python -m utils.reproduce --rows cifar100/100 --seeds 0,1,2 --gpu 0 --precision bf16

What is recorded is not run again, so the same command goes on after an interruption. Flags of
main.py that change no row (--data_root, --gpu, --precision, ...) are passed on to all runs.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.options.parse import Parser
from utils.options.values import parse_names, positive_count
from utils.options.values import seed as seed_value
from utils.reproduce.chains import Cell
from utils.reproduce.recipes import FULL_LENGTH, PROTOCOLS, Length, select_rows
from utils.reproduce.running import Runner


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line `argv` (`sys.argv` if None) asks for.

    Returns:
        The exit status: 0 done, 1 a run failed, 2 bad input, 130 or 143 interrupted.
    """
    try:
        arguments, extra = _parser().parse_known_args(argv)
        return _reproduce(arguments, extra)
    except UserError as error:
        return _fail(2, error)
    except OSError as error:
        return _fail(1, f"{error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130


def _fail(status: int, error: Exception | str) -> int:
    print(f"reproduce: error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _reproduce(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    for folder in arguments.runs:
        if not folder.is_dir():
            raise UserError(f"--runs {folder}: no such folder")
    rows = select_rows(arguments.rows)
    length = Length(arguments.stage1, *arguments.stage2)
    folders = [arguments.root, *arguments.runs, arguments.results / "runs"]
    runner = Runner(arguments.root, folders, length, extra)
    cells = [
        (Cell(row, length.of(row), runner.precision, protocol), seed)
        for row in rows
        for seed in arguments.seeds
        for protocol in arguments.protocols
    ]
    if arguments.dry_run:
        for cell, seed in cells:
            state = "recorded" if runner.is_recorded(cell, seed) else "to run"
            argv = runner.own_command(cell, seed)
            print(f"# {cell.row}, {cell.protocol}, seed {seed}: {state}")
            print(f"python main.py {shlex.join(argv)}")
        return 0
    status = 0 if arguments.table_only else runner.run(cells)
    if status not in (0, 1):
        return status
    from utils.reproduce.writing import write_results

    print(f"table: {write_results(runner.collection(), arguments.results)}")
    for failure in runner.failures:
        print(f"reproduce: failed: {failure}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m utils.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rows",
        metavar="R[,R]",
        help="DATASET, DATASET/RATIO, DATASET/RATIO/METHOD or METHOD (default: all)",
    )
    parser.add_argument(
        "--seeds", type=_list_of(seed_value), default=[0], metavar="S[,S]", help="(default: 0)"
    )
    parser.add_argument(
        "--protocols",
        type=_protocols,
        default=PROTOCOLS,
        metavar="P[,P]",
        help=f"what chooses the chains' checkpoints (default: {','.join(PROTOCOLS)})",
    )
    parser.add_argument(
        "--stage1",
        type=positive_count,
        default=FULL_LENGTH.stage_1,
        metavar="E",
        help="epochs of stage 1; its rate steps move with it (default: 200, as published)",
    )
    parser.add_argument(
        "--stage2",
        type=_phases,
        default=(FULL_LENGTH.features, FULL_LENGTH.classifier),
        metavar="E+B",
        help="feature and classifier epochs of stage 2 (default: 80+20, as published)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("checkpoint"),
        metavar="DIR",
        help="folder of the runs (default: checkpoint)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="further folders with finished runs, which count by what their args.json says",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of the table and of the runs' records (default: results)",
    )
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    return parser


def _list_of(value: Callable[[str], int]) -> Callable[[str], list[int]]:
    def convert(text: str) -> list[int]:
        return list(dict.fromkeys(value(part) for part in text.split(",")))

    return convert


def _protocols(text: str) -> list[str]:
    try:
        return parse_names(text, "protocol", PROTOCOLS)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _phases(text: str) -> tuple[int, int]:
    parts = text.split("+")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not FEATURES+CLASSIFIER, such as 80+20")
    return positive_count(parts[0]), positive_count(parts[1])


if __name__ == "__main__":
    sys.exit(main())
