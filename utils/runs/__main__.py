"""Lists the runs below a folder: for each its name, the flags that differ from the defaults, how
far it is, and its result.

    python -m utils.runs [ROOT] [--csv]
"""

import csv
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import UserError, run_program
from utils.options import values
from utils.options.flags import Options, flag_of, with_role
from utils.options.parse import Parser
from utils.options.roles import Role
from utils.runs.records import RecordedRun, accuracies_of, read_run, wrong_types_as_user_errors
from utils.runs.run_folder import RunFolder
from utils.text import printable, shown

COLUMNS = (
    *("folder", "stage", "seed", "flags", "epochs", "planned", "is_finished", "selected_on"),
    *("epoch", "top1", "top5", "balanced", "macro_f1", "many", "medium", "few", "ncm", "heldout"),
    *("last_top1", "last_balanced", "seconds", "bytes"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the runs below a folder: for each its name, the flags that differ from the defaults,
    how far it is, and its result; with `--csv` as a table.

    Returns:
        The exit status: 0, or 2 if there is no such folder.
    """
    parser = Parser(prog="python -m utils.runs", description=__doc__)
    parser.add_argument(
        "root",
        nargs="?",
        type=values.path,
        default=Path("checkpoint"),
        metavar="ROOT",
        help="the --root_log of the runs, or a folder below it (default: checkpoint)",
    )
    parser.add_argument(
        "--csv",
        action="store_true",
        help="print a table with one row for each run; what cannot be read goes to standard error",
    )

    def program() -> None:
        arguments = parser.parse_args(argv)
        list_runs(arguments.root, arguments.csv)

    return run_program("runs", program)


def list_runs(root: Path, as_csv: bool) -> None:
    """Prints the runs below a folder.

    Args:
        root: the folder.
        as_csv: print a CSV table with the `COLUMNS`, not text.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the --root_log of the runs")
    problems = sys.stderr if as_csv else sys.stdout
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    if as_csv:
        table.writeheader()
    unreadable: list[OSError] = []
    walk = os.walk(root, onerror=unreadable.append)
    folders = sorted(Path(folder) for folder, _, files in walk if "args.json" in files)
    for folder in folders:
        try:
            with wrong_types_as_user_errors(folder):
                run = read_run(folder)
                if as_csv:
                    table.writerow(row_of(run))
                else:
                    print(_entry(folder, *describe(run)))
        except UserError as error:
            print(_entry(folder, f"unreadable: {error}"), file=problems)
    for error in unreadable:
        print(_entry(error.filename, f"cannot be read: {error.strerror}"), file=problems)
    if not as_csv:
        print(f"{len(folders)} {'run' if len(folders) == 1 else 'runs'} below {root}")


def _entry(folder: str | Path, *lines: str) -> str:
    """Returns what the list says of a folder. Names and records may have control
    characters."""
    return "\n    ".join([shown(folder), *map(printable, lines)])


def describe(run: RecordedRun) -> Iterator[str]:
    """Yields lines about a run: its stage and flags, how far it is, and its result."""
    options = run.options
    yield f"stage {run.stage}, flags: {flags_of(options) or 'the defaults'}"
    done = run.epochs[-1]["epoch"] if run.epochs else 0
    yield f"{done} of {options.epochs} epochs{'' if run.is_finished else ', not finished'}"
    if result := result_of(run):
        yield result


def row_of(run: RecordedRun) -> dict:
    """Returns the run's cells of the table, by `COLUMNS`, without those that it has no value for.
    `heldout` is the balanced accuracy on the held-out images; `bytes` are those of the run's own
    files in this folder, without the runs of stage 2 inside."""
    options = run.options
    row = {
        "folder": run.folder,
        "stage": run.stage,
        "seed": run.seed,
        "flags": flags_of(options),
        "epochs": run.epochs[-1]["epoch"] if run.epochs else 0,
        "planned": options.epochs,
        "is_finished": run.is_finished,
        "seconds": run.seconds,
        # The temporary files of a run that is at work come and go.
        "bytes": sum(
            path.stat().st_size
            for path in RunFolder(run.folder, run.folder).own_files()
            if path.suffix != ".tmp"
        ),
    }
    if run.summary:
        row["selected_on"] = run.summary["selected_on"]
    if shown := run.shown:
        row |= {"epoch": shown["epoch"], "top5": shown["test"]["linear"]["top5"]}
        row |= accuracies_of(shown)
    if last := run.results("last"):
        row |= {f"last_{name}": accuracies_of(last)[name] for name in ("top1", "balanced")}
    return row


def flags_of(options: Options) -> str:
    """Returns the flags that decide the result, or say where the data are, and differ from the
    defaults, as on a command line."""
    names = (*options.decisive(), *with_role(Role.PLACE))
    return " ".join(
        f"{flag_of(name)} {shlex.quote(str(getattr(options, name)))}"
        for name in names
        if not options.is_at_default(name)
    )


def result_of(run: RecordedRun) -> str:
    """Returns the accuracies of the selected epoch, or of the last epoch of an unfinished run, as
    text; empty if no epoch has finished."""
    shown = run.shown
    if shown is None:
        return ""
    how = f"selected on {run.summary['selected_on']}" if run.summary else "the last so far"
    linear, ncm = shown["test"]["linear"], shown["test"]["ncm"]
    text = f"test top-1 {linear['top1']:.2f} %"
    if ncm:
        text += f", NCM {ncm['top1']:.2f} %"
    return f"{text} (epoch {shown['epoch']}, {how})"


if __name__ == "__main__":
    sys.exit(main())
