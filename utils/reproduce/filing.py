"""Copies the small records of finished runs into the folder of the table, and reads them."""

import json
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_write, read_json
from utils.options.flags import flag_of
from utils.options.parse import parse_options
from utils.options.recipes import RECIPES
from utils.reproduce.plan import Cell, DataSet, Length
from utils.runs.folders import differences
from utils.runs.records import RecordedRun, place_of, read_run

KEPT = (
    *("args.json", "log.jsonl", "predictions.npz", "readings.json", "geometry.json"),
    "summary.json",
)
"""`summary.json` is copied last, because its presence marks a finished run."""

LARGEST_FILE = 2**20
NEEDED = ("args.json", "log.jsonl", "summary.json")
"""Without these, results would be missing from the table, so they are copied in any size."""


def file_records(run: RecordedRun, target: Path) -> None:
    """Copies the small records of a finished run, unless the same files are there already.

    An absolute path inside them is cut to its last part, because the folders of a machine are no
    part of the result.

    Args:
        run: the finished run.
        target: the folder for its records.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        source, copy = run.folder / name, target / name
        if not source.is_file():
            continue
        if name not in NEEDED and source.stat().st_size > LARGEST_FILE:
            continue
        content = source.read_bytes()
        if name == "args.json":
            place = {"folder": place_of(run.folder, run.stage).as_posix()}
            content = _without_absolute_paths(place | run.arguments)
        if not copy.is_file() or copy.read_bytes() != content:
            with atomic_write(copy) as file:
                file.write(content)


def _without_absolute_paths(arguments: dict) -> bytes:
    def shortened(value: object) -> object:
        return Path(value).name if isinstance(value, str) and value.startswith("/") else value

    kept = {name: shortened(value) for name, value in arguments.items()}
    machine = kept.get("machine")
    if isinstance(machine, dict) and isinstance(machine.get("command"), list):
        kept["machine"] = machine | {"command": [shortened(word) for word in machine["command"]]}
    return (json.dumps(kept, indent=2) + "\n").encode()


def file_run(folder: Path, row: str, records: Path) -> Cell:
    """Adds the run in `folder` to the records as a run of a row, and returns its cell.

    A stage 2 also needs the records of its stage 1: they lie in the folder above it, or were added
    before under the name in the stage 2's options.

    Args:
        folder: the run's folder.
        row: the row's name.
        records: the folder of all records.

    Raises:
        UserError: there is no such row or no finished run, the run is not on an exponential subset,
            the records of its stage 1 are not found, its options or those of its stage 1 are not
            those of the row (the message names them), or the records have another run in its place.
    """
    if row not in RECIPES:
        raise UserError(f"--file: {row!r} is not a row; rows: {', '.join(RECIPES)}")
    run = read_run(folder)
    if not run.is_finished:
        raise UserError(f"--file: {folder} holds no finished run (no summary.json)")
    cell = _cell_of(run, row, records)
    check_options(run, cell)
    target = records / cell.record
    if (filed := read_json(target / "summary.json")) and filed != run.summary:
        raise UserError(
            f"--file: {target} has the records of another run; delete them to replace them"
        )
    file_records(run, target)
    return cell


def _cell_of(run: RecordedRun, row: str, records: Path) -> Cell:
    recipe, own = RECIPES[row], run.options
    if own.imb_type != "exp":
        raise UserError(
            f"--file: {run.folder} has --imb_type {own.imb_type}; only runs on exponential subsets "
            "can be added (--dataset trains rows on own data and compares them)"
        )
    if (run.stage == 2) != bool(recipe.start):
        raise UserError(f"--file: {run.folder} is a stage {run.stage}; {row} is the other stage")
    subset = (run.arguments.get("fingerprint") or "unknown")[:8]
    data = DataSet(own.dataset, round(1 / own.imb_factor), subset)
    if run.stage == 1:
        return Cell(data, row, Length(own.epochs), own.precision, run.arguments["seed"])
    parent = run.parent or _filed_start(run, records)
    start = parent.options
    precisions = dict.fromkeys([start.precision, own.precision])
    cell = Cell(
        data,
        row,
        Length(start.epochs, own.feature_epochs, own.balanced_clf_nepochs),
        "+".join(precisions),
        run.arguments["seed"],
        parent.arguments["seed"],
        own.select_on,
    )
    assert cell.start is not None  # a stage 2 starts from a stage 1
    # A stage 1 keeps the checkpoints of all protocols.
    check_options(parent, cell.start, free=("select_on",))
    return cell


def read_records(folder: Path) -> dict[Cell, RecordedRun]:
    """Returns the finished runs with records below `folder`, by cell.

    Raises:
        UserError: records are damaged.
    """
    found = {}
    for path in sorted(folder.glob("*/*/*/summary.json")):
        cell = Cell.of_record(path.parent.relative_to(folder))
        if cell is not None:
            found[cell] = read_run(path.parent)
    return found


def _filed_start(run: RecordedRun, records: Path) -> RecordedRun:
    name = Path(str(run.arguments["pretrained"])).name
    found = [
        filed
        for filed in read_records(records).values()
        if filed.arguments.get("folder") == name
        and filed.arguments.get("fingerprint") == run.arguments.get("fingerprint")
    ]
    if len(found) != 1:
        raise UserError(
            f"--file: no records of the stage 1 of {run.folder}: they are not in the folder above, "
            f"and the table has no run named {name}; add that run first"
        )
    return found[0]


def check_options(run: RecordedRun, cell: Cell, free: Sequence[str] = ()) -> None:
    """Checks that a run has the options of a cell's row, and that its teacher has those of the
    teacher's row.

    Args:
        run: the run.
        cell: the cell that its options give it.
        free: options that may differ.

    Raises:
        UserError: an option differs, or a stage 2 started from another checkpoint of its stage 1
            (the message names it), or the teacher's checkpoint lies without its records.
    """
    before = cell.before and Path(f"the folder of {cell.before.row}")
    planned = parse_options(cell.command(before))
    recorded = run.options
    told = {"seed", "epochs", "precision", "exp_str", *free}
    if cell.teacher is not None and recorded.teacher is not None:
        check_options(read_run(Path(recorded.teacher).parent), cell.teacher)
        told.add("teacher")
    has_steps = "cosine" not in (recorded.schedule, planned.schedule)
    if cell.start is None and cell.length.is_full(cell.recipe) and has_steps:
        told.add("schedule")  # at this length "absolute" and "scaled" are the same
    # A flag that the record lacks has the default that the run's other flags give it.
    complete = run.arguments | recorded.as_dict()
    found = differences(planned, complete)
    if recorded.image_size != planned.image_size:  # not compared if it is not given
        found["image_size"] = recorded.image_size
    differing = [
        f"{flag_of(name)} {value} (the row: {getattr(planned, name)})"
        for name, value in found.items()
        if name not in told
    ]
    if differing:
        raise UserError(f"--file: {run.folder} is not a run of {cell.row}: {', '.join(differing)}")
