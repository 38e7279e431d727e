"""Runs the rows of the table that are not recorded yet, one after the other, in this process."""

import gc
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError
from utils.options.parse import build_parser, parse_options
from utils.reproduce.chains import Cell, Collection, collect, place_of, subset_name, tabulate
from utils.reproduce.recipes import Length, Row, command
from utils.runs.folders import LAST_CHECKPOINT, PRETRAINED, run_folder

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
    words = [word.split("=")[0] for word in extra if word.startswith("-")]
    refused = [word for word in words if known.get(word) not in PASSED_ON]
    if refused:
        allowed = ", ".join(f"--{name}" for name in PASSED_ON if name in options)
        raise UserError(
            f"{', '.join(refused)}: decided by the rows; flags for all runs are {allowed}"
        )
    return options["precision"]


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
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.precision = check_passed_on(self.extra)
        self._collection: Collection | None = None
        self._subsets: dict[tuple[str, int], str] = {}
        self._seconds: dict[int, list[float]] = {1: [], 2: []}
        self._failed_starts: set[tuple[Row, int]] = set()

    def run(self, cells: Sequence[tuple[Cell, int]]) -> int:
        """Makes the cells of the seeds that are not recorded; the exit status: 0, 1 if a run
        failed, 130 or 143 if interrupted."""
        for number, (cell, seed) in enumerate(cells, 1):
            name = f"[{number}/{len(cells)}] {cell.row}, {cell.protocol}, seed {seed}"
            if self.is_recorded(cell, seed):
                print(f"{name}: recorded", flush=True)
                continue
            try:
                status = self._make(cell, seed, name)
            except KeyboardInterrupt:  # between two runs
                status = 130
            if status in INTERRUPTED:
                print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
                return status
            if status:
                self.failures.append(f"{name}: exit status {status}")
                print(f"{name}: failed with exit status {status}; going on", file=sys.stderr)
            left = [c for c in cells[number:] if not self.is_recorded(*c)]
            print(self._time_left([cell for cell, _ in left]), flush=True)
        return 1 if self.failures else 0

    def collection(self) -> Collection:
        """What is recorded at this moment."""
        if self._collection is None:
            self._collection = collect(folder for folder in self.folders if folder.is_dir())
        return self._collection

    def is_recorded(self, cell: Cell, seed: int) -> bool:
        """Whether there is a run of the cell and seed on the images at hand."""
        table = tabulate(self.collection().chains)
        found = [c for c in table if replace(c, subset="") == cell and seed in table[c]]
        return any(self._is_at_hand(other.subset, cell.row) for other in found)

    def _is_at_hand(self, subset: str, row: Row) -> bool:
        """Whether a run's training images are those here. Where either is not known, it counts as
        if."""
        return not subset or self._subset_of(row) in ("", subset)

    def _subset_of(self, row: Row) -> str:
        """The row's training images as they are here; empty where there are none."""
        key = row.dataset, row.ratio
        if key not in self._subsets:
            from datasets import load_data

            options = parse_options(self._command(replace(row, method="ce"), seed=0))
            try:
                self._subsets[key] = subset_name(load_data(options).fingerprint)
            except UserError:
                self._subsets[key] = ""
        return self._subsets[key]

    def own_command(self, cell: Cell, seed: int) -> list[str]:
        """The command of the cell's own stage, with the stage-1 folder as it is or would be."""
        start = cell.row.start
        pretrained = None if start is None else str(self._start_of(start, seed)[0])
        return self._command(cell.row, seed, cell.protocol, pretrained)

    def _make(self, cell: Cell, seed: int, name: str) -> int:
        start = cell.row.start
        if start and not self._start_of(start, seed)[1]:
            if (start, seed) in self._failed_starts:
                print(f"{name}: its stage 1, {start}, has failed", file=sys.stderr)
                return 1
            status = self._main(self._command(start, seed), f"{name}: first {start}")
            if status:
                self._failed_starts.add((start, seed))
                return status
        return self._main(self.own_command(cell, seed), name)

    def _start_of(self, row: Row, seed: int) -> tuple[Path, bool]:
        """The stage-1 folder to start from, and whether it is there: one with the checkpoints of a
        recorded run, which may have come with the code, or the one to be made."""
        length = self.length.of(row)
        for chain in self.collection().chains:
            found = (chain.row, chain.length, chain.precision, chain.seed)
            if found != (row, length, self.precision, seed):
                continue
            for folder in (chain.run.folder, PRETRAINED / place_of(chain.run.folder, stage=1)):
                has_checkpoints = (folder / LAST_CHECKPOINT).is_file()
                if has_checkpoints and self._is_at_hand(chain.subset, row):
                    return folder, True
        folder = run_folder(parse_options(self._command(row, seed))).models
        return folder, (folder / "summary.json").is_file()

    def _command(
        self, row: Row, seed: int, protocol: str = "test", pretrained: str | None = None
    ) -> list[str]:
        recipe = command(row, seed, self.length.of(row), protocol, pretrained, self.precision)
        roots = ["--root_log", str(self.root), "--root_model", str(self.root)]
        return [*recipe, *self.extra, *roots, "--resume", "True"]

    def _main(self, argv: list[str], name: str) -> int:
        print(f"\n{name}\n$ python main.py {shlex.join(argv)}", flush=True)
        began = time.monotonic()
        status = run_main(argv)
        self._collection = None
        if status == 0:
            seconds = time.monotonic() - began
            self._seconds[2 if "--pretrained" in argv else 1].append(seconds)
            print(f"{name}: done in {_duration(seconds)}", flush=True)
        return status

    def _time_left(self, cells: Sequence[Cell]) -> str:
        """From the mean time of the runs so far; protocols that coincide will need less."""
        means = {stage: sum(s) / len(s) for stage, s in self._seconds.items() if s}
        stages = [2 if cell.row.start else 1 for cell in cells]
        if not cells or not set(stages) <= means.keys():
            return f"{len(cells)} left"
        return f"{len(cells)} left, at most about {_duration(sum(means[s] for s in stages))}"


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


def _duration(seconds: float) -> str:
    return tqdm.format_interval(int(seconds))
