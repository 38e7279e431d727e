"""A plain training loop that works as the released code does. It is what this project's speed is
compared with.

It keeps what costs the released code time: worker processes with Pillow on every image; float32
without a graph and without channels-last; four passes through worker pools in an epoch of stage 2;
a loss that loops over classes; `.item()` on every loss and accuracy of every step; features joined
by `torch.cat`; predictions appended one by one. It also keeps what helps: TF32 convolutions,
cuDNN's benchmark mode and pinned memory on CUDA. With `--persistent_workers` its workers persist.
"""

from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.pillow_policy import make_transform
from benchmarks.settings import PHASES, Settings
from benchmarks.side import TRAINING_BATCHES, EpochTime, Side, clock
from datasets import ClassAwareSampler, LongTailedData, Split
from datasets.splits import AnySplit
from models import build_model

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
PRETRAINING_LR, FEATURE_LR, CLASSIFIER_LR = 0.1, 0.005, 0.01
IMAGES_A_VISIT = 4  # of a class, by the class-aware sampler


class PillowImages(Dataset):
    """uint8 images ``[N, H, W, 3]``. Each becomes a Pillow image and is transformed alone."""

    def __init__(self, arrays: np.ndarray, labels: list[int], transform) -> None:
        self.arrays, self.labels, self.transform = arrays, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def arrays_of(split: AnySplit) -> tuple[np.ndarray, list[int]]:
    """Returns the images ``[N, H, W, 3]`` and the labels of a split."""
    assert isinstance(split, Split)  # CIFAR's images are in memory
    return split.images.permute(0, 2, 3, 1).contiguous().numpy(), split.labels.tolist()


def robust_loss(
    features: Tensor, targets: Tensor, centroids: Tensor, epsilons: Tensor, temperature: float
) -> Tensor:
    """Returns the robust loss of features ``[B, D]`` with centroids ``[K, D]``. It loops over the
    classes, and takes the margins in the order of the released code."""
    own_class = targets.unsqueeze(0) == torch.arange(len(centroids), device=targets.device)[:, None]
    distances = torch.cdist(centroids, features)
    margins = torch.zeros_like(distances)
    margins[own_class] = epsilons[targets]
    scores = torch.exp(-(distances + margins) / temperature)
    log_probabilities = torch.log(scores) - torch.log(scores.sum(dim=1, keepdim=True))
    loss, present = 0.0, targets.unique()
    for c in present:
        loss = loss - log_probabilities[c][own_class[c]].mean()
    return cast(Tensor, loss) / len(present)  # every batch has a class


def accuracies(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns top-1 and top-5 of a batch in percent."""
    found = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets.unsqueeze(1)
    return 100 * found[:, :1].sum().item() / len(targets), 100 * found.sum().item() / len(targets)


class PlainLoop(Side):
    """The plain loop.

    Args:
        settings: the settings of the benchmark, with the device by name (`on_this_machine`).
        data: training and test images.
        folder: the folder for checkpoints.
    """

    def __init__(self, settings: Settings, data: LongTailedData, folder: Path) -> None:
        options = settings.options
        device = torch.device(options.gpu if options.gpu is not None else "cpu")
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = True
        self.settings, self.data, self.device, self.folder = settings, data, device, folder
        self.model = build_model(options.arch, data.num_classes).to(device)
        self.epsilons = nn.Parameter(torch.ones(data.num_classes, device=device))
        counts = torch.tensor(data.class_counts, dtype=torch.float32, device=device)
        self.class_weights = counts / counts.max()
        self.statistics: list[dict[str, float]] = []

        def sgd(parameters: Iterable[Tensor], lr: float) -> torch.optim.SGD:
            return torch.optim.SGD(parameters, lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

        features = [p for name, p in self.model.named_parameters() if "linear" not in name]
        self.optimizers = {
            "pretraining": sgd(self.model.parameters(), PRETRAINING_LR),
            "features": sgd([*features, self.epsilons], FEATURE_LR),
            "classifier": sgd(self.model.get_submodule("linear").parameters(), CLASSIFIER_LR),
        }
        class_aware = ClassAwareSampler(data.train.labels, IMAGES_A_VISIT)
        train = arrays_of(data.train)
        of_stage_2 = self._loader(train, "autoaugment", sampler=class_aware)
        self.loaders = dict.fromkeys(PHASES, of_stage_2)
        self.loaders["pretraining"] = self._loader(train, "crop_flip", shuffle=True)
        self.train_loader = self._loader(train, "none")
        self.test_loader = self._loader(arrays_of(data.test), "none")

    def _loader(self, split: tuple[np.ndarray, list[int]], augment: str, **order) -> DataLoader:
        channels = self.data.normalisation
        images = PillowImages(*split, make_transform(augment, channels.mean, channels.std))
        workers = self.settings.options.workers
        # The workers of the released code are forked. This process may be spawned.
        context = "fork" if workers and "fork" in get_all_start_methods() else None
        return DataLoader(
            images,
            self.settings.options.batch_size,
            num_workers=workers,
            multiprocessing_context=context,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.settings.persistent_workers and workers > 0,
            **order,
        )

    def epoch_times(self) -> dict[str, list[EpochTime]]:
        """Trains an epoch of each phase; returns their times."""
        return {phase: [self.epoch(phase)] for phase in PHASES}

    def epoch(self, phase: str) -> EpochTime:
        """Trains an epoch of a phase, with its passes without gradients and its checkpoint; returns
        its time."""
        is_stage_2 = phase != "pretraining"
        began = clock(self.device)
        centroids = self.centroids(self.loaders[phase]) if is_stage_2 else None
        training_began = clock(self.device)
        self.train(phase, self.loaders[phase], centroids)
        training_seconds = clock(self.device) - training_began
        self.validate(self.centroids(self.train_loader) if is_stage_2 else None)
        torch.save({"state_dict": self.model.state_dict()}, self.folder / "plain.pth.tar")
        return EpochTime(clock(self.device) - began, training_seconds)

    def first_step(self) -> None:
        self.train("pretraining", islice(self.loaders["pretraining"], 1), None)
        clock(self.device)

    def train(
        self, phase: str, batches: Iterable[tuple[Tensor, Tensor]], centroids: Tensor | None
    ) -> int:
        """Takes a step for each batch; returns the number of images."""
        self.model.train(phase != "classifier")
        for name, parameter in self.model.named_parameters():
            other_phase = "classifier" if "linear" not in name else "features"
            parameter.requires_grad_(phase != other_phase)
        images = 0
        for inputs, targets in batches:
            inputs = inputs.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            self.statistics.append(self.step(phase, inputs, targets, centroids))
            images += len(targets)
        return images

    def step(
        self, phase: str, inputs: Tensor, targets: Tensor, centroids: Tensor | None
    ) -> dict[str, float]:
        """Takes a training step; returns the losses and accuracies of the batch."""
        features, logits = self.model(inputs)
        losses = self.losses(phase, features, logits, targets, centroids)
        loss = cast(Tensor, sum(losses.values()))
        values = {name: value.item() for name, value in losses.items()} | {"loss": loss.item()}
        values["top1"], values["top5"] = accuracies(logits, targets)
        self.optimizers[phase].zero_grad()
        loss.backward()
        self.optimizers[phase].step()
        return values

    def losses(
        self,
        phase: str,
        features: Tensor,
        logits: Tensor,
        targets: Tensor,
        centroids: Tensor | None,
    ) -> dict[str, Tensor]:
        if phase != "features":
            return {"ce": F.cross_entropy(logits, targets)}
        assert centroids is not None  # each epoch of the feature phase has them
        return {
            "ce_lt": F.cross_entropy(logits, targets, self.class_weights),
            "robust_loss": robust_loss(features, targets, centroids, self.epsilons, 1.0),
        }

    @torch.no_grad()
    def centroids(self, loader: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns the mean features ``[K, D]`` of the classes, over all images of the loader."""
        self.model.eval()
        features, labels = (torch.empty(0, device=self.device) for _ in range(2))
        for inputs, targets in loader:
            found, _ = self.model(inputs.to(self.device, non_blocking=True))
            features = torch.cat([features, found])
            labels = torch.cat([labels, targets.to(self.device)])
        classes = range(self.data.num_classes)
        return torch.stack([features[labels == c].mean(dim=0) for c in classes])

    @torch.no_grad()
    def validate(self, centroids: Tensor | None) -> dict[str, float]:
        """Returns loss and accuracy on the test set and, with centroids, the accuracy of NCM."""
        self.model.eval()
        losses, top1s, predictions, nearest, labels = [], [], [], [], []
        for inputs, targets in self.test_loader:
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            features, logits = self.model(inputs)
            losses.append(F.cross_entropy(logits, targets).item())
            top1s.append(accuracies(logits, targets)[0])
            predictions.extend(logits.argmax(dim=1).cpu().numpy())
            labels.extend(targets.cpu().numpy())
            if centroids is not None:
                cosines = F.normalize(features, dim=1) @ F.normalize(centroids, dim=1).T
                nearest.extend(cosines.argmax(dim=1).cpu().numpy())
        labels, predictions = np.array(labels), np.array(predictions)
        top1 = 100 * float(np.mean(predictions == labels))
        result = {"loss": float(np.mean(losses)), "top1": top1}
        if centroids is not None:
            result["ncm"] = 100 * float(np.mean(np.array(nearest) == labels))
        return result

    @cached_property
    def _first_centroids(self) -> Tensor:
        return self.centroids(self.train_loader)

    def train_batches(self, phase: str) -> int:
        # Computed once, while the plain loop warms up.
        centroids = self._first_centroids if phase == "features" else None
        return self.train(phase, islice(self.loaders[phase], TRAINING_BATCHES), centroids)

    def evaluate(self) -> int:
        self.validate(None)
        return len(self.data.test)

    def load(self, batches: int | None = None) -> int:
        loaded = islice(self.loaders["features"], batches)
        return sum(len(inputs.to(self.device, non_blocking=True)) for inputs, _ in loaded)
