"""Accuracies of a network: with its own classifier, and with the nearest class mean (NCM)."""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from datasets.loading.loader import Loader, Normalise
from datasets.loading.make import make_loader
from datasets.splits import AnySplit, LongTailedData
from models.folding import fold_batch_norm
from models.network import Network
from utils.evaluation.features import class_centroids, extract_features
from utils.evaluation.geometry import geometry_record, measure_geometry
from utils.evaluation.metrics import cosine_similarities, record_of, tally
from utils.evaluation.parts import in_parts, sum_of_parts
from utils.machine import collectives
from utils.machine.device import Machine

PIXELS_A_PASS = {"cpu": 500 * 32**2, "cuda": 4000 * 32**2}
"""Pixels of the images that go through the network at once without gradients, by the type of the
device. On a CPU they are few, so that the outputs of the layers fit into its caches. On a GPU, few
images would take less time than the launches of their kernels."""


def equal_size(count: int, largest: int) -> int:
    """Returns the size of equal parts of `count` images: as few parts as possible, each with at
    most `largest` images. The last part may be smaller, by less than the number of parts.

    Example:
        >>> equal_size(10_847, 500), 10_847 - 21 * 494
        (494, 473)
    """
    parts = -(-count // largest)
    return -(-count // parts)


class Evaluator:
    """Accuracies of the network's own classifier and of NCM on the test and the held-out images.

    `extract` passes these images through the network once and keeps their features. All other
    methods work on these features and come after it, so a classifier that trains on frozen features
    is evaluated at almost no cost.

    Attributes:
        batch_size: number of images that go through the network at once without gradients.
    """

    def __init__(self, data: LongTailedData, machine: Machine) -> None:
        self.machine = machine
        self.num_classes = data.num_classes
        self.class_counts = data.class_counts
        pixels = PIXELS_A_PASS[machine.device.type]
        self.batch_size = max(1, pixels // data.train.side**2)
        self.normalise = Normalise(data.normalisation, machine.device)
        self.train_loader = self._loader(data.train)
        self.loaders = {name: self._loader(s) for name, s in data.evaluation_splits.items()}
        self._network: nn.Module | None = None
        self._features: dict[str, tuple[Tensor, Tensor]] = {}
        self._centroids: Tensor | None = None

    def _loader(self, split: AnySplit) -> Loader:
        """Returns the split's loader. On CUDA its batches are of equal size, because cuDNN searches
        for the fastest kernels again for each new size."""
        size = self.batch_size
        if self.machine.device.type == "cuda":
            size = equal_size(len(split), size)
        return make_loader(split, self.normalise, size, world=self.machine.world)

    @property
    def has_features(self) -> bool:
        return bool(self._features)

    def forget(self) -> None:
        """Forgets the features, so that `accuracies` passes the images through the network."""
        self._network, self._features, self._centroids = None, {}, None

    def accuracies(self, model: nn.Module, features_are_frozen: bool = False) -> dict[str, dict]:
        """Returns the accuracies of the network's own classifier, ``{split: {"linear": record,
        "ncm": None}}``.

        Args:
            model: the network as it is now.
            features_are_frozen: True if the features have not changed since they were extracted.
        """
        if not (features_are_frozen and self.has_features):
            self.extract(model)
        return {split: {"linear": r, "ncm": None} for split, r in self.linear(model).items()}

    def add_ncm(self, results: dict[str, dict]) -> None:
        """Adds to what `accuracies` returned, for each split, the accuracies of NCM, and as
        ``"geometry"`` the record of `geometry_record`. The centroids cost a pass over the training
        images, once for each `extract`."""
        for split, record in self.ncm().items():
            results[split]["ncm"] = record
        for split, record in self.geometry().items():
            results[split]["geometry"] = record

    def extract(self, model: nn.Module) -> None:
        """Passes test and held-out images through the network as it is now, and keeps their
        features."""
        self._network = fold_batch_norm(model, self.machine.conv_dtype)
        self._features = {
            name: extract_features(self._network, loader, self.machine)
            for name, loader in self.loaders.items()
        }
        self._centroids = None

    @torch.no_grad()
    def linear(self, model: nn.Module) -> dict[str, dict]:
        """Returns the accuracies of the network's own classifier: for each split a record of
        `accuracy_record`, with the mean cross-entropy as ``loss``. All processes get the numbers of
        process 0."""
        network = cast(Network, model)

        def measure(features: Tensor, targets: Tensor) -> Tensor:
            def of_part(logits: Tensor, own_targets: Tensor) -> Tensor:
                loss = nn.functional.cross_entropy(logits, own_targets).double()
                share = len(own_targets) / len(targets)
                return torch.cat([tally(logits, own_targets), share * loss.view(1)])

            parts = in_parts(network.classify, self.num_classes, features, targets)
            return sum_of_parts(of_part, parts)

        def record(values: np.ndarray) -> dict:
            return record_of(values[:-1], self.class_counts) | {"loss": float(values[-1])}

        return self._of_splits(measure, record)

    @torch.no_grad()
    def ncm(self) -> dict[str, dict]:
        """Returns the accuracies of the nearest class mean by cosine: for each split a record of
        `accuracy_record`. The means are those of the training images without augmentation."""
        score = partial(cosine_similarities, centroids=self.centroids())

        def measure(features: Tensor, targets: Tensor) -> Tensor:
            return sum_of_parts(tally, in_parts(score, self.num_classes, features, targets))

        return self._of_splits(measure, lambda values: record_of(values, self.class_counts))

    def geometry(self) -> dict[str, dict]:
        """Returns for each split the record of `geometry_record`."""
        centroids = self.centroids()
        return self._of_splits(
            lambda features, targets: measure_geometry(features, targets, centroids),
            lambda values: geometry_record(values, self.class_counts),
        )

    def _of_splits(
        self,
        measure: Callable[[Tensor, Tensor], Tensor],
        record: Callable[[np.ndarray], dict],
    ) -> dict[str, dict]:
        """Returns for each split the record of what `measure` finds in its features and targets.
        The host waits for the device once. All processes get the numbers of process 0."""

        def read() -> dict[str, dict]:
            found = torch.stack([measure(*pair) for pair in self._features.values()])
            rows = zip(self._features, found.cpu().numpy(), strict=True)
            return {name: record(row) for name, row in rows}

        return collectives.from_main(read, self.machine.world)

    def centroids(self) -> Tensor:
        """Returns the centroids ``[K, D]`` of the training images without augmentation. They cost
        one pass over the training images for each `extract`."""
        if self._centroids is None:
            assert self._network is not None  # `extract` comes first
            self._centroids = class_centroids(
                self._network, self.train_loader, self.num_classes, self.machine
            )
        return self._centroids

    def training_features(self) -> tuple[Tensor, Tensor]:
        """Returns the features ``[N, D]`` and targets ``[N]`` of the training images without
        augmentation. Their class means become the centroids, which then cost no pass of their own.
        """
        assert self._network is not None  # `extract` comes first
        features, targets = extract_features(self._network, self.train_loader, self.machine)
        sums = features.new_zeros(self.num_classes, features.shape[1], dtype=torch.float64)
        parts = zip(targets.split(self.batch_size), features.split(self.batch_size), strict=True)
        for of_part, part in parts:  # a copy of all features in float64 could be too large
            sums.index_add_(0, of_part, part.double())
        counts = targets.bincount(minlength=self.num_classes)
        self._centroids = (sums / counts.unsqueeze(1)).float()
        return features, targets

    def features_of(self, split: str) -> tuple[Tensor, Tensor]:
        """Returns the features ``[N, D]`` and targets ``[N]`` of a split."""
        return self._features[split]
