"""Classifiers fitted to images that the network has never seen, as many of each class."""

import json

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from benchmarks.true_centroids import compare, main
from tests.support.pictures import noise, save
from tests.support.trained import write_checkpoint

CLASSES = [f"class_{k}" for k in range(10)]
FLAGS = ("--dataset", "cifar10", "--imb_factor", "0.5", "--gpu", "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate((("train", 8), ("test", 10))):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                pixels = noise(32, 32, 3, seed=10_000 * seed + 100 * k + i)
                save(root / "cifar10" / split / name / f"{i}.png", pixels)
    return root


def test_every_image_is_classified_by_the_means_of_the_other_parts():
    generator = torch.Generator().manual_seed(0)
    training = torch.randn(12, 5, generator=generator), torch.arange(3).repeat(4)
    features, labels = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    found = compare(torch.nn.Linear(5, 3), training, (features, labels), [200, 50, 5])
    assert set(found) == {"ncm_cosine", "ncm_euclidean", "crt"}

    def hits(own, own_labels, parts):
        means = np.stack([own[own_labels == c].double().numpy().mean(axis=0) for c in range(3)])
        distances = np.linalg.norm(features[parts].double().numpy()[:, None] - means, axis=2)
        return (distances.argmin(axis=1) == labels[parts].numpy()).sum()

    folds = StratifiedKFold(10, shuffle=True, random_state=0).split(features, labels)
    of_unseen = sum(hits(features[others], labels[others], part) for others, part in folds)
    of_training = hits(*training, np.arange(60))
    records = found["ncm_euclidean"]
    assert records["unseen"]["top1"] == pytest.approx(100 * of_unseen / 60, abs=1e-3)
    assert records["training"]["top1"] == pytest.approx(100 * of_training / 60, abs=1e-3)
    assert of_unseen != of_training


def test_an_image_has_no_part_in_what_classifies_it():
    """One image of class 0 lies near those of class 1, apart from a coordinate that no other image
    has. A linear classifier that is fitted to it gets it right, and others cannot."""
    labels = torch.arange(40) % 2
    features = torch.nn.functional.one_hot(labels, 3).float()
    features[0] = torch.tensor([0.0, 1.0, 1.0])
    all_images = (features, labels)
    found = compare(torch.nn.Linear(3, 2), all_images, all_images, [20, 20])
    assert found["crt"]["training"]["top1"] == 100.0
    assert all(records["unseen"]["top1"] == 97.5 for records in found.values())


def test_the_program_prints_a_table_and_writes_the_record(root, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "run", names=CLASSES, side=32)
    output = tmp_path / "found.json"
    data = (*FLAGS, "--arch", "resnet8", "--data_root", str(root))
    assert main([f"random={path}", "--output", str(output), *data]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("| random ") == 3
    found = json.loads(output.read_text())["networks"]["random"]
    assert set(found) == {"ncm_cosine", "ncm_euclidean", "crt"}
    top1 = found["crt"]["unseen"]["top1"]
    assert f"{top1:.2f} (" in out and 0 <= top1 <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "'nothing' is not NAME=CHECKPOINT"),
        (["a=missing"], "no checkpoint missing"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_network_of_other_images_is_refused(root, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "run", names=CLASSES, side=32, fingerprint="0" * 64)
    assert main([f"a={path}", *FLAGS, "--arch", "resnet8", "--data_root", str(root)]) == 2
    assert f"{path} was trained on other images" in capsys.readouterr().err


def test_each_class_needs_ten_test_images(tmp_path, capsys):
    for split, count in (("train", 4), ("test", 9)):
        for name in CLASSES:
            for i in range(count):
                save(tmp_path / "cifar10" / split / name / f"{i}.png", noise(32, 32, 3, seed=i))
    path = write_checkpoint(tmp_path / "run", names=CLASSES, side=32)
    assert main([f"a={path}", *FLAGS, "--arch", "resnet8", "--data_root", str(tmp_path)]) == 2
    assert "a class has 9 test images, and 10 are needed" in capsys.readouterr().err
