"""The DRO loss as sums over classes and samples, one number at a time."""

import math

import numpy as np
import torch


def margin_of_sample(targets, epsilons, released):
    """Returns the margin of each sample, in batch order."""
    if not released:
        return [epsilons[y] for y in targets]
    # The released code writes margins through a boolean mask over (class, sample).
    margins = np.zeros((len(epsilons), len(targets)))
    mask = np.arange(len(epsilons))[:, None] == np.asarray(targets)
    margins[mask] = np.asarray(epsilons)[targets]
    return margins.sum(axis=0).tolist()


def at_unit_length(vector):
    length = math.hypot(*vector)
    return [x / length for x in vector]


def reference_loss(
    features,
    targets,
    centroids,
    temperature,
    base_temperature=None,
    epsilons=None,
    class_weights=None,
    released=False,
    distance="euclidean",
):
    features, targets, centroids = features.tolist(), targets.tolist(), centroids.tolist()
    if distance == "normalised":
        features, centroids = ([at_unit_length(v) for v in vs] for vs in (features, centroids))
    epsilons = [0.0] * len(centroids) if epsilons is None else epsilons.tolist()
    margins = margin_of_sample(targets, epsilons, released)
    class_losses = {}
    for c, centroid in enumerate(centroids):
        members = [i for i, y in enumerate(targets) if y == c]
        if not members:
            continue
        distances = [
            math.dist(centroid, z) + (margin if y == c else 0.0)
            for z, y, margin in zip(features, targets, margins, strict=True)
        ]
        if distance == "squared":
            distances = [max(d, 0.0) ** 2 for d in distances]
        logits = [-d / temperature for d in distances]
        largest = max(logits)
        log_sum = largest + math.log(sum(math.exp(logit - largest) for logit in logits))
        class_losses[c] = sum(log_sum - logits[i] for i in members) / len(members)
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    if class_weights is None:
        return factor * sum(class_losses.values()) / len(class_losses)
    weights = class_weights.tolist()
    return factor * sum(weights[c] * loss for c, loss in class_losses.items()) / sum(weights)


BATCHES = {
    "every class": [2, 0, 1, 4, 3, 0, 2, 2, 1, 4, 3, 3],
    "absent classes": [3, 1, 3, 3, 1, 1, 3],
    "one class": [2, 2, 2, 2, 2],
    "one sample": [4],
    "one sample per class": [1, 4, 0, 3, 2],
    "sorted": [0, 0, 1, 2, 2, 2, 4],
}


def random_problem(batch="every class", seed=0, dtype=torch.float64, dimension=6):
    """Returns features, targets, bank features, bank targets and margins of both signs, for five
    classes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(BATCHES[batch])
    bank_targets = torch.arange(20) % 5
    centres = torch.randn(5, dimension, generator=generator, dtype=torch.float64)

    def around(labels):
        noise = torch.randn(len(labels), dimension, generator=generator, dtype=torch.float64)
        return (centres[labels] + noise).to(dtype)

    epsilons = torch.tensor([0.7, -0.4, 1.3, 0.0, -1.1], dtype=dtype)
    return around(targets), targets, around(bank_targets), bank_targets, epsilons


def centroids_of(bank_features, bank_targets):
    labels = bank_targets.tolist()
    return torch.stack(
        [
            torch.stack([f for f, y in zip(bank_features, labels, strict=True) if y == c]).mean(0)
            for c in range(max(labels) + 1)
        ]
    )
