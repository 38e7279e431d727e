"""Accuracies of a network: its own classifier, and the nearest class mean of its features."""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from datasets.loading.resident import Loader, Normalise
from datasets.loading.streamed import make_loader
from datasets.splits import AnySplit, LongTailedData
from models.folding import fold_batch_norm
from models.network import Network
from utils.evaluation.geometry import feature_geometry
from utils.evaluation.metrics import accuracy_record, cosine_similarities
from utils.machine import collectives, signals
from utils.machine.device import Machine

PIXELS_A_PASS = {"cpu": 500 * 32**2, "cuda": 500 * 32**2}
"""Pixels of the images that go through the network at once without gradients: few enough for the
caches of a CPU or GPU to hold what passes between layers."""


@torch.no_grad()
def extract_features(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], machine: Machine
) -> tuple[Tensor, Tensor]:
    """Returns features ``[N, D]`` (float32) and targets ``[N]`` of all batches, batch-norm in eval
    mode.

    Each process computes the features of its images, and gets those of all.
    """
    network = cast(Network, fold_batch_norm(model))
    features, targets = [], []
    for images, batch_targets in batches:
        with machine.autocast():
            own_features = network.features(images)
        features.append(collectives.gather(own_features, len(batch_targets), machine.world))
        targets.append(batch_targets)
        signals.check()
    return torch.cat(features), torch.cat(targets)


@torch.no_grad()
def class_centroids(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    machine: Machine,
) -> Tensor:
    """Returns the mean features of each class ``[K, D]``, batch-norm in eval mode.

    Sums and counts are accumulated batch by batch, each image in one process. Every class must
    occur.
    """
    network = cast(Network, fold_batch_norm(model))
    world = machine.world
    sums, counts = torch.zeros(2, 1, dtype=torch.float64, device=machine.device)
    for images, targets in batches:
        with machine.autocast():
            features = network.features(images)
        batch_sums = features.new_zeros(num_classes, features.shape[1], dtype=torch.float64)
        if world.is_main or world.divides(len(targets)):
            own_targets = targets[world.share(len(targets))]
            batch_sums.index_add_(0, own_targets, features.double())
        sums = sums + batch_sums
        # `bincount` would wait for the device.
        ones = torch.ones_like(targets, dtype=torch.float64)
        counts = counts + ones.new_zeros(num_classes).index_add_(0, targets, ones)
        signals.check()
    return (collectives.add_up(sums, world) / counts.unsqueeze(1)).float()


def equal_size(count: int, largest: int) -> int:
    """Returns the size of as few parts of `count` images as may be, each of at most `largest`, the
    last smaller by less than their number.

    Example:
        >>> equal_size(10_847, 500), 10_847 - 21 * 494
        (494, 473)
    """
    parts = -(-count // largest)
    return -(-count // parts)


class Evaluator:
    """Linear and NCM accuracies on the test and the held-out images.

    `look` passes these images through the network once; the readings work on the features that it
    saw, so that a classifier that trains on frozen features is read at no cost. `batch_size` is
    that of passes without gradients.
    """

    def __init__(self, data: LongTailedData, machine: Machine) -> None:
        self.machine = machine
        self.num_classes = data.num_classes
        self.class_counts = data.class_counts
        self.batch_size = max(1, PIXELS_A_PASS[machine.device.type] // data.train.area)
        self.normalise = Normalise(data.mean, data.std, machine.device)
        self.train_loader = self._loader(data.train)
        self.loaders = {name: self._loader(s) for name, s in data.evaluation_splits.items()}
        self._network: nn.Module | None = None
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._centroids: Tensor | None = None

    def _loader(self, split: AnySplit) -> Loader:
        """Returns the split's loader; on CUDA in equal parts, because cuDNN searches for the
        fastest kernels anew for every size of a batch."""
        size = self.batch_size
        if self.machine.device.type == "cuda":
            size = equal_size(len(split), size)
        return make_loader(split, self.normalise, size, world=self.machine.world)

    @property
    def has_looked(self) -> bool:
        return bool(self._seen)

    def forget(self) -> None:
        """Makes the next reading look anew."""
        self._network, self._seen, self._centroids = None, {}, None

    def read(
        self,
        model: nn.Module,
        monitor: str = "linear",
        features_are_frozen: bool = False,
        is_kept: Callable[[dict[str, dict]], bool] = lambda results: True,
    ) -> dict[str, dict]:
        """Returns ``{split: {"linear": record, "ncm": record or None}}`` of the network, and where
        NCM was read also ``"geometry"``, the record of `feature_geometry`.

        NCM's centroids cost a pass over the training set. NCM is therefore read only where it
        chooses the epoch, where it costs nothing, and where the epoch is kept.

        Args:
            model: the network as it is now.
            monitor: the classifier by which epochs are compared.
            features_are_frozen: whether the features are still those of the last look, if any.
            is_kept: says of the linear accuracies whether the epoch is kept; equal in all
                processes.
        """
        if not (features_are_frozen and self.has_looked):
            self.look(model)
        results = {split: {"linear": r, "ncm": None} for split, r in self.linear(model).items()}
        if monitor == "ncm" or features_are_frozen or is_kept(results):
            for split, record in self.ncm().items():
                results[split]["ncm"] = record
            for split, record in self.geometry().items():
                results[split]["geometry"] = record
        return results

    def look(self, model: nn.Module) -> None:
        """Passes all evaluated images through the network as it is now."""
        self._network = fold_batch_norm(model)
        self._seen = {
            name: extract_features(self._network, loader, self.machine)
            for name, loader in self.loaders.items()
        }
        self._centroids = None

    @torch.no_grad()
    def linear(self, model: nn.Module) -> dict[str, dict]:
        """Returns what the network's own classifier reaches: a record of `accuracy_record` per
        split, and the split's mean cross-entropy as `loss`. All processes get those of process 0.
        """
        network = cast(Network, model)

        def read() -> dict[str, dict]:
            records = {}
            for name, (features, targets) in self._seen.items():
                logits = network.classify(features)
                loss = nn.functional.cross_entropy(logits, targets).item()
                record = accuracy_record(logits, targets, self.class_counts)
                records[name] = record | {"loss": loss}
            return records

        return collectives.from_main(read, self.machine.world)

    @torch.no_grad()
    def ncm(self) -> dict[str, dict]:
        """Returns what the nearest class mean by cosine reaches, a record of `accuracy_record` per
        split. The means are those of the un-augmented training set, all features those of the last
        look.

        Raises:
            RuntimeError: there was no look.
        """
        centroids = self.centroids()

        def read() -> dict[str, dict]:
            return {
                name: accuracy_record(
                    cosine_similarities(features, centroids),
                    targets,
                    self.class_counts,
                )
                for name, (features, targets) in self._seen.items()
            }

        return collectives.from_main(read, self.machine.world)

    def geometry(self) -> dict[str, dict]:
        """Returns how the features of the last look lie, a record of `feature_geometry` per split.

        Raises:
            RuntimeError: there was no look.
        """
        centroids = self.centroids()

        def read() -> dict[str, dict]:
            return {
                name: feature_geometry(*seen, centroids, self.class_counts)
                for name, seen in self._seen.items()
            }

        return collectives.from_main(read, self.machine.world)

    def centroids(self) -> Tensor:
        """Returns the class means ``[K, D]`` of the un-augmented training set, by the network of
        the last look. They cost a pass over the training set, once for a look.

        Raises:
            RuntimeError: there was no look.
        """
        if self._network is None:
            raise RuntimeError("nothing was looked at")
        if self._centroids is None:
            self._centroids = class_centroids(
                self._network, self.train_loader, self.num_classes, self.machine
            )
        return self._centroids

    def seen(self, split: str) -> tuple[Tensor, Tensor]:
        """Returns features ``[N, D]`` and targets ``[N]`` of the split, as of the last look."""
        return self._seen[split]
