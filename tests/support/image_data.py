"""Small data sets on disk, in CIFAR's official files and as PNG trees."""

import hashlib
import pickle

import numpy as np
import torch
import torchvision

import datasets.sources.cifar
from tests.support.pictures import noise

SOURCES = {
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
}
CLASSES = [f"class_{k}" for k in range(10)]


def splits_of(balanced):
    return balanced.train, balanced.test


def arrays(name, labels, seed):
    """Returns the content of an official file: rows of 1024 red, 1024 green and 1024 blue values,
    labels, and file names, which are not in the order of the alphabet."""
    key = "labels" if name == "cifar10" else "fine_labels"
    names = [f"{(37 * i + seed) % 101:03d}_{seed}.png" for i in range(len(labels))]
    images = noise(len(labels), 3072, seed=seed)
    return {"data": images, key: [int(label) for label in labels], "filenames": names}


def write_official(name, root, monkeypatch, labels=None):
    """Writes small files in the official layout, and makes torchvision expect their checksums."""
    source = SOURCES[name]
    num_classes = datasets.sources.cifar.NUM_CLASSES[name]
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    names = [f"name_{k}" for k in range(num_classes)]
    contents = {source.meta["filename"]: {source.meta["key"]: names}}
    rng = np.random.default_rng(1)
    for seed, (file, _) in enumerate(source.train_list + source.test_list):
        chosen = rng.permutation(num_classes) if labels is None else labels[file]
        contents[file] = arrays(name, chosen, seed)
    sums = {}
    for file, content in contents.items():
        written = pickle.dumps(content)
        (folder / file).write_bytes(written)
        sums[file] = hashlib.md5(written).hexdigest()
    for which in ("train_list", "test_list"):
        files = [[file, sums[file]] for file, _ in getattr(source, which)]
        monkeypatch.setattr(source, which, files)
    meta = source.meta["filename"]
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums[meta]})
    return contents


def expected_of(contents, files):
    data = np.concatenate([contents[file]["data"] for file in files])
    labels = [contents[file].get("labels") or contents[file].get("fine_labels") for file in files]
    return data.reshape(-1, 3, 32, 32), np.concatenate(labels)


def assert_same(balanced, other):
    for split, expected in zip(splits_of(balanced), splits_of(other), strict=True):
        assert torch.equal(split.images, expected.images)
        assert torch.equal(split.labels, expected.labels)
    assert balanced.class_names == other.class_names
