"""Trains the methods of a table one after the other, and writes the table: RESULTS.md, table.json,
figures, and the small records of each run.

The paper's table:

    python -m utils.reproduce --rows cifar100/100 --seeds 0,1,2 --gpu 0 --precision bf16

A ranking of methods for your own images, by their balanced accuracy on held-out images:

    python -m utils.reproduce --dataset folder --data_root DIR

A run that has records is not trained again. So after an interruption, the same command goes on.
Flags of main.py that change no row (--data_root, --gpu, --workers, ...) apply to all runs. With
--dataset, so do the flags that all rows share (--arch, --batch-size, --augment, --imb_type, ...).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, run_program
from utils.files import check_writable
from utils.options import values
from utils.options.flags import DATASETS, PRECISIONS, default_of
from utils.options.parse import Parser
from utils.reproduce.filing import file_run, read_records
from utils.reproduce.plan import FULL_LENGTH, PROTOCOLS, Cell, DataSet, Length, plan
from utils.reproduce.rows import OF_OWN_DATA, select_recipes, select_rows
from utils.reproduce.running import Runner, measured_seconds, users_commands
from utils.reproduce.sharing import check_passed_on, with_subset
from utils.runs.epoch_log import duration

OWN_LENGTH = Length(30, 8, 2)
"""The default on own data. A laptop can train it on ten thousand small images."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments; None means `sys.argv`.

    Returns:
        The exit status: 0 done, 1 a run failed, 2 bad input, more than 128 interrupted.
    """
    return run_program("reproduce", lambda: _reproduce(*_parser().parse_known_args(argv)))


def _reproduce(arguments: argparse.Namespace, extra: list[str]) -> int:
    results = arguments.results or Path("comparison" if arguments.dataset else "results")
    records = results / "runs"
    check_passed_on(extra, arguments.dataset)
    if not arguments.dry_run:
        _check_replaces_no_other(results)
        check_writable(records)
    if arguments.file:
        row, _, folder = arguments.file.partition("=")
        print(f"filed: {records / file_run(Path(folder), row, records).record}")
    if arguments.table_only or arguments.file:
        _write(results, {})
        return 0
    cells, extra = _cells(arguments, extra, records)
    runner = Runner(arguments.root, records, extra)
    if arguments.dry_run:
        for cell in cells:
            state = "recorded" if runner.is_recorded(cell) else "to run"
            print(f"# {cell}: {state}")
            print(f"python main.py {shlex.join(runner.command(cell))}")
        return 0
    read_records(records)  # refuses damaged ones before it trains
    if arguments.dataset and (missing := runner.to_train(cells)):
        print(f"{len(missing)} runs. To estimate their time, one epoch of each kind:", flush=True)
        seconds = measured_seconds(missing, extra)
        print(f"\nestimate: the {len(missing)} runs will take about {duration(seconds)}")
    status = runner.run(cells)
    if status not in (0, 1):
        return status
    commands = {}
    if arguments.dataset:
        # The rows of earlier calls too; with this subset, they had the same flags.
        commands = {
            cell: users_commands(cell, extra)
            for cell in read_records(records)
            if cell.data == cells[0].data and cell.start_seed in (None, cell.seed)
        }
    if commands or not arguments.dataset:
        _write(results, commands)
    for failure in runner.failures:
        print(f"reproduce: failed: {failure}", file=sys.stderr)
    return status


def _cells(
    arguments: argparse.Namespace, extra: list[str], records: Path
) -> tuple[list[Cell], list[str]]:
    """Returns all runs that the table needs, and the flags for all of them."""
    is_own = arguments.dataset is not None
    length = OWN_LENGTH if is_own else FULL_LENGTH
    if arguments.stage1 is not None:
        length = Length(arguments.stage1, length.features, length.classifier)
    if arguments.stage2 is not None:
        length = Length(length.stage_1, *arguments.stage2)
    if is_own:
        rows = {DataSet(arguments.dataset): select_recipes(arguments.rows)}
    else:
        rows = select_rows(arguments.rows)
    asked = values.split_names(arguments.protocols)
    protocols = asked or (["last"] if is_own else list(PROTOCOLS))
    data_sets = []
    for data, names in rows.items():
        data, extra = with_subset(data, extra, records, names)
        data_sets.append((data, names))
    seeds, precision = arguments.seeds, arguments.precision
    return plan(data_sets, seeds, protocols, length, precision, arguments.from_seed), extra


def _check_replaces_no_other(results: Path) -> None:
    """Checks that the folder has no page of someone else. Beside one of this program there is a
    `table.json`.

    Raises:
        UserError: it has one.
    """
    if (results / "table.json").exists():
        return
    for page in (results / "RESULTS.md", results / "page.html"):
        if page.exists():
            raise UserError(
                f"{page} is there without a table.json, so it may be another program's: move it, "
                "or give another --results"
            )


def _write(results: Path, commands: dict[Cell, str]) -> None:
    from utils.reproduce.document import write_results

    print(f"table: {write_results(results, commands)}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m utils.reproduce",
        description=__doc__,
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        metavar="NAME",
        help="compare methods on this data set, instead of the paper's table",
    )
    parser.add_argument(
        "--rows",
        metavar="R[,R]",
        help="each is DATASET, DATASET/RATIO, DATASET/RATIO/ROW or ROW, such as "
        "cifar100/100/dro_lt; a ROW is a recipe of main.py (default: all); with --dataset, each is "
        f"ROW (default: {','.join(OF_OWN_DATA)})",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=[0],
        metavar="S[,S]",
        help="the seeds of both stages; with --from_seed, of stage 2 alone (default: 0)",
    )
    parser.add_argument(
        "--from_seed",
        type=values.seed,
        metavar="S",
        help="start every stage 2 from the stage 1 of this seed (default: of its own seed)",
    )
    parser.add_argument(
        "--protocols",
        type=values.names("protocol", PROTOCOLS),
        metavar="P[,P]",
        help=f"what selects the checkpoints of stage 2 (default: {','.join(PROTOCOLS)}; with "
        "--dataset: last, because held-out images must only rank the rows)",
    )
    parser.add_argument(
        "--stage1",
        type=values.positive_count,
        metavar="E",
        help="epochs of stage 1; the steps of its learning rate scale with it (default: 200, as "
        f"published; with --dataset: {OWN_LENGTH.stage_1})",
    )
    parser.add_argument(
        "--stage2",
        type=_phases,
        metavar="F+C",
        help="feature and classifier epochs of stage 2 (default: 80+20, as published; with "
        f"--dataset: {OWN_LENGTH.features}+{OWN_LENGTH.classifier})",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=default_of("precision"),
        help="of all runs, see main.py (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        type=values.path,
        default=Path("checkpoint"),
        metavar="DIR",
        help="where runs go (default: checkpoint)",
    )
    parser.add_argument(
        "--results",
        type=values.path,
        metavar="DIR",
        help="where the table and the records of runs go (default: results; with --dataset: "
        "comparison)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--file",
        metavar="ROW=FOLDER",
        help="train nothing; add the finished run in FOLDER to the table, as a run of ROW, and "
        "write the table as --table-only does",
    )
    instead.add_argument(
        "--table-only",
        action="store_true",
        help="train nothing; write the table again. That of own data then lacks the command that "
        "trains the first row",
    )
    instead.add_argument("--dry-run", action="store_true", help="train nothing; print the commands")
    return parser


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(int(values.seed(part)) for part in text.split(",")))


def _phases(text: str) -> tuple[int, int]:
    parts = text.split("+")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not FEATURES+CLASSIFIER, such as 80+20")
    return int(values.positive_count(parts[0])), int(values.positive_count(parts[1]))


if __name__ == "__main__":
    sys.exit(main())
