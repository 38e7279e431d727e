"""A trained network with everything that new images need: their size, their normalisation and the
names of the classes."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from datasets import normalisation
from datasets.files.images import usual_shorter_side
from datasets.normalisation import Normalisation
from datasets.recorded import data_of
from models import ARCHITECTURES
from models.network import Network
from utils.errors import UserError
from utils.evaluation.classifiers import SavedClassifier, apply_classifier
from utils.files import read_json
from utils.options.flags import usual_side
from utils.options.values import MAX_SIDE, MIN_SIDE
from utils.runs import checkpoint
from utils.runs.classifier_files import CLASSIFIERS_FILE, load_classifier
from utils.runs.lookup import PRETRAINED, RUNS, checkpoint_of_run
from utils.runs.records import records_below


class NormalisedNetwork(nn.Module):
    """A network in eval mode that first normalises its images: (images − mean) / std.

    Shapes: float images ``[B, 3, S, S]`` in [0, 1]; returns features ``[B, D]`` and logits
    ``[B, K]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, channels: Normalisation) -> None:
        super().__init__()
        self.network: Any = network
        self.register_buffer("mean", torch.tensor(channels.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(channels.std).view(1, -1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features((images - self.mean) / self.std)
        # `classify` has an autocast region, which an exported program would keep.
        return features, self.network.linear(features)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and what it was trained on.

    Args:
        path: its checkpoint.
        epoch: the epoch of the checkpoint; None if it does not say.
        arch: its name in `models.ARCHITECTURES`.
        dataset: the name of the data set; None if the checkpoint has none.
        network: the network on the CPU, in eval mode.
        normalisation: mean and standard deviation of the channels.
        image_size: width and height of its images in pixels.
        shorter_side: the shorter side that new images are resized to before they are cropped.
        class_names: names of the classes ``[K]``.
        classifier: the name of its classifier; `linear` is the one that was trained with it.
    """

    path: Path
    epoch: int | None
    arch: str
    dataset: str | None
    network: nn.Module
    normalisation: Normalisation
    image_size: int
    shorter_side: int
    class_names: list[str]
    classifier: str = "linear"

    def with_normalisation(self) -> NormalisedNetwork:
        """Returns the network for images in [0, 1]."""
        return NormalisedNetwork(self.network, self.normalisation)


def load_network(name: Path) -> TrainedNetwork:
    """Returns the network of a run or checkpoint.

    Checkpoints of earlier versions and of the released code lack some entries. An image size is
    then taken from the run's `args.json`, or else is the network's usual one. The normalisation is
    that of the data set's kind, and classes are named by their numbers.

    Args:
        name: as for `checkpoint_of_run`.

    Raises:
        UserError: there is no such checkpoint, or it cannot be used.
    """
    path = checkpoint_of_run(name)
    content = checkpoint.load(path)
    arch = content.get("arch")
    if arch not in ARCHITECTURES:
        raise UserError(
            f"{path}: a checkpoint of the unknown network {arch!r}; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    _, num_classes = checkpoint.head_of(content["state_dict"], path)
    network = checkpoint.build_from(content, path, arch, num_classes).eval()
    recorded = data_of(content)
    arguments = read_json(path.parent / "args.json")  # empty without that file
    dataset, epoch = content.get("dataset"), content.get("epoch")
    side = _image_size(recorded, arguments, path, arch)
    return TrainedNetwork(
        path=path,
        epoch=epoch if isinstance(epoch, int) else None,
        arch=arch,
        dataset=dataset if isinstance(dataset, str) else None,
        network=network,
        normalisation=_normalisation(recorded, dataset),
        image_size=side,
        shorter_side=side if _are_whole(recorded, arguments, dataset) else usual_shorter_side(side),
        class_names=_class_names(recorded, num_classes, path),
    )


def with_classifier(
    trained: TrainedNetwork, name: str, root_log: Path | None = None
) -> TrainedNetwork:
    """Returns the network with a classifier that an evaluation of the run with `--readings` has
    saved, in place of its own. Its logits are then the scores of that classifier.

    Args:
        trained: the network as `load_network` returns it.
        name: of the classifier; `linear` for the network's own.
        root_log: as for `records_below`.

    Raises:
        UserError: there is no such classifier, it was fitted on other weights, or its scores are
            not K finite numbers.
    """
    if name == "linear":
        return trained
    folder = trained.path.parent
    folders = records_below(root_log, folder) or [folder]
    # The evaluation of a checkpoint that comes with the code is below `checkpoint`.
    if root_log is None and folder.is_relative_to(PRETRAINED):
        folders.append(RUNS / folder.relative_to(PRETRAINED))
    places = [place / CLASSIFIERS_FILE for place in folders]
    path = next((place for place in places if place.exists()), places[-1])
    saved = load_classifier(path, name, trained.network)
    features = torch.zeros(1, cast(Network, trained.network).num_features)
    try:
        scores = apply_classifier(saved, features)
        fits = scores.shape == (1, len(trained.class_names)) and bool(scores.isfinite().all())
    except Exception:  # whatever is in the file
        fits = False
    if not fits:
        raise UserError(f"{path}: its classifier {name} does not fit the network")
    network = copy.deepcopy(trained.network)
    network.linear = SavedClassifier(saved)
    return replace(trained, network=network, classifier=name)


def _normalisation(recorded: Mapping, dataset: object) -> Normalisation:
    if "normalisation" in recorded:
        return normalisation.from_record(recorded["normalisation"])
    return normalisation.usual(dataset)


def _image_size(recorded: Mapping, arguments: Mapping, path: Path, arch: str) -> int:
    found = recorded.get("image_size") or arguments.get("image_size")
    found = found or usual_side(arch)
    if not isinstance(found, int) or not MIN_SIDE <= found <= MAX_SIDE:
        raise UserError(
            f"{path}: the recorded image_size must be a whole number from {MIN_SIDE} to "
            f"{MAX_SIDE}, not {found!r}"
        )
    return found


def _are_whole(recorded: Mapping, arguments: Mapping, dataset: object) -> bool:
    """Returns True if nothing of the training images was cut off. Earlier versions did not record
    it: theirs are the images of an npz file, unless they were resized."""
    usual = dataset == "npz" and arguments.get("image_size") is None
    return recorded.get("are_whole", usual) is True


def _class_names(recorded: Mapping, num_classes: int, path: Path) -> list[str]:
    names = recorded.get("class_names")
    if names is None:
        return [str(label) for label in range(num_classes)]
    if not isinstance(names, list) or len(names) != num_classes:
        raise UserError(f"{path}: its class_names must be a list of {num_classes} names")
    return [str(name) for name in names]
