"""Classifiers fitted to images that the network has never seen."""

import json

import numpy as np
import pytest
import torch

from benchmarks.true_centroids import compare, main, unseen_images
from datasets import load_data
from tests.support.pictures import noise, options, save
from tests.support.trained import write_checkpoint

CLASSES = [f"class_{k}" for k in range(10)]
FLAGS = ("--dataset", "cifar10", "--imb_factor", "0.5", "--gpu", "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate((("train", 8), ("test", 2))):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                pixels = noise(32, 32, 3, seed=10_000 * seed + 100 * k + i)
                save(root / "cifar10" / split / name / f"{i}.png", pixels)
    return root


def test_unseen_images_are_those_that_the_subset_leaves_out(root):
    chosen = options(*FLAGS, "--data_root", root)
    data = load_data(chosen)
    unseen = unseen_images(chosen, data)
    counts = torch.bincount(unseen.labels, minlength=10).tolist()
    # The first class keeps all of its eight images, so these are taken.
    assert counts == [8, *(8 - n for n in data.class_counts[1:])] and 0 not in counts
    shared = set(unseen.files) & set(data.train.files)
    assert len(shared) == 8 and all("/class_0/" in name for name in shared)


def test_centroids_are_those_of_the_images_that_they_are_fitted_to():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(4)
    features = {
        name: (torch.randn(12, 5, generator=generator), labels) for name in ("training", "unseen")
    }
    test, targets = torch.randn(40, 5, generator=generator), torch.arange(40) % 3
    head = torch.nn.Linear(5, 3)
    found = compare(head, features, (test, targets), [200, 50, 5])
    for name, (own, _) in features.items():
        means = np.stack([own[labels == c].double().numpy().mean(axis=0) for c in range(3)])
        distances = np.linalg.norm(test.double().numpy()[:, None] - means, axis=2)
        right = distances.argmin(axis=1) == targets.numpy()
        assert found["ncm_euclidean"][name]["top1"] == pytest.approx(100 * right.mean(), abs=1e-3)
    first, second = (found["ncm_euclidean"][name]["per_class"] for name in features)
    assert first != second


def test_the_program_prints_a_table_and_writes_the_record(root, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "run", names=CLASSES, side=32)
    output = tmp_path / "found.json"
    data = (*FLAGS, "--arch", "resnet8", "--data_root", str(root))
    assert main([f"random={path}", "--output", str(output), *data]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("| random |") == 3
    found = json.loads(output.read_text())["networks"]["random"]
    assert set(found) == {"ncm_cosine", "ncm_euclidean", "crt"}
    top1 = found["crt"]["unseen"]["top1"]
    assert f"{top1:.2f} (" in out and 0 <= top1 <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "'nothing' is not NAME=CHECKPOINT"),
        (["a=missing"], "no checkpoint missing"),
        (["a=b", "--dataset", "digits"], "--dataset must be one of cifar10, cifar100"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
