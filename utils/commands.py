"""The three things that the program does, each from checked options to files in the run's folder:
pretrain (stage 1), finetune (stage 2, DRO-LT) and evaluate."""

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets import load_data
from utils import checkpoint, distributed, signals
from utils.device import Machine, choose_machine, seed_everything
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
from utils.world import World


def pretrain(options: Options) -> None:
    """Stage 1: classification from random weights.

    Raises:
        UserError: bad input; nothing has been written.
        RunError: the run failed.
        Interrupted: SIGINT or SIGTERM.
    """
    with distributed.joined() as world:
        _train(options, world, pretraining)


def finetune(options: Options) -> None:
    """Stage 2: DRO-LT from the stage-1 checkpoint that `--pretrained` names.

    Raises:
        As `pretrain`.
    """
    with distributed.joined() as world:
        path, start = distributed.from_main(lambda: _read_pretrained(options), world)
        _train(options, world, lambda run: finetuning(run, start, path))


def _read_pretrained(options: Options) -> tuple[Path, dict]:
    path = find_pretrained(options)
    return path, checkpoint.load(path)


def _train(options: Options, world: World, make_stage: Callable[[Run], Stage]) -> None:
    folder = run_folder(options)
    action, seed = distributed.from_main(lambda: _plan(options, folder), world)
    if action == "finished":
        print(f"{folder.records} holds this run, finished: see summary.json")
        return
    options = options.with_seed(seed)
    machine = distributed.together(lambda: _machine(options, world), world)
    data = distributed.main_first(lambda: load_data(options), world)
    state = None
    if action == "continue":
        state = distributed.from_main(lambda: _read_state(folder), world)

    def build() -> tuple[Run, Trainer]:
        run = Run(options, folder, machine, data, generator=seed_everything(options.seed))
        trainer = Trainer(run, make_stage(run))
        if state is not None:
            _take_up(trainer, state, folder.last_checkpoint)
        return run, trainer

    run, trainer = distributed.together(build, world)
    with ExitStack() as stack:
        open_folder = partial(_open_folder, stack, run, action == "replace")
        distributed.together(open_folder if world.is_main else lambda: None, world)
        stack.enter_context(signals.deferred(lambda number: distributed.largest(number, world)))
        print(
            f"{len(data.train)} training images of {data.num_classes} classes, {machine.device}, "
            f"seed {options.seed}; records in {folder.records}"
        )
        trainer.run()
        summarise(run, trainer)


def _plan(options: Options, folder: RunFolder) -> tuple[str, int]:
    """What to do with the run's folder (`prepare`), and the run's seed."""
    action = prepare(options, folder)
    seed = recorded_options(folder)["seed"] if action == "continue" else options.seed
    return action, secrets.randbits(32) if seed is None else seed


def _machine(options: Options, world: World) -> Machine:
    return choose_machine(options.gpu, options.precision, options.step, options.accumulate, world)


def _open_folder(stack: ExitStack, run: Run, is_replaced: bool) -> None:
    """Locks the run's folder while the stack lasts, and writes `args.json` where there is none."""
    folder = run.folder
    stack.enter_context(folder.locked())
    if is_replaced:
        for path in folder.own_files():
            path.unlink()
    if not folder.arguments.exists():
        machine = {"class_counts": run.data.class_counts, "machine": run.machine.description()}
        write_json(folder.arguments, run.options.as_dict() | machine)


def _read_state(folder: RunFolder) -> dict | None:
    path = folder.last_checkpoint
    return checkpoint.load(path) if path.exists() else None


def _take_up(trainer: Trainer, state: dict, path: Path) -> None:
    """Continues from the state in a run's last checkpoint, read from `path`.

    Raises:
        UserError: it holds the weights of another network, or no state to go on from.
    """
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
    with distributed.joined() as world:
        _evaluate(options, world)


def _evaluate(options: Options, world: World) -> None:
    folder = run_folder(options)
    path = folder.best_checkpoint

    def read_chosen() -> dict:
        chosen = checkpoint.load(path)
        check_writable(folder.records)
        return chosen

    chosen = distributed.from_main(read_chosen, world)
    machine = distributed.together(lambda: _machine(options, world), world)
    data = distributed.main_first(lambda: load_data(options), world)

    def build() -> nn.Module:
        warn_of_other_data(chosen, path, data)
        model = checkpoint.build_from(chosen, path, options.arch, data.num_classes)
        return model.to(machine.device, memory_format=torch.channels_last)

    model = distributed.together(build, world)
    evaluator = Evaluator(data, machine)
    evaluator.look(model)
    linear, ncm = evaluator.linear(model), evaluator.ncm(model)
    train = extract_features(model, evaluator.train_loader, machine)
    if not world.is_main:
        return
    print(f"{path}, epoch {chosen.get('epoch', 'unknown')}")
    print(per_class_table(linear["test"], ncm["test"], data))
    rows = {}
    for split in linear:
        rows |= {f"{split}, linear": linear[split], f"{split}, NCM": ncm[split]}
    print(accuracy_table(rows, data.class_counts))
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
