"""The three things that the program does, each from checked options to files in the run's folder:
pretrain (stage 1), finetune (stage 2, DRO-LT) and evaluate."""

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets import load_data
from utils import checkpoint, signals
from utils.device import choose_machine, seed_everything
from utils.errors import UserError
from utils.evaluation import Evaluator, extract_features
from utils.files import atomic_write, write_json
from utils.finetuning import finetuning
from utils.folders import (
    RunFolder,
    check_writable,
    find_pretrained,
    prepare,
    recorded_options,
    run_folder,
)
from utils.options import Options
from utils.pretraining import pretraining
from utils.readings import FeatureBank, read, write_readings
from utils.run import Run, Stage, warn_of_other_data
from utils.summary import accuracy_table, per_class_table, reading_table, summarise
from utils.tensorboard import EventFile
from utils.training import Trainer


def pretrain(options: Options) -> None:
    """Stage 1: classification from random weights.

    Raises:
        UserError: bad input; nothing has been written.
        RunError: the run failed.
        Interrupted: SIGINT or SIGTERM.
    """
    _train(options, pretraining)


def finetune(options: Options) -> None:
    """Stage 2: DRO-LT from the stage-1 checkpoint that `--pretrained` names.

    Raises:
        As `pretrain`.
    """
    path = find_pretrained(options)
    start = checkpoint.load(path)
    _train(options, lambda run: finetuning(run, start, path), start)


def _train(options: Options, make_stage: Callable[[Run], Stage], start: dict | None = None) -> None:
    """Trains a stage, from the checkpoint `start` of the one before."""
    folder = run_folder(options)
    action = prepare(options, folder)
    if action == "finished":
        print(f"{folder.records} holds this run, finished: see summary.json")
        return
    recorded = recorded_options(folder) if action == "continue" else None
    seed = options.seed if recorded is None else recorded["seed"]
    options = options.with_seed(secrets.randbits(32) if seed is None else seed)
    machine = choose_machine(options.gpu, options.precision, options.step)
    data = load_data(options, recorded or start)
    run = Run(options, folder, machine, data, generator=seed_everything(options.seed))
    trainer = Trainer(run, make_stage(run))
    if action == "continue" and folder.last_checkpoint.exists():
        _take_up(trainer, folder.last_checkpoint)
    with folder.locked(), signals.deferred():
        if action == "replace":
            for path in folder.own_files():
                path.unlink()
        if not folder.arguments.exists():
            write_json(
                folder.arguments,
                options.as_dict()
                | {
                    "class_counts": data.class_counts,
                    "data": data.description(),
                    "machine": machine.description(),
                },
            )
        print(
            f"{len(data.train)} training images of {data.num_classes} classes, {machine.device}, "
            f"seed {options.seed}; records in {folder.records}"
        )
        trainer.run()
        summarise(run, trainer)


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
    """Accuracies of a run's best checkpoint; `outputs_train.npz` and `outputs_test.npz` with
    features, labels and predictions of the un-augmented images.

    Raises:
        UserError: no such checkpoint, or one of another network.
    """
    folder = run_folder(options)
    path = folder.best_checkpoint
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
