"""Trains the cells that have no records yet, one after the other, in this process."""

import gc
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from utils.errors import Interrupted, UserError, say
from utils.files import read_json
from utils.machine import signals
from utils.options.parse import parse_options
from utils.options.recipes import FULL_STAGE_1
from utils.reproduce.filing import file_records
from utils.reproduce.plan import Cell, Length
from utils.runs.epoch_log import duration
from utils.runs.folders import run_folder
from utils.runs.lookup import PRETRAINED
from utils.runs.records import RecordedRun, read_epochs, read_run
from utils.runs.run_folder import LAST_CHECKPOINT

INTERRUPTED = (129, 130, 141, 143)
"""Statuses of a run that a signal, or the end of the reader of its output, has stopped."""

FEWEST_STEPS = 1000
"""With fewer steps of stage 1, networks may have learnt too little to be ranked."""


@dataclass
class Runner:
    """Trains the runs that the table lacks.

    Args:
        root: where runs go.
        records: where the records of finished runs go.
        extra: flags of main.py for all runs.
    """

    root: Path
    records: Path
    extra: Sequence[str]
    failures: list[str] = field(default_factory=list)
    _failed: set[Cell] = field(default_factory=set)
    _seconds: dict[int, list[float]] = field(default_factory=lambda: {1: [], 2: []})

    def run(self, cells: Sequence[Cell]) -> int:
        """Trains the cells that have no records. Returns the exit status: 0, 1 if a run failed, or
        that of an interrupted run."""
        for number, cell in enumerate(cells, 1):
            name = f"[{number}/{len(cells)}] {cell}"
            if self.is_recorded(cell):
                print(f"{name}: recorded", flush=True)
                continue
            try:
                status = self._make(cell, name)
            except KeyboardInterrupt:  # between two runs
                status = 130
            if status in INTERRUPTED:
                say(f"{name}: interrupted; the same command goes on")
                return status
            if status:
                self._failed.add(cell)
                self.failures.append(f"{name}: exit status {status}")
                print(f"{name}: failed with exit status {status}; going on", file=sys.stderr)
            print(self._time_left([c for c in cells[number:] if not self.is_recorded(c)]))
        return 1 if self.failures else 0

    def is_recorded(self, cell: Cell) -> bool:
        return (self.records / cell.record / "summary.json").is_file()

    def to_train(self, cells: Sequence[Cell]) -> list[Cell]:
        """Returns the cells that have no records, each behind the recorded runs that it needs and
        whose checkpoints are gone."""
        found: dict[Cell, None] = {}

        def add(cell: Cell) -> None:
            if cell.before is not None and not _has_finished(self._checkpoints(cell.before)):
                add(cell.before)
            found[cell] = None

        for cell in cells:
            if not self.is_recorded(cell):
                add(cell)
        return list(found)

    def command(self, cell: Cell) -> list[str]:
        """Returns the arguments of main.py that train the cell here, with the folder where its
        stage 1 or its teacher is or will be."""
        before = None if cell.before is None else self._checkpoints(cell.before)
        argv = cell.command(before, self.extra)
        if cell.start is None and cell.length.stage_1 != FULL_STAGE_1:
            # The folder of a stage 1 is not named by its length.
            argv += ["--exp_str", f"{cell.length.stage_1}epochs"]
        root = str(self.root)
        return [*argv, "--root_log", root, "--root_model", root, "--resume", "True"]

    def _checkpoints(self, cell: Cell) -> Path:
        """Returns the folder with the checkpoints of a finished stage 1 or teacher: the folder of
        its own run, or one in `pretrained/`. If there are none yet, it is the former."""
        own = run_folder(parse_options(self.command(cell))).models
        places = [own]
        if self.is_recorded(cell):
            record = read_run(self.records / cell.record).arguments
            if recorded := record.get("folder"):
                # Another run of the user's may have the same name.
                there = read_json(self.root / recorded / "args.json")
                same = ("seed", "precision", "epochs", "fingerprint")
                if all(there.get(name) == record.get(name) for name in same):
                    places.append(self.root / recorded)
                places.append(PRETRAINED / recorded)
        return next((place for place in places if _has_finished(place)), own)

    def _make(self, cell: Cell, name: str) -> int:
        before = cell.before
        if before in self._failed:
            what = "stage 1" if cell.start else "teacher"
            print(f"{name}: its {what}, {before}, has failed", file=sys.stderr)
            return 1
        # A stage 1 can have records here but no checkpoints, or those of half a run.
        if before is not None and not _has_finished(self._checkpoints(before)):
            status = self._make(before, f"{name}: first {before}")
            if status:
                self._failed.add(before)
                return status
        return self._main(cell, name)

    def _main(self, cell: Cell, name: str) -> int:
        argv = self.command(cell)
        print(f"\n{name}\n$ python main.py {shlex.join(argv)}", flush=True)
        began = time.monotonic()
        status = run_main(argv)
        if status == 0:
            run = read_run(run_folder(parse_options(argv)).records)
            # This call may have trained the rest of the run alone, or nothing.
            self._seconds[2 if cell.start else 1].append(run.seconds)
            if not self.is_recorded(cell):
                file_records(run, self.records / cell.record)
            print(f"{name}: done in {duration(time.monotonic() - began)}", flush=True)
        return status

    def _time_left(self, cells: Sequence[Cell]) -> str:
        """Says how many cells are left, and for how long by the mean time of the runs so far."""
        means = {stage: sum(s) / len(s) for stage, s in self._seconds.items() if s}
        stages = [2 if cell.start else 1 for cell in cells]
        if not cells or not set(stages) <= means.keys():
            return f"{len(cells)} left"
        return f"{len(cells)} left, about {duration(sum(means[s] for s in stages))}"


def _has_finished(place: Path) -> bool:
    """Returns True if a folder has the last checkpoint of a finished run. Those that come with the
    code have no records."""
    is_shipped = PRETRAINED in place.parents
    is_finished = is_shipped or (place / "summary.json").is_file()
    return is_finished and (place / LAST_CHECKPOINT).is_file()


def users_commands(cell: Cell, extra: Sequence[str]) -> str:
    """Returns the command lines with which a user trains a row from the start: stage 1, then
    stage 2; or the teacher, then the student. They select the last epochs, as the ranking does."""
    last = [] if cell.start else ["--select_on", "last"]
    if cell.teacher is None:
        return "python main.py " + shlex.join([*cell.command(None, extra), *last])
    first = users_commands(cell.teacher, extra)
    folder = run_folder(parse_options(shlex.split(first)[2:])).models
    return f"{first}\npython main.py {shlex.join([*cell.command(folder, extra), *last])}"


def run_main(argv: list[str]) -> int:
    """Runs `main.main` and returns its exit status; that of an interrupted run also if a signal
    came while the run wrote its last files. The run records `argv` as its command."""
    from main import main

    before, sys.argv = sys.argv, ["main.py", *argv]
    try:
        status = main(argv)
        if status == 0 and (number := signals.received()):
            return 128 + number
        return status
    except Exception:  # the other runs may still succeed
        traceback.print_exc()
        return 1
    finally:
        sys.argv = before
        gc.collect()  # frees the graphs and caches of this run


def measured_seconds(cells: Sequence[Cell], extra: Sequence[str]) -> float:
    """Returns an estimate of the time that the cells will take, in seconds.

    It trains one epoch of each phase that they have in a temporary folder, and multiplies its time
    by the number of epochs. For another network, such as a teacher, the time of an epoch scales
    with the multiplications of the network. Warns if stage 1 has few steps.

    Raises:
        UserError: an epoch fails.
        Interrupted: an epoch was interrupted.
    """
    has_stage_2 = any(cell.start for cell in cells)
    row, length = ("dro_lt", Length(1, 1, 1)) if has_stage_2 else ("ce", Length(1))
    measured = replace(cells[0], row=row, length=length, protocol="last")
    with tempfile.TemporaryDirectory() as folder:
        argv = [*measured.command(None, extra), "--root_log", folder, "--root_model", folder]
        status = run_main(argv)
        if status in INTERRUPTED:
            raise Interrupted(status - 128)
        if status:
            raise UserError(f"the epochs for the estimate ended with exit status {status}")
        logs = [path.parent for path in Path(folder).rglob("log.jsonl")]
        seconds = {r["phase"]: float(r["seconds"]) for log in logs for r in read_epochs(log)}
        runs = [read_run(path.parent) for path in Path(folder).rglob("summary.json")]
    for run in runs:
        if run.stage == 1 and (few := few_steps(run, cells[0].length.stage_1)):
            print(f"reproduce: warning: {few}", file=sys.stderr)
    total = 0.0
    for cell in cells:
        length = cell.length
        epochs = {"features": length.features, "classifier": length.classifier}
        if cell.start is None:
            epochs = {"pretraining": length.stage_1}
        own = sum(count * seconds[phase] for phase, count in epochs.items())
        total += own * _cost(cell, extra) / _cost(measured, extra)
    return total


def few_steps(epoch: RecordedRun, epochs: int) -> str | None:
    """Returns a warning if stage 1 will have fewer than `FEWEST_STEPS` steps, else None.

    Args:
        epoch: a run with one epoch of stage 1.
        epochs: the number of epochs that stage 1 will have.
    """
    assert epoch.summary is not None
    images, batch = epoch.summary["images_seen"], epoch.arguments["batch_size"]
    steps = -(-images // batch)
    if epochs * steps >= FEWEST_STEPS:
        return None
    return (
        f"stage 1 has only {epochs * steps} steps ({epochs} epochs of {steps} steps), which may be "
        f"too few to learn; --stage1 {-(-FEWEST_STEPS // steps)} gives {FEWEST_STEPS} steps, and a "
        "smaller --batch-size gives more steps in each epoch"
    )


def _cost(cell: Cell, extra: Sequence[str]) -> float:
    """Returns the multiplications of a cell's networks for one image. A teacher has no backward
    pass, so it costs about a third. A contrastive loss takes three views of the image."""
    options = parse_options(cell.command(Path("X"), extra))
    teacher = _cost(cell.teacher, extra) / 3 if cell.teacher else 0.0
    return multiplications(options.arch) * (3 if options.contrastive else 1) + teacher


@cache
def multiplications(arch: str) -> int:
    """Returns the number of multiplications of a forward pass of one image of 64 x 64 pixels."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models import build_model

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_model(arch, 10).eval()(torch.zeros(1, 3, 64, 64))
    return counter.get_total_flops() // 2
