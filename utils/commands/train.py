"""The training command: stage 1, stage 2, or both, for one seed or several."""

import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from datasets import LongTailedData, load_data
from utils.errors import UserError, is_out_of_memory, warn
from utils.evaluation.classifier_files import weights_digest
from utils.files import read_json, write_json
from utils.machine import collectives, signals
from utils.machine.device import Machine, seed_everything
from utils.options.data_paths import expanded
from utils.options.flags import Options
from utils.runs import checkpoint
from utils.runs.backbone import check_backbone
from utils.runs.contents import RECORD, contents_of
from utils.runs.epoch_log import finished_epochs
from utils.runs.folders import digest_of, run_folder
from utils.runs.lookup import checkpoint_of_flag
from utils.runs.resuming import check_holds_no_run, prepare
from utils.runs.run_folder import RunFolder, recorded_options
from utils.training.seeds import side_by_side, summarise_seeds
from utils.training.setup import Run, machine_of
from utils.training.stage1 import stage_1
from utils.training.stage2 import check_stage_2, stage_2
from utils.training.starting_point import check_not_trained_on
from utils.training.summary import final_table, summarise
from utils.training.trainer import Trainer


def train(stages: Sequence[Options]) -> None:
    """Trains stage 1 (classification from random weights), stage 2 (DRO-LT from a stage-1
    checkpoint), or both, one after the other.

    Args:
        stages: the options of each stage, from `parse_stages`.

    Raises:
        UserError: bad input. Nothing has been written but the cache of decoded images and a
            downloaded CIFAR, except if a streamed image proves damaged during the training.
        RunError: the run failed.
        Interrupted: SIGINT, SIGTERM or SIGHUP came.
    """
    with collectives.joined() as world:
        jobs, remembered = collectives.from_main(lambda: _plan(stages), world)
        machine = data = None
        every = list(chain.from_iterable(jobs))
        if any(job.is_open for job in every):
            machine = collectives.together(lambda: machine_of(stages[0], world), world)
        if any(job.is_open or job.has_data_elsewhere for job in every):
            data = collectives.main_first(lambda: load_data(stages[0], remembered), world)
            print(data.account())
            for job in every:
                job.check_same_images(data)
                if job.is_open and job.options.stage == 2:
                    check_stage_2(job.options, data)
        # Around both stages, so that a signal in the summary of the first ends the second.
        with signals.deferred(lambda number: collectives.largest(number, world)):
            for stage, stage_jobs in zip(stages, jobs, strict=True):
                together = _train(stage_jobs, machine, data)
                if stage.seeds is not None:
                    combine = partial(_summarise_seeds, stage, stage_jobs, together)
                    collectives.from_main(combine, world)


@dataclass(frozen=True)
class _Job:
    """The run of one stage and seed.

    Args:
        options: its options, with a seed.
        folder: its folder.
        action: what to do, from `resuming.prepare`.
        digested: the flags that the digest in its name stands for, as text.
        written: when the last checkpoint in the folder was written; None if there is none.
        recorded: the options that the run recorded when it began; None if it begins or is replaced.
    """

    options: Options
    folder: RunFolder
    action: str
    digested: str
    written: int | None
    recorded: dict | None = None

    @classmethod
    def of(cls, options: Options) -> "_Job":
        """Returns the job of these options; draws a seed if a new run has none."""
        if options.stage == 2 and options.pretrain_epochs is None:
            checkpoint_of_flag(options, "pretrained")
        folder = run_folder(options)
        written = folder.written()
        action, digested = prepare(options, folder), digest_of(options, folder)
        has_weights = action == "finished" or (options.resume and written is not None)
        if options.backbone is not None and not has_weights:
            check_backbone(expanded(options.backbone))
        recorded = recorded_options(folder) if action in ("continue", "finished") else None
        seed = options.seed if recorded is None else recorded["seed"]
        options = replace(options, seed=secrets.randbits(32) if seed is None else seed)
        return cls(options, folder, action, digested, written, recorded)

    @property
    def is_open(self) -> bool:
        return self.action != "finished"

    @property
    def has_data_elsewhere(self) -> bool:
        """True if the run began with another `--data_root`, where other images may be."""
        before = (self.recorded or {}).get("data_root")
        given = self.options.data_root
        return before is not None and os.path.realpath(before) != os.path.realpath(given)

    def check_same_images(self, data: LongTailedData) -> None:
        """Checks that a run which is resumed or finished began with the same images.

        Raises:
            UserError: it did not.
        """
        if self.recorded is None:
            return
        names = {"test": "test", "heldout": "held-out"}
        changed = [names[split] for split in data.changed_splits(self.recorded) or []]
        if not data.has_fingerprint(self.recorded.get("fingerprint")):
            changed.insert(0, "training")
        if changed:
            raise UserError(
                f"--resume True: the run in {self.folder.records} has other "
                f"{' and '.join(changed)} images: --data_root {self.options.data_root} (recorded: "
                f"{self.recorded.get('data_root')})"
            )

    def record(self, machine: Machine, data: LongTailedData) -> None:
        """Writes the options of a new run. For a run that is resumed with another number of epochs,
        removes the results of the other length first and then writes the new number. If a run is
        resumed on another processor, a warning says so."""
        if not self.folder.arguments.exists():
            of_run = {
                "class_counts": data.class_counts,
                "fingerprint": data.fingerprint,
                "data": data.description(),
                "machine": machine.description(),
            }
            if self.options.stage == 2:
                start = checkpoint.load(checkpoint_of_flag(self.options, "pretrained"))
                of_run["start"] = weights_digest(start["state_dict"])
            if contents := contents_of(self.options):
                of_run[RECORD] = contents
            write_json(self.folder.arguments, self.options.as_dict() | of_run)
            return
        recorded = recorded_options(self.folder)
        before = (recorded.get("machine") or {}).get("processor")
        now = machine.description()["processor"]
        if before not in (None, now):
            warn(
                f"{self.folder.records}: this run began on {before} and goes on on {now}; "
                "args.json names only the first"
            )
        if recorded["epochs"] != self.options.epochs:
            for name in ("summary.json", "report.png", "predictions.npz"):
                (self.folder.records / name).unlink(missing_ok=True)
            write_json(self.folder.arguments, recorded | {"epochs": self.options.epochs})


def _plan(stages: Sequence[Options]) -> tuple[list[list[_Job]], dict | None]:
    """Returns the jobs of each stage, and the record of the data of the run that is resumed or of
    the stage before. All jobs are checked before the first begins, which may take hours."""
    for stage in stages:
        if stage.seeds is not None:
            check_holds_no_run(run_folder(stage))
    jobs = [[_Job.of(options) for options in stage.by_seed()] for stage in stages]
    remembered = None
    begun = [job.recorded for job in jobs[0] if job.recorded]
    if begun:
        remembered = begun[0]
    elif stages[0].stage == 2:
        remembered = checkpoint.load(checkpoint_of_flag(jobs[0][0].options, "pretrained"))
    return jobs, remembered and {"data": remembered.get("data")}


def _train(jobs: Sequence[_Job], machine: Machine | None, data: LongTailedData | None) -> bool:
    """Trains the jobs that are not finished: side by side on a GPU, else one after the other.
    Returns True if they trained side by side."""
    for job in jobs:
        if not job.is_open:
            print(f"{job.folder.records}: this run is finished, see summary.json")
    jobs = [job for job in jobs if job.is_open]
    if not jobs:
        return False
    assert machine is not None and data is not None  # `train` loads both if a job is open
    world = machine.world
    trainers = [_build(job, machine, data) for job in jobs]
    with ExitStack() as stack:
        collectives.from_main(partial(_open_folders, stack, jobs, machine, data), world)
        _print_long_epochs(trainers[0])  # all seeds have the same phases
        # All loaders of a streamed set share their workers, which read one epoch at a time.
        can_share = machine.device.type == "cuda" and world.size == 1 and not data.is_streamed
        is_together = can_share and len(jobs) > 1
        if is_together:
            side_by_side([trainer.steps() for trainer in trainers], machine.device)
        for trainer in trainers:
            if not is_together:
                trainer.run()
            summarise(trainer)
    return is_together


def _print_long_epochs(trainer: Trainer) -> None:
    """Prints how many images an epoch has, for the phases that draw more than there are."""
    images = len(trainer.data.train)
    for phase in trainer.phases:
        drawn = len(phase.loader.order)
        if drawn > images:
            uses_centroids = phase.objective(phase.epochs[-1]).uses_centroids
            again = ", and as many again for the centroids" if uses_centroids else ""
            print(
                f"{phase.name}: an epoch has {drawn} images, {drawn / images:.1f} times the "
                f"training images{again}"
            )


def _build(job: _Job, machine: Machine, data: LongTailedData) -> Trainer:
    """Returns the trainer of a run, ready to begin or to continue.

    Raises:
        UserError: a checkpoint that it starts from is missing, does not fit, or was trained on
            images that `--heldout_fraction` holds out.
    """
    options, folder, world = job.options, job.folder, machine.world
    start, state = collectives.from_main(lambda: _read_checkpoints(job, data), world)

    def build() -> Trainer:
        assert options.seed is not None  # `_Job.of` drew one if it was not given
        run = Run(options, folder, machine, data, generator=seed_everything(options.seed))
        trainer = Trainer(run, stage_1(run) if start is None else stage_2(run, *start))
        if state is not None:
            _take_up(trainer, state, folder.last_checkpoint)
        return trainer

    return collectives.together(build, world)


def _read_checkpoints(
    job: _Job, data: LongTailedData
) -> tuple[tuple[dict, Path] | None, dict | None]:
    """Returns the checkpoint that a stage 2 starts from, with its file, and the last checkpoint of
    a run that is resumed; None for a stage 1, and for a new run.

    Raises:
        UserError: as in `_build`, or the log of a run that is resumed lacks its last epoch.
    """
    start = state = None
    if job.options.stage == 2:
        path = checkpoint_of_flag(job.options, "pretrained")
        start = checkpoint.load(path), path
        check_not_trained_on(job.options, *start, data)
    if job.action == "continue" and job.folder.last_checkpoint.exists():
        state = checkpoint.load(job.folder.last_checkpoint)
        if isinstance(done := state.get("epoch"), int):  # else `_take_up` refuses it
            finished_epochs(job.folder.records, done)
    return start, state


def _take_up(trainer: Trainer, state: dict, path: Path) -> None:
    """Loads the state of a run's last checkpoint, which was read from `path`, into the trainer.

    Raises:
        UserError: the checkpoint has weights of another network, other training images, or not all
            that a resumed run needs.
    """
    if not trainer.data.has_fingerprint(state.get("fingerprint")):
        raise UserError(f"--resume True: {path} was trained on other training images")
    try:
        trainer.load_state_dict(state, path)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{path}: this run cannot be resumed from it ({type(error).__name__}: {error})"
        ) from error
    print(f"resumes after epoch {trainer.epoch} of {trainer.last_epoch}, from {path}")


def _open_folders(
    stack: ExitStack, jobs: Sequence[_Job], machine: Machine, data: LongTailedData
) -> None:
    """Locks the runs' folders until the stack closes, deletes the files of runs that are replaced,
    of earlier evaluations and exports, and the mean over seeds of which one trains again or goes
    on, and writes the options of new runs.

    Raises:
        UserError: another process has locked a folder, or has begun or continued a run there since
            the jobs were planned; or a path is too long for the system.
    """
    for job in jobs:
        job.folder.check_path_length()
        stack.enter_context(job.folder.locked())
        has_begun = job.action == "start" and job.folder.holds_a_run()
        if has_begun or job.folder.written() != job.written:
            raise UserError(
                f"another run has {'begun' if has_begun else 'gone on'} in {job.folder.records} "
                "while this one loaded its data: --resume True continues it"
            )
    for job in jobs:
        combined = job.folder.records.parent / "summary.json"
        if job.options.seeds and job.options.seed in read_json(combined).get("seeds", []):
            combined.unlink(missing_ok=True)  # the mean of the runs that there were
        for path in job.folder.own_files():
            # A process that was killed while it wrote a file leaves a part of it.
            if job.action == "replace" or path.suffix == ".tmp":
                path.unlink()
        # They are of the epochs that there were, or of a shipped checkpoint.
        outdated = job.folder.outdated_files()
        for path in outdated:
            path.unlink()
        if outdated:
            names = ", ".join(path.name for path in outdated)
            print(f"removed the files of an earlier evaluation or export: {names}")
        job.record(machine, data)
        print(
            f"{len(data.train)} training images of {data.num_classes} classes, {machine.device}, "
            f"seed {job.options.seed}; records in {job.folder.records}"
        )
        if job.digested:
            print(f"the digest in its name stands for {job.digested}")
        if job.options.stage == 2:
            print(f"starts from {checkpoint_of_flag(job.options, 'pretrained')}")


def _summarise_seeds(options: Options, jobs: Sequence[_Job], together: bool) -> None:
    """Writes the summary of several seeds and prints it. If nothing was trained, an earlier summary
    of these seeds stays, because only that knows whether they trained side by side."""
    folder = run_folder(options)
    earlier = None if any(job.is_open for job in jobs) else _summary_of(folder, jobs)
    summaries = [job.folder.summary for job in jobs]
    combined = earlier or summarise_seeds(folder.summary, summaries, together)
    print(final_table(combined))
    print(f"mean ± sample standard deviation over seeds {options.seeds}: {folder.summary}")


def _summary_of(folder: RunFolder, jobs: Sequence[_Job]) -> dict | None:
    """Returns the folder's summary if it is that of exactly these seeds, else None."""
    summary = read_json(folder.summary)
    return summary if summary.get("seeds") == [job.options.seed for job in jobs] else None
