"""Lists the runs below a folder: for each its name, the flags that differ from the defaults, how
far it is, and its result.

    python -m utils.runs [ROOT]
"""

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
from utils.runs.records import RecordedRun, read_run


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the runs below a folder: for each its name, the flags that differ from the defaults,
    how far it is, and its result.

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
    return run_program("runs", lambda: list_runs(parser.parse_args(argv).root))


def list_runs(root: Path) -> None:
    """Prints the runs below a folder.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the --root_log of the runs")
    unreadable: list[OSError] = []
    walk = os.walk(root, onerror=unreadable.append)
    folders = sorted(Path(folder) for folder, _, files in walk if "args.json" in files)
    for folder in folders:
        print("\n    ".join([str(folder), *describe(folder)]))
    for error in unreadable:
        print(f"{error.filename}\n    cannot be read: {error.strerror}")
    print(f"{len(folders)} {'run' if len(folders) == 1 else 'runs'} below {root}")


def describe(folder: Path) -> Iterator[str]:
    """Yields lines about a run: its stage and flags, how far it is, and its result."""
    try:
        run = read_run(folder)
        options = Options.from_record(run.arguments)
        flags = flags_of(options)
        result = result_of(run)
    except UserError as error:
        yield f"unreadable: {error}"
        return
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # whatever a value is
        yield f"unreadable: not the records of a run ({type(error).__name__}: {error})"
        return
    yield f"stage {run.stage}, flags: {flags or 'the defaults'}"
    done = run.epochs[-1]["epoch"] if run.epochs else 0
    yield f"{done} of {options.epochs} epochs{'' if run.is_finished else ', not finished'}"
    if result:
        yield result


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
