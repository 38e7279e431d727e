"""The training command: stage 1, stage 2, or both, for one seed or several."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

from datasets import LongTailedData, load_data
from utils.commands.jobs import Job, open_folders, plan
from utils.errors import UserError, is_out_of_memory
from utils.files import read_json
from utils.machine import collectives, signals
from utils.machine.device import Machine, seed_everything
from utils.options.flags import Options
from utils.runs import checkpoint
from utils.runs.epoch_log import finished_epochs
from utils.runs.folders import run_folder
from utils.runs.lookup import checkpoint_of_flag
from utils.runs.run_folder import RunFolder
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
        jobs, remembered = collectives.from_main(lambda: plan(stages), world)
        machine = data = None
        every = list(chain.from_iterable(jobs))
        if any(job.is_open for job in every):
            machine = collectives.together(lambda: machine_of(stages[0], world), world)
        if any(job.is_open or job.has_data_elsewhere for job in every):
            data = collectives.main_first(lambda: load_data(stages[0], remembered), world)
            print(data.account())
            collectives.together(partial(_check_images, every, data), world)
        # Around both stages, so that a signal in the summary of the first ends the second.
        with signals.deferred(lambda number: collectives.largest(number, world)):
            for stage, stage_jobs in zip(stages, jobs, strict=True):
                is_parallel = _train(stage_jobs, machine, data)
                if stage.seeds is not None:
                    combine = partial(_summarise_seeds, stage, stage_jobs, is_parallel)
                    collectives.from_main(combine, world)


def _check_images(jobs: Sequence[Job], data: LongTailedData) -> None:
    """Checks that earlier runs began with these images, and that stage 2 can train on them.

    Raises:
        UserError: an earlier run began with other images, or what `check_stage_2` raises.
    """
    for job in jobs:
        job.check_same_images(data)
        if job.is_open and job.options.stage == 2:
            check_stage_2(job.options, data)


def _train(jobs: Sequence[Job], machine: Machine | None, data: LongTailedData | None) -> bool:
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
    trainers, begun = zip(*(_build(job, machine, data) for job in jobs), strict=True)
    with ExitStack() as stack:
        collectives.from_main(partial(open_folders, stack, jobs, begun, machine, data), world)
        _print_long_epochs(trainers[0])  # all seeds have the same phases
        # All loaders of a streamed set share their workers, which read one epoch at a time.
        can_share = machine.device.type == "cuda" and world.size == 1 and not data.is_streamed
        is_parallel = can_share and len(jobs) > 1
        if is_parallel:
            side_by_side([trainer.steps() for trainer in trainers], machine.device)
        for trainer in trainers:
            if not is_parallel:
                trainer.run()
            summarise(trainer)
    return is_parallel


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


def _build(job: Job, machine: Machine, data: LongTailedData) -> tuple[Trainer, dict[str, str]]:
    """Returns the trainer of a run, ready to begin or to continue, and the `began` of `Job.record`.

    Raises:
        UserError: a checkpoint that it starts from is missing, does not fit, or was trained on
            images that `--heldout_fraction` holds out.
    """
    options, folder, world = job.options, job.folder, machine.world
    start, state = collectives.from_main(lambda: _read_checkpoints(job, data), world)

    def build() -> Trainer:
        assert options.seed is not None  # `Job.of` drew one if it was not given
        run = Run(options, folder, machine, data, generator=seed_everything(options.seed))
        trainer = Trainer(run, stage_1(run) if start is None else stage_2(run, *start))
        if state is not None:
            _take_up(trainer, state, folder.last_checkpoint)
        return trainer

    trainer = collectives.together(build, world)
    if start is None or state is not None:
        return trainer, {}
    weights, path = start[0]["state_dict"], start[1]
    began = {"start": checkpoint.weights_digest(weights), "start_file": str(path)}
    return trainer, began | {"pretrained": str(options.pretrained)}


def _read_checkpoints(
    job: Job, data: LongTailedData
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


def _summarise_seeds(options: Options, jobs: Sequence[Job], is_parallel: bool) -> None:
    """Writes the summary of several seeds and prints it. If nothing was trained, an earlier summary
    of these seeds stays, because only that knows whether they trained side by side."""
    folder = run_folder(options)
    earlier = None if any(job.is_open for job in jobs) else _summary_of(folder, jobs)
    summaries = [job.folder.summary for job in jobs]
    combined = earlier or summarise_seeds(folder.summary, summaries, is_parallel)
    print(final_table(combined))
    print(f"mean ± sample standard deviation over seeds {options.seeds}: {folder.summary}")


def _summary_of(folder: RunFolder, jobs: Sequence[Job]) -> dict | None:
    """Returns the folder's summary if it is that of exactly these seeds, else None."""
    summary = read_json(folder.summary)
    return summary if summary.get("seeds") == [job.options.seed for job in jobs] else None
