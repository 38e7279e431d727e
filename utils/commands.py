"""What the program does, from checked options to files in the runs' folders: train (stage 1,
stage 2, or both) and evaluate."""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets import LongTailedData, load_data
from utils import checkpoint, signals
from utils.device import Machine, choose_machine, seed_everything
from utils.errors import UserError
from utils.evaluation import Evaluator, extract_features
from utils.files import atomic_write, write_json
from utils.finetuning import finetuning
from utils.folders import (
    RunFolder,
    check_holds_no_run,
    check_writable,
    find_evaluated,
    find_pretrained,
    prepare,
    recorded_options,
    run_folder,
)
from utils.options import Options
from utils.pretraining import pretraining
from utils.readings import FeatureBank, read, write_readings
from utils.run import Run, warn_of_other_data
from utils.seeds import combine, side_by_side, summarise_seeds
from utils.summary import (
    accuracy_table,
    final_table,
    per_class_table,
    reading_table,
    summarise,
)
from utils.tensorboard import EventFile
from utils.training import Trainer


def train(stages: Sequence[Options]) -> None:
    """Stage 1 (classification from random weights), stage 2 (DRO-LT from a stage-1 checkpoint), or
    one after the other; each for one seed or several.

    Raises:
        UserError: bad input; nothing has been written.
        RunError: the run failed.
        Interrupted: SIGINT or SIGTERM.
    """
    # All of them before the first, which may take hours, begins.
    for stage in stages:
        if stage.seeds is not None:
            check_holds_no_run(run_folder(stage))
    jobs = [[_Job.of(options) for options in stage.by_seed()] for stage in stages]
    if all(job.action == "finished" for job in chain.from_iterable(jobs)):
        machine = data = None
    else:
        machine = choose_machine(stages[0].gpu, stages[0].precision, stages[0].step)
        data = load_data(stages[0], _remembered(jobs[0]))
    for stage, stage_jobs in zip(stages, jobs, strict=True):
        _train(stage_jobs, machine, data)
        if stage.seeds is not None:
            _summarise_seeds(stage, [job.folder.summary for job in stage_jobs])


@dataclass(frozen=True)
class _Job:
    """The run of one stage and seed, and what is to be done about it (`folders.prepare`)."""

    options: Options
    folder: RunFolder
    action: str

    @classmethod
    def of(cls, options: Options) -> "_Job":
        if options.stage == 2 and options.pretrain_epochs is None:
            find_pretrained(options)
        folder = run_folder(options)
        action = prepare(options, folder)
        seed = recorded_options(folder)["seed"] if action == "continue" else options.seed
        return cls(
            options.with_seed(secrets.randbits(32) if seed is None else seed), folder, action
        )


def _remembered(jobs: Sequence[_Job]) -> dict | None:
    """What a run to go on from, or the stage before, remembers of its data."""
    begun = [job.folder for job in jobs if job.action in ("continue", "finished")]
    if begun:
        return recorded_options(begun[0])
    options = jobs[0].options
    return checkpoint.load(find_pretrained(options)) if options.stage == 2 else None


def _train(jobs: Sequence[_Job], machine: Machine | None, data: LongTailedData | None) -> None:
    """Trains what is not finished yet: side by side on a GPU, else one after another."""
    for job in jobs:
        if job.action == "finished":
            print(f"{job.folder.records} holds this run, finished: see summary.json")
    jobs = [job for job in jobs if job.action != "finished"]
    runs = [_run(job, machine, data) for job in jobs]
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(job.folder.locked())
        stack.enter_context(signals.deferred())
        for job in jobs:
            _open_records(job, machine, data)
        # All loaders of a streamed set share their workers, which read one epoch at a time.
        on_gpu = machine is not None and machine.device.type == "cuda" and not data.is_streamed
        if on_gpu and len(jobs) > 1:
            side_by_side([trainer.steps() for _, trainer in runs], machine.device)
            for run, trainer in runs:
                summarise(run, trainer)
        else:
            for run, trainer in runs:
                trainer.run()
                summarise(run, trainer)


def _run(job: _Job, machine: Machine, data: LongTailedData) -> tuple[Run, Trainer]:
    """The run and its trainer, ready to begin or to go on.

    Raises:
        UserError: a checkpoint that it starts from is missing or not what it should be.
    """
    options = job.options
    if options.stage == 2:
        path = find_pretrained(options)
        start = checkpoint.load(path)
    run = Run(options, job.folder, machine, data, generator=seed_everything(options.seed))
    stage = pretraining(run) if options.stage == 1 else finetuning(run, start, path)
    trainer = Trainer(run, stage)
    if job.action == "continue" and job.folder.last_checkpoint.exists():
        _take_up(trainer, job.folder.last_checkpoint)
    return run, trainer


def _open_records(job: _Job, machine: Machine, data: LongTailedData) -> None:
    """Clears the folder of a run that is replaced, and records the options of a new one."""
    if job.action == "replace":
        for path in job.folder.own_files():
            path.unlink()
    if not job.folder.arguments.exists():
        of_run = {
            "class_counts": data.class_counts,
            "data": data.description(),
            "machine": machine.description(),
        }
        write_json(job.folder.arguments, job.options.as_dict() | of_run)
    print(
        f"{len(data.train)} training images of {data.num_classes} classes, {machine.device}, "
        f"seed {job.options.seed}; records in {job.folder.records}"
    )


def _summarise_seeds(options: Options, summaries: Sequence[Path]) -> None:
    folder = run_folder(options)
    combined = summarise_seeds(folder.summary, summaries)
    print(final_table(combined))
    print(f"mean ± standard deviation over seeds {options.seeds}: {folder.summary}")


def _take_up(trainer: Trainer, path: Path) -> None:
    """Continues from the state in a run's last checkpoint.

    Raises:
        UserError: it holds the weights of another network, or no state to go on from.
    """
    state = checkpoint.load(path)
    if state.get("fingerprint") not in (None, trainer.data.fingerprint):
        raise UserError(f"--resume True: {path} was trained on other training images")
    checkpoint.load_weights(trainer.model, state["state_dict"], path)
    try:
        trainer.load_state_dict(state)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path}: no state that this run could go on from ({type(error).__name__}: {error})"
        ) from error


def evaluate(options: Options) -> None:
    """Accuracies of the best checkpoint of a run, or of the runs of several seeds, and their mean
    and deviation; `outputs_train.npz` and `outputs_test.npz` with features, labels and predictions
    of the un-augmented images.

    Raises:
        UserError: no such checkpoint, or one of another network.
    """
    evaluated = [_evaluate(of_seed) for of_seed in options.by_seed()]
    if options.seeds is not None:
        rows, class_counts = combine([rows for rows, _ in evaluated]), evaluated[0][1]
        print(f"mean ± standard deviation over seeds {options.seeds}")
        print(accuracy_table(rows, class_counts))


def _evaluate(options: Options) -> tuple[dict[str, dict], list[int]]:
    """One run; its accuracies, by split and classifier, and the class counts."""
    folder = run_folder(options)
    path = find_evaluated(options)
    chosen = checkpoint.load(path)
    check_writable(folder.records)
    machine = choose_machine(options.gpu, options.precision, options.step)
    data = load_data(options, chosen)
    warn_of_other_data(chosen, path, data)
    model = checkpoint.build_from(chosen, path, options.arch, data.num_classes)
    model = model.to(machine.device, memory_format=torch.channels_last)
    evaluator = Evaluator(data, machine)
    evaluator.look(model)
    linear, ncm = evaluator.linear(model), evaluator.ncm(model)
    print(f"{path}, epoch {chosen.get('epoch', 'unknown')}")
    print(per_class_table(linear["test"], ncm["test"], data))
    rows = {}
    for split in linear:
        rows |= {f"{split}, linear": linear[split], f"{split}, NCM": ncm[split]}
    print(accuracy_table(rows, data.class_counts))
    train = extract_features(model, evaluator.train_loader, machine)
    records = {}
    if options.readings:
        names = options.readings.split(",")
        heldout = evaluator.seen("heldout") if data.heldout is not None else None
        bank = FeatureBank(*train, model.linear, data.class_counts, heldout)
        records = read(names, bank, *evaluator.seen("test"))
        print(reading_table(records, data.class_counts))
        for name in set(names) - set(records):
            print(f"{name} is left out: it needs held-out images")
    with folder.locked():
        if records:
            write_readings(folder.records, records)
            _add_events(folder, records, int(chosen.get("epoch", 0)))
        _save_outputs(folder, "train", model, *train)
        _save_outputs(folder, "test", model, *evaluator.seen("test"))
    print(f"features, labels and predictions: {folder.records}/outputs_{{train,test}}.npz")
    return rows, data.class_counts


def _add_events(folder: RunFolder, records: dict[str, dict], epoch: int) -> None:
    """Adds the readings to the run's TensorBoard events."""
    with EventFile(folder.records, ".readings") as events:
        for reading, record in records.items():
            for name, value in record.items():
                if isinstance(value, (int, float)):
                    events.add_scalar(f"reading_{reading}/{name}", value, epoch)


@torch.no_grad()
def _save_outputs(
    folder: RunFolder, split: str, model: nn.Module, features: Tensor, labels: Tensor
) -> None:
    confs, preds = torch.softmax(model.classify(features), dim=1).max(dim=1)
    arrays = {"feats": features, "labels": labels, "preds": preds, "confs": confs}
    with atomic_write(folder.records / f"outputs_{split}.npz") as file:
        np.savez(file, **{name: array.cpu().numpy() for name, array in arrays.items()})
