"""Features of a network, and their class means."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from models.folding import fold_batch_norm
from models.network import Network
from utils.machine import collectives, signals
from utils.machine.device import Machine


@torch.no_grad()
def extract_features(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], machine: Machine
) -> tuple[Tensor, Tensor]:
    """Returns the features ``[N, D]`` (float32) and targets ``[N]`` of all batches, with batch-norm
    in eval mode.

    Each process computes the features of its own images and gets the features of all.

    Args:
        model: the network.
        batches: images ``[B, 3, H, W]`` and targets ``[B]``; with several processes, the images of
            this process and the targets of all.
        machine: device, precision and processes.

    Raises:
        Interrupted: a signal came.
    """
    network = cast(Network, fold_batch_norm(model, machine.conv_dtype))
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
    """Returns the centroids ``[K, D]``, the mean features of each class, with batch-norm in eval
    mode.

    Sums and counts are accumulated batch by batch, and each image is counted in one process.

    Args:
        model: the network.
        batches: as for `extract_features`; each class must occur.
        num_classes: K.
        machine: device, precision and processes.

    Raises:
        Interrupted: a signal came.
    """
    network = cast(Network, fold_batch_norm(model, machine.conv_dtype))
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
        # `bincount` would make the host wait for the device.
        ones = torch.ones_like(targets, dtype=torch.float64)
        counts = counts + ones.new_zeros(num_classes).index_add_(0, targets, ones)
        signals.check()
    return (collectives.add_up(sums, world) / counts.unsqueeze(1)).float()
