"""The evaluation command: accuracies and outputs of the best checkpoint of a run."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from datasets import LongTailedData, load_data
from models.network import Network
from utils.errors import UserError
from utils.evaluation.classifiers import Classifier, accuracies, has_confidence
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.fitting import TRAINED, TUNED, FeatureBank, fit
from utils.evaluation.geometry import geometry_line
from utils.evaluation.parts import in_parts
from utils.evaluation.statistics import combine
from utils.evaluation.tables import OF_CLASSIFIERS, accuracy_table, per_class_table
from utils.files import atomic_write, check_writable, write_json
from utils.machine import collectives
from utils.machine.processes import World
from utils.options.flags import Options
from utils.runs import checkpoint
from utils.runs.classifier_files import (
    CLASSIFIERS_FILE,
    save_classifiers,
    write_readings,
)
from utils.runs.evaluated import find_evaluated
from utils.runs.records import records_of, warn_of_unfinished
from utils.runs.run_folder import RunFolder
from utils.runs.tensorboard import EventFile
from utils.text import printable
from utils.training.setup import machine_of
from utils.training.starting_point import check_not_trained_on, warn_of_other_data

HELD_OUT_IMAGES = (
    "held-out images: a val split beside test, or a run that was trained with "
    "--heldout_fraction 0.1"
)


def evaluate(options: Options) -> None:
    """Evaluates the best checkpoint of a run on images without augmentation.

    It prints the accuracies and writes `outputs_train.npz`, `outputs_test.npz` and `geometry.json`.
    It deletes earlier `readings.*` first; with `--readings` it then also writes `readings.json`,
    `readings.csv` and `classifiers.pth`. With several seeds it does this for each and then prints
    mean and sample standard deviation.

    Raises:
        UserError: there is no such checkpoint, or it is one of another network or other classes; it
            was trained on images that `--heldout_fraction` holds out; or all of `--readings` need
            held-out images and there are none.
    """
    of_seeds = options.by_seed()
    with collectives.joined() as world:
        # Nothing is written for the first seed if a later one has no readable checkpoint.
        collectives.from_main(lambda: [_read_chosen(later)[1] for later in of_seeds[1:]], world)
        evaluated = [_evaluate(of_seed, world) for of_seed in of_seeds]
    if options.seeds is not None and world.is_main:
        seen = [found for found in evaluated if found is not None]
        print(f"mean ± sample standard deviation over seeds {options.seeds}")
        print(accuracy_table(combine([rows for rows, _ in seen]), seen[0][1]))


def _evaluate(options: Options, world: World) -> tuple[dict[str, dict], list[int]] | None:
    """Evaluates one run. Returns the accuracies, by split and classifier, and the class counts; in
    other processes than process 0, None."""
    chosen, path, folder = collectives.from_main(lambda: _read_chosen(options), world)
    machine = collectives.together(lambda: machine_of(options, world), world)
    data = collectives.main_first(lambda: load_data(options, chosen), world)
    print(data.account())
    collectives.from_main(lambda: _check_held_out(options, chosen, path, data), world)

    def build() -> nn.Module:
        warn_of_unfinished(path, records_of(path, options))
        warn_of_other_data(chosen, path, data)
        model = checkpoint.build_from(chosen, path, options.arch, data.num_classes)
        return model.to(machine.device).to(memory_format=torch.channels_last)

    model = collectives.together(build, world)
    evaluator = Evaluator(data, machine)
    evaluator.extract(model)
    train = evaluator.training_features()
    linear, ncm, geometry = evaluator.linear(model), evaluator.ncm(), evaluator.geometry()
    if not world.is_main:
        return None
    rows = {}
    for split in linear:
        rows |= {f"{split}, linear": linear[split], f"{split}, NCM": ncm[split]}
    chosen_on = f", selected on {chosen['selected_on']}" if "selected_on" in chosen else ""
    print(printable(f"{path}, epoch {chosen.get('epoch', 'unknown')}{chosen_on}"))
    print(per_class_table(linear["test"], ncm["test"], data.class_names, data.class_counts))
    print(accuracy_table(rows, data.class_counts))
    for split, record in geometry.items():
        print(geometry_line(split, record))
    # The checkpoint is only read, perhaps from a folder in which nothing can be written.
    folder = RunFolder(folder.records, folder.records)
    with folder.locked():
        folder.delete_parts()
        _delete_readings(folder, is_told=not options.chosen_readings)
        write_json(folder.records / "geometry.json", geometry)
        _save_outputs(folder, data, "train", model, *train)
        _save_outputs(folder, data, "test", model, *evaluator.features_of("test"))
        print(f"features, labels and predictions: {folder.records}/outputs_{{train,test}}.npz")
        if options.chosen_readings:  # last, because fits take much memory and may fail
            found = _fit_classifiers(options.chosen_readings, model, train, evaluator)
            _save_readings(folder, *found, model, _epoch_of(chosen), data.class_names)
    return rows, data.class_counts


def _read_chosen(options: Options) -> tuple[dict, Path, RunFolder]:
    """Returns the checkpoint that is evaluated, its file and the folder of its run.

    Raises:
        UserError: there is none, it is not readable, or the folder is not writable.
    """
    path, folder = find_evaluated(options)
    chosen = checkpoint.load(path)
    try:
        check_writable(folder.records)
    except UserError as error:  # perhaps another person's run
        raise UserError(f"{error}; --root_log FOLDER writes elsewhere") from error
    return chosen, path, folder


def _fit_classifiers(
    names: Sequence[str], model: nn.Module, train: tuple[Tensor, Tensor], evaluator: Evaluator
) -> tuple[dict[str, Classifier], dict[str, dict]]:
    """Fits the classifiers of `--readings`, prints their accuracies on the test images, and returns
    both.

    Args:
        names: the classifiers.
        model: the network.
        train: features and targets of the training images.
        evaluator: has the features of the other images.
    """
    heldout = evaluator.features_of("heldout") if "heldout" in evaluator.loaders else None
    counts = evaluator.class_counts
    classifiers = fit(names, FeatureBank(*train, cast(Network, model).linear, counts, heldout))
    records = accuracies(classifiers, *evaluator.features_of("test"), counts)
    print(accuracy_table(records, counts, OF_CLASSIFIERS))
    _print_notes(names, records)
    return classifiers, records


def _check_held_out(options: Options, chosen: dict, path: Path, data: LongTailedData) -> None:
    """Checks that the network was not trained on images that `--heldout_fraction` holds out, and
    that there are held-out images if all of `--readings` need them.

    Raises:
        UserError: it was, or there are none.
    """
    names = options.chosen_readings
    if data.heldout is None and names and set(names) <= set(TUNED):
        raise UserError(f"--readings {','.join(names)}: this needs {HELD_OUT_IMAGES}")
    check_not_trained_on(options, chosen, path, data)


def _epoch_of(chosen: dict) -> int:
    """Returns the epoch of a checkpoint; 0 if it has none, as those of other programs may."""
    epoch = chosen.get("epoch")
    return epoch if isinstance(epoch, int) else 0


def _print_notes(names: Sequence[str], records: dict[str, dict]) -> None:
    """Prints notes on the table of classifiers: which are left out, and how they were fitted."""
    for name in names:
        if name not in records:
            print(f"{name} is left out: it needs {HELD_OUT_IMAGES}")
    if fitted := [name for name in TRAINED if name in records]:
        print(
            f"{' and '.join(fitted)}: fitted on the features of training images without "
            "augmentation; their authors train on augmented ones"
        )
    if not all(map(has_confidence, records)):
        print("NCM has no calibration error: its scores are cosines or distances, not confidences")


def _save_readings(
    folder: RunFolder,
    classifiers: dict[str, Classifier],
    records: dict[str, dict],
    model: nn.Module,
    epoch: int,
    class_names: Sequence[str],
) -> None:
    """Writes the classifiers and their accuracies, and adds the accuracies to the TensorBoard
    events."""
    write_readings(folder.records, records)
    save_classifiers(folder.records / CLASSIFIERS_FILE, classifiers, model, epoch, class_names)
    with closing(EventFile(folder.records, ".readings")) as events:
        for reading, record in records.items():
            for name, value in record.items():
                if isinstance(value, (int, float)):
                    events.add_scalar(f"reading_{reading}/{name}", value, epoch)


def _delete_readings(folder: RunFolder, is_told: bool) -> None:
    """Deletes the accuracies that an earlier evaluation has left, because its images or its epoch
    may have been others, and tells it unless they will be replaced. `classifiers.pth` says itself
    which network it is of, and stays."""
    outdated = sorted(folder.records.glob("readings.*"))
    for path in outdated:
        path.unlink()
    if outdated and is_told:
        names = ", ".join(path.name for path in outdated)
        print(f"removed the accuracies of an earlier evaluation: {names}")


@torch.no_grad()
def _save_outputs(
    folder: RunFolder,
    data: LongTailedData,
    which: str,
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
) -> None:
    """Writes `outputs_{which}.npz`: for each image `feats` ``[N, D]``, and `labels`, `preds`,
    `confs` (the largest softmax probability) and `files`, each ``[N]``; and `class_names` ``[K]``.
    """
    parts = in_parts(cast(Network, model).classify, data.num_classes, features)
    found = [torch.softmax(logits, dim=1).max(dim=1) for (logits,) in parts]
    confs, preds = map(torch.cat, zip(*found, strict=True))
    tensors = {"feats": features, "labels": labels, "preds": preds, "confs": confs}
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays["files"] = np.array(_names_of_images(data, which))
    arrays["class_names"] = np.array(data.class_names)
    with atomic_write(folder.records / f"outputs_{which}.npz") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def _names_of_images(data: LongTailedData, which: str) -> list[str]:
    """Returns the images' files, relative to the data root; for images that are not files, names
    made of the data set, the split and the position."""
    split = data.train if which == "train" else data.test
    if split.files is not None:
        return list(split.files)
    return [f"{data.name}/{which}/{index}" for index in range(len(split))]
