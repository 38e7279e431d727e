"""From image files to classes and confidences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from datasets.files.images import fit
from models.folding import fold_batch_norm
from utils.evaluation.evaluator import PIXELS_A_PASS
from utils.machine.device import Machine
from utils.predict.images import decoded
from utils.predict.network import NormalisedNetwork, TrainedNetwork

LIKELIEST = 5
LARGEST_BATCH = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image and their probabilities in [0, 1], the likeliest first."""

    file: str
    classes: list[str]
    confidences: list[float]


class Predictor:
    """Classifies images with a trained network. Confidences are the softmax of the logits. As in
    evaluation, batch-norm is folded into the convolutions.

    Args:
        trained: the network.
        machine: the device.
    """

    def __init__(self, trained: TrainedNetwork, machine: Machine) -> None:
        self.names = trained.class_names
        self.likeliest = min(LIKELIEST, len(trained.class_names))
        self.prepare = partial(fit, side=trained.image_size, shorter_side=trained.shorter_side)
        self.device = machine.device
        largest = LARGEST_BATCH[machine.device.type]
        self.batch_size = max(1, min(largest, PIXELS_A_PASS["cpu"] // trained.image_size**2))
        network = NormalisedNetwork(fold_batch_norm(trained.network), trained.normalisation)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)

    def __call__(self, paths: Iterable[str]) -> Iterator[Prediction | str]:
        """Yields one result for each file. Predictions come batch by batch; for an unreadable file
        the reason comes at once."""
        files, images = [], []
        for file, image in decoded(paths, self.prepare, 2 * self.batch_size):
            if isinstance(image, str):
                yield image
                continue
            files.append(file)
            images.append(image)
            if len(files) == self.batch_size:
                yield from self._predict(files, images)
                files, images = [], []
        if files:
            yield from self._predict(files, images)

    @torch.no_grad()
    def _predict(self, files: list[str], images: list[np.ndarray]) -> list[Prediction]:
        """Returns the min(5, K) likeliest classes of uint8 images, each ``[S, S, 3]``."""
        # These images already have the memory layout of the convolutions, channels-last.
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        _, logits = self.network(batch.permute(0, 3, 1, 2).float().div_(255))
        probabilities = torch.softmax(logits.double(), dim=1)
        found = torch.topk(probabilities, self.likeliest, dim=1)
        return [
            Prediction(file, [self.names[label] for label in labels], row)
            for file, labels, row in zip(
                files, found.indices.tolist(), found.values.tolist(), strict=True
            )
        ]
