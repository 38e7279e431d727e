"""The three things that the program does: pretrain (stage 1), finetune (stage 2, DRO-LT) and
evaluate, each from checked options to files in the run's folder."""

import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets import LongTailedData, load_data
from datasets.pipeline import Normalise, ResidentLoader
from datasets.samplers import (
    ClassAwareOrder,
    EffectiveNumberOrder,
    SequentialOrder,
    ShuffledOrder,
)
from datasets.splits import Split
from losses import Objective, make_margins, stage_1_objective, stage_2_objective
from models import build_model
from utils import checkpoint, report, signals
from utils.device import Machine, choose_machine, seed_everything
from utils.evaluation import Evaluator, extract_features
from utils.files import atomic_write, write_json
from utils.folders import RunFolder, find_pretrained, prepare, recorded_options, run_folder
from utils.options import Options, Sampler
from utils.phases import Phase
from utils.runlog import accuracy_table
from utils.training import Trainer

WARM_UP_EPOCHS = 5
RATE_STEPS = ((160, 0.01), (180, 0.0001))
DRW_START = 160
PUBLISHED_EPOCHS = 200


def run(options: Options) -> None:
    """Does what the options ask for.

    Raises:
        UserError: bad input; nothing has been written.
        RunError: the run failed.
        Interrupted: SIGINT or SIGTERM.
    """
    folder = run_folder(options)
    if options.evaluation:
        evaluate(options, folder)
        return
    action = prepare(options, folder)
    if action == "finished":
        print(f"{folder.records} holds this run, finished: see summary.json")
        return
    seed = recorded_options(folder)["seed"] if action == "continue" else options.seed
    options = options.with_seed(secrets.randbits(32) if seed is None else seed)
    machine = choose_machine(options.gpu, options.precision)
    data = load_data(options)
    start = pretrain if options.stage == 1 else finetune
    generator = seed_everything(options.seed)
    trainer = start(options, machine, data, folder, generator)
    if action == "continue" and folder.last_checkpoint.exists():
        state = checkpoint.load(folder.last_checkpoint)
        checkpoint.load_weights(trainer.model, state["state_dict"], folder.last_checkpoint)
        trainer.load_state_dict(state)
    with folder.locked(), signals.deferred():
        if action == "replace":
            for path in folder.own_files():
                path.unlink()
        if not folder.arguments.exists():
            write_json(folder.arguments, options.as_dict() | {"machine": machine.description()})
        print(
            f"{len(data.train)} training images of {data.num_classes} classes, {machine.device}, "
            f"seed {options.seed}; records in {folder.records}"
        )
        trainer.run()
        summarise(options, data, folder, trainer)


# Stage 1


def pretrain(
    options: Options,
    machine: Machine,
    data: LongTailedData,
    folder: RunFolder,
    generator: torch.Generator,
) -> Trainer:
    """Stage 1: the whole network from random weights, by LDAM-DRW's recipe for CIFAR (Cao et al.,
    NeurIPS 2019, section 4 and its code)."""
    is_ldam = options.loss_type == "LDAM"
    model = build_model(options.arch, data.num_classes, head_scale=1.0 if is_ldam else None)
    model = model.to(machine.device, memory_format=torch.channels_last)
    if options.train_rule == "Resample":
        order = EffectiveNumberOrder(data.train.labels, generator)
    else:
        order = ShuffledOrder(len(data.train), generator)
    rate_steps, drw_start = stage_1_schedule(options)
    phase = Phase(
        name="pretraining",
        epochs=range(options.start_epoch + 1, options.epochs + 1),
        loader=training_loader(options, machine, data, order, generator),
        objective=_stage_1_objectives(options, data.class_counts, drw_start),
        optimizer=_sgd(options, model.parameters(), options.lr),
        learning_rate=lambda epoch: stage_1_rate(epoch, options.lr, rate_steps),
        monitor="linear",
    )
    return _trainer(options, machine, data, folder, generator, model, [phase])


def stage_1_schedule(options: Options) -> tuple[list[tuple[int, float]], int]:
    """After which epochs the rate falls, to which factor, and the epoch after which DRW starts."""
    scale = options.epochs / PUBLISHED_EPOCHS if options.schedule == "scaled" else 1
    steps = [(round(epoch * scale), factor) for epoch, factor in RATE_STEPS]
    if options.schedule == "absolute" and options.epochs <= RATE_STEPS[-1][0]:
        print(
            f"main.py: warning: --epochs {options.epochs} ends before the rate steps after epochs "
            f"{RATE_STEPS[0][0]} and {RATE_STEPS[1][0]}; --schedule scaled moves them",
            file=sys.stderr,
        )
    return steps, round(DRW_START * scale)


def stage_1_rate(epoch: int, lr: float, rate_steps: list[tuple[int, float]]) -> float:
    """Learning rate of an epoch, counted from 1: a linear warm-up, then a step function."""
    if epoch <= WARM_UP_EPOCHS:
        return lr * epoch / WARM_UP_EPOCHS
    factors = [factor for last_epoch, factor in rate_steps if epoch > last_epoch]
    return lr * (factors[-1] if factors else 1.0)


def _stage_1_objectives(
    options: Options, class_counts: list[int], drw_start: int
) -> Callable[[int], Objective]:
    plain = stage_1_objective(options.loss_type, class_counts)
    reweighted = stage_1_objective(options.loss_type, class_counts, reweighted=True)
    if options.train_rule == "Reweight":
        return lambda epoch: reweighted
    if options.train_rule == "DRW":
        return lambda epoch: reweighted if epoch > drw_start else plain
    return lambda epoch: plain


# Stage 2


def finetune(
    options: Options,
    machine: Machine,
    data: LongTailedData,
    folder: RunFolder,
    generator: torch.Generator,
) -> Trainer:
    """Stage 2, DRO-LT: the features and the margins with the classifier frozen, then the classifier
    with the best features frozen (Samuel and Chechik, ICCV 2021, section 4)."""
    path = find_pretrained(options)
    start = checkpoint.load(path)
    warn_of_other_chain(start, path, options)
    warn_of_other_data(start, path, data)
    model = checkpoint.build_from(start, path, options.arch, data.num_classes)
    model = model.to(machine.device, memory_format=torch.channels_last)
    margins = make_margins(options.margin_type, options.starting_margin, data.class_counts)
    margins = _on_device(margins, machine)

    classifier = list(model.linear.parameters())
    features = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    if margins.requires_grad:
        features.append(margins)

    def sampled(sampler: Sampler) -> ResidentLoader:
        order = _order(sampler, data, generator)
        return training_loader(options, machine, data, order, generator)

    features_loader = sampled(options.feature_sampler)
    # The same order object: its cycles go on from one phase to the next, as released.
    same = options.classifier_sampler == options.feature_sampler
    classifier_loader = features_loader if same else sampled(options.classifier_sampler)

    def objective(names: str | None) -> Callable[[int], Objective]:
        made = stage_2_objective(
            (names or "ce").split(","),
            data.class_counts,
            temperature=options.temperature,
            epsilons=margins,
            released_margins=options.as_released,
            robust_weight=options.robust_weight,
        ).to(machine.device)
        return lambda epoch: made

    phases = [
        Phase(
            name="features",
            epochs=range(options.start_epoch + 1, options.feature_epochs + 1),
            loader=features_loader,
            objective=objective(options.feat_loss),
            optimizer=_sgd(options, features, options.feat_lr),
            learning_rate=lambda epoch: options.feat_lr,
            monitor="ncm",
            uses_centroids="robust_loss" in (options.feat_loss or ""),
        ),
        Phase(
            name="classifier",
            epochs=range(max(options.feature_epochs, options.start_epoch) + 1, options.epochs + 1),
            loader=classifier_loader,
            objective=objective(options.cls_loss),
            optimizer=_sgd(options, classifier, options.cls_lr),
            learning_rate=lambda epoch: options.cls_lr,
            monitor="linear",
            features_are_frozen=True,
        ),
    ]
    return _trainer(options, machine, data, folder, generator, model, phases, margins)


def _on_device(margins: Tensor, machine: Machine) -> Tensor:
    if isinstance(margins, nn.Parameter):
        return nn.Parameter(margins.data.to(machine.device))
    return margins.to(machine.device)


def _order(sampler: Sampler, data: LongTailedData, generator: torch.Generator) -> SequentialOrder:
    if sampler.samples_per_class is None:
        return ShuffledOrder(len(data.train), generator)
    return ClassAwareOrder(data.train.labels, sampler.samples_per_class, generator)


def warn_of_other_data(start: dict, path: Path, data: LongTailedData) -> None:
    """Says so where a checkpoint was trained on another subset than the one at hand."""
    counts = start.get("class_counts")
    if counts is not None and list(counts) != data.class_counts:
        difference = "other class counts"
    elif start.get("fingerprint") not in (None, data.fingerprint):
        difference = "other images of the same class counts"
    else:
        return
    print(f"main.py: warning: {path} was trained on another subset ({difference})", file=sys.stderr)


def warn_of_other_chain(start: dict, path: Path, options: Options) -> None:
    """Says so where the stage-1 checkpoint was not chosen as the rest of the chain will be."""
    chosen_on = start.get("selected_on")
    if chosen_on is None and options.select_on == "test":
        return
    if chosen_on != options.select_on:
        print(
            f"main.py: warning: {path} was selected on {chosen_on or 'an unknown set'}, so the "
            f"chain is not --select_on {options.select_on} from its start",
            file=sys.stderr,
        )


# Both stages


def training_loader(
    options: Options,
    machine: Machine,
    data: LongTailedData,
    order: SequentialOrder,
    generator: torch.Generator,
) -> ResidentLoader:
    """Augmented batches of the training set, which moves to the device."""
    images, labels = (t.to(machine.device) for t in (data.train.images, data.train.labels))
    normalise = Normalise(data.mean, data.std, machine.device)
    return ResidentLoader(
        Split(images, labels), normalise, options.batch_size, order, options.augment, generator
    )


def _sgd(options: Options, parameters, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters, lr, momentum=options.momentum, weight_decay=options.weight_decay
    )


def _trainer(
    options: Options,
    machine: Machine,
    data: LongTailedData,
    folder: RunFolder,
    generator: torch.Generator,
    model: nn.Module,
    phases: list[Phase],
    margins: Tensor | None = None,
) -> Trainer:
    header = {
        "arch": options.arch,
        "stage": options.stage,
        "dataset": options.dataset,
        "class_counts": data.class_counts,
        "fingerprint": data.fingerprint,
    }
    return Trainer(
        model,
        phases,
        data,
        machine,
        folder,
        options.select_on,
        header,
        generator,
        margins,
        options.checkpoint_every,
        options.print_freq,
    )


def summarise(options: Options, data: LongTailedData, folder: RunFolder, trainer: Trainer) -> None:
    """Writes `summary.json` and `report.png` of a finished run, and prints its table."""
    chosen = trainer.best[options.select_on]
    selected = {"epoch": chosen.epoch, "results": chosen.results}
    last = {"epoch": trainer.epoch, "results": trainer.results}

    def readings(split: str) -> dict:
        return {
            which: {"epoch": of["epoch"], **of["results"][split]}
            for which, of in (("selected", selected), ("last", last))
        }

    heldout = None
    if data.heldout is not None:
        present = int((torch.bincount(data.heldout.labels) > 0).sum())
        heldout = {"images": len(data.heldout), "classes": present, **readings("heldout")}
    summary = {
        "dataset": options.dataset,
        "arch": options.arch,
        "stage": options.stage,
        "selected_on": options.select_on,
        "epochs": options.epochs,
        "seconds": round(trainer.seconds, 1),
        "seed": options.seed,
        "class_counts": data.class_counts,
        "test": readings("test"),
        "heldout": heldout,
    }
    _save_predictions(folder, trainer)
    report.write_report(folder.records, data.class_counts, summary["test"]["selected"])
    write_json(folder.summary, summary)
    rows = {}
    for which, text in (("selected", f"selected on {options.select_on}"), ("last", "last epoch")):
        found = summary["test"][which]
        for reading in ("linear", "ncm"):
            rows[f"{text} ({found['epoch']}), {reading}"] = found[reading]
    print(accuracy_table(rows, data.class_counts))
    print(f"summary: {folder.summary}\nfigure:  {folder.records / 'report.png'}")


def _save_predictions(folder: RunFolder, trainer: Trainer) -> None:
    """The selected checkpoint's predictions, for the report's confusion matrix."""
    chosen = checkpoint.load(folder.best_checkpoint)
    checkpoint.load_weights(trainer.model, chosen["state_dict"], folder.best_checkpoint)
    trainer.evaluator.look(trainer.model)
    features, labels = trainer.evaluator.seen("test")
    preds = _predict(trainer.model, features)
    with atomic_write(folder.records / "predictions.npz") as file:
        np.savez_compressed(file, labels=labels.cpu().numpy(), preds=preds.cpu().numpy())


@torch.no_grad()
def _predict(model: nn.Module, features: Tensor) -> Tensor:
    return model.classify(features).argmax(dim=1)


# Evaluation


def evaluate(options: Options, folder: RunFolder) -> None:
    """Accuracies of a run's best checkpoint; `outputs_train.npz` and `outputs_test.npz` with
    features, labels and predictions of the un-augmented images.

    Raises:
        UserError: no such checkpoint, or one of another network.
    """
    path = folder.best_checkpoint
    chosen = checkpoint.load(path)
    machine = choose_machine(options.gpu, options.precision)
    data = load_data(options)
    warn_of_other_data(chosen, path, data)
    model = checkpoint.build_from(chosen, path, options.arch, data.num_classes)
    model = model.to(machine.device, memory_format=torch.channels_last)
    evaluator = Evaluator(data, machine)
    evaluator.look(model)
    linear, ncm = evaluator.linear(model), evaluator.ncm(model)
    rows = {}
    for split in linear:
        rows[f"{split}, linear"], rows[f"{split}, NCM"] = linear[split], ncm[split]
    print(f"{path}, epoch {chosen.get('epoch')}")
    print(accuracy_table(rows, data.class_counts))
    print("per-class accuracy on test, classes from largest to smallest (linear / NCM):")
    by_size = np.argsort(-np.asarray(data.class_counts), kind="stable")
    for label in by_size:
        pair = " / ".join(
            "n/a" if (a := r["test"]["per_class"][label]) is None else f"{a:.1f}"
            for r in (linear, ncm)
        )
        print(f"  {data.class_names[label]:<20} {data.class_counts[label]:>5} images  {pair}")
    train = extract_features(model, evaluator.train_loader, machine)
    with folder.locked():
        _save_outputs(folder.records / "outputs_train.npz", model, *train)
        _save_outputs(folder.records / "outputs_test.npz", model, *evaluator.seen("test"))
    print(f"features, labels and predictions: {folder.records}/outputs_{{train,test}}.npz")


def _save_outputs(path: Path, model: nn.Module, features: Tensor, labels: Tensor) -> None:
    arrays = {"feats": features, "labels": labels, "preds": _predict(model, features)}
    with atomic_write(path) as file:
        np.savez(file, **{name: array.cpu().numpy() for name, array in arrays.items()})
