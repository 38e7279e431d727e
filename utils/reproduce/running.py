"""Runs the rows of the table that are not recorded yet, one after the other, in this process."""

import contextlib
import gc
import shlex
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.command_line import build_parser, parse_options
from utils.errors import UserError
from utils.folders import LAST_CHECKPOINT, run_folder
from utils.reproduce.chains import Cell, Collection, Table, collect, tabulate
from utils.reproduce.recipes import Length, Row, command
from utils.runlog import duration

PASSED_ON = ("data_root", "gpu", "workers", "precision", "step", "print_freq", "checkpoint_every")
"""Flags of main.py that change no row and may be given for all runs."""

INTERRUPTED = (130, 143)


def check_passed_on(extra: Sequence[str]) -> str:
    """Checks flags that are given for all runs; their precision.

    Raises:
        UserError: a flag that main.py does not know, or that a row decides.
    """
    options = parse_options(extra).as_dict()
    known = {name: a.dest for a in build_parser()._actions for name in a.option_strings}
    given = {known.get(word.split("=")[0], word) for word in extra if word.startswith("-")}
    refused = sorted(given - {*PASSED_ON})
    if refused:
        allowed = ", ".join(f"--{name}" for name in PASSED_ON if name in options)
        raise UserError(
            f"{', '.join(refused)}: decided by the rows; flags for all runs are {allowed}"
        )
    return options["precision"]


@dataclass
class Outcome:
    """What came of the rows: how many runs were made, and which failed with which status."""

    made: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class Runner:
    """Makes what the table lacks.

    Args:
        root: where runs go.
        folders: where finished runs are looked for, `root` among them.
        length: of all runs.
        extra: flags of main.py for all runs.
    """

    root: Path
    folders: Sequence[Path]
    length: Length
    extra: Sequence[str]
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.precision = check_passed_on(self.extra)
        self.seconds: dict[int, list[float]] = {1: [], 2: []}
        self.failed_starts: set[tuple[Row, int]] = set()

    def run(self, cells: Iterable[tuple[Cell, int]]) -> int:
        """Makes the cells of the seeds; the exit status: 0, 1 if a run failed, 130 or 143."""
        cells = list(cells)
        for number, (cell, seed) in enumerate(cells, 1):
            collection = self.collection()
            name = f"[{number}/{len(cells)}] {cell.row}, {cell.protocol}, seed {seed}"
            if seed in tabulate(collection.chains).get(cell, {}):
                print(f"{name}: recorded", flush=True)
                continue
            with Interruptible() as interruptible:
                status = self._make(cell, seed, collection, name)
            status = interruptible.status or status
            if status in INTERRUPTED:
                print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
                return status
            if status:
                self.outcome.failures.append(f"{name}: exit status {status}")
                print(f"{name}: failed with exit status {status}; going on", file=sys.stderr)
            print(self._time_left(cells[number:]), flush=True)
        return 1 if self.outcome.failures else 0

    def collection(self) -> Collection:
        return collect(folder for folder in self.folders if folder.is_dir())

    def commands(self, cells: Iterable[tuple[Cell, int]]) -> Iterator[tuple[str, list[str]]]:
        """What would be run, each with whether it is recorded."""
        table: Table = tabulate(self.collection().chains)
        for cell, seed in cells:
            done = seed in table.get(cell, {})
            start = self._stage_1(cell.row.start, seed) if cell.row.start else None
            pretrained = None if start is None else run_folder(parse_options(start)).models.name
            argv = self._command(cell.row, seed, cell.protocol, pretrained)
            yield ("recorded" if done else "to run"), argv

    def _make(self, cell: Cell, seed: int, collection: Collection, name: str) -> int:
        pretrained = None
        if cell.row.start:
            pretrained, status = self._start_of(cell.row.start, seed, collection, name)
            if status:
                return status
        return self._main(self._command(cell.row, seed, cell.protocol, pretrained), name)

    def _start_of(
        self, row: Row, seed: int, collection: Collection, name: str
    ) -> tuple[str | None, int]:
        """The stage-1 folder to start from, made if there is none, and the exit status of that."""
        length = self.length.of(row)
        for chain in collection.chains:
            is_it = (chain.row, chain.length, chain.seed) == (row, length, seed)
            has_checkpoints = (chain.run.folder / LAST_CHECKPOINT).is_file()
            if is_it and chain.precision == self.precision and has_checkpoints:
                return str(chain.run.folder), 0
        if (row, seed) in self.failed_starts:
            print(f"{name}: its stage 1, {row}, has failed", file=sys.stderr)
            return None, 1
        argv = self._stage_1(row, seed)
        status = self._main(argv, f"{name}: first {row}")
        if status and status not in INTERRUPTED:
            self.failed_starts.add((row, seed))
        return str(run_folder(parse_options(argv)).models), status

    def _stage_1(self, row: Row, seed: int) -> list[str]:
        return self._command(row, seed, "test", None)

    def _command(self, row: Row, seed: int, protocol: str, pretrained: str | None) -> list[str]:
        length = self.length.of(row)
        roots = ["--root_log", str(self.root), "--root_model", str(self.root), "--resume", "True"]
        return [*command(row, seed, length, protocol, pretrained, self.extra), *roots]

    def _main(self, argv: list[str], name: str) -> int:
        print(f"\n{name}\n$ python main.py {shlex.join(argv)}", flush=True)
        began = time.monotonic()
        status = run_main(argv)
        self.outcome.made += 1
        if status == 0:
            seconds = time.monotonic() - began
            self.seconds[2 if "--pretrained" in argv else 1].append(seconds)
            print(f"{name}: done in {duration(seconds)}", flush=True)
        return status

    def _time_left(self, cells: Sequence[tuple[Cell, int]]) -> str:
        """An upper bound from the mean time of the runs so far: some may be recorded already."""
        means = {stage: sum(s) / len(s) for stage, s in self.seconds.items() if s}
        stages = [2 if cell.row.start else 1 for cell, _ in cells]
        if not set(stages) <= means.keys():
            return f"{len(cells)} more to look at"
        left = duration(sum(means[stage] for stage in stages))
        return f"{len(cells)} more to look at, at most about {left}"


def run_main(argv: list[str]) -> int:
    """`main.main`, which records `sys.argv` as the command that made the run."""
    from main import main

    before, sys.argv = sys.argv, ["main.py", *argv]
    try:
        return main(argv)
    except Exception:  # whatever one run ran into, the others may go well
        traceback.print_exc()
        return 1
    finally:
        sys.argv = before
        gc.collect()  # of graphs and caches of a run that is over


class Interruptible(contextlib.AbstractContextManager):
    """Turns a SIGINT that comes outside of training into an exit status."""

    status = 0

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if kind is KeyboardInterrupt:
            self.status = 130
            return True
        return False
