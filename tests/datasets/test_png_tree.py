"""The official files of CIFAR as a tree of PNG files."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.png_tree import run, write_tree
from datasets.sources.cifar import load_cifar
from tests.support.image_data import SOURCES, write_official
from utils.errors import RunError, UserError

LABELS = np.random.default_rng(0).permutation(np.arange(30) % 10)


@pytest.fixture
def contents(tmp_path, monkeypatch):
    """The content of CIFAR-10's official files, which are in `official`."""
    source = SOURCES["cifar10"]
    labels = {file: LABELS for file, _ in source.train_list + source.test_list}
    return write_official("cifar10", tmp_path / "official", monkeypatch, labels)


def expected(contents, files):
    """Returns images and labels by class and then by file name."""
    rows = [
        (label, name, pixels)
        for file in files
        for label, name, pixels in zip(
            contents[file]["labels"],
            contents[file]["filenames"],
            contents[file]["data"],
            strict=True,
        )
    ]
    rows.sort(key=lambda row: row[:2])
    images = np.stack([pixels.reshape(3, 32, 32) for *_, pixels in rows])
    return images, [label for label, *_ in rows]


def test_the_tree_has_the_official_images_in_the_order_of_their_names(contents, tmp_path, capsys):
    run(
        [
            "--dataset",
            "cifar10",
            "--data_root",
            f"{tmp_path}/official",
            "--output",
            f"{tmp_path}/png",
        ]
    )
    assert f"--data_root {tmp_path / 'png'} reads it" in capsys.readouterr().out
    tree = load_cifar("cifar10", tmp_path / "png")
    source = SOURCES["cifar10"]
    for split, files in ((tree.train, source.train_list), (tree.test, source.test_list)):
        images, labels = expected(contents, [file for file, _ in files])
        assert np.array_equal(split.images.numpy(), images)
        assert split.labels.tolist() == labels
    official = load_cifar("cifar10", tmp_path / "official")
    assert tree.class_names == official.class_names
    assert not torch.equal(tree.train.labels, official.train.labels)
    assert [path.name for path in (tmp_path / "png").iterdir()] == ["cifar10"]


def test_a_tree_that_is_there_is_left_alone(contents, tmp_path):
    (tmp_path / "png" / "cifar10").mkdir(parents=True)
    with pytest.raises(UserError, match="is already there"):
        write_tree("cifar10", tmp_path / "official", tmp_path / "png")
    assert not list((tmp_path / "png" / "cifar10").iterdir())


def test_nothing_is_left_of_a_tree_that_could_not_be_written(contents, tmp_path, monkeypatch):
    original, count = Image.Image.save, 0

    def save(image, *arguments):
        nonlocal count
        count += 1
        if count == 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(image, *arguments)

    monkeypatch.setattr(Image.Image, "save", save)
    arguments = ["--dataset", "cifar10", "--data_root", str(tmp_path / "official")]
    with pytest.raises(RunError, match="No space left on device"):
        run([*arguments, "--output", str(tmp_path / "png")])
    assert not list(Path(tmp_path / "png").iterdir())


def test_two_images_of_one_name_are_an_error(tmp_path, monkeypatch):
    source = SOURCES["cifar10"]
    labels = {file: LABELS for file, _ in source.train_list + source.test_list}
    monkeypatch.setattr("tests.support.image_data.arrays", twins)
    write_official("cifar10", tmp_path / "official", monkeypatch, labels)
    with pytest.raises(FileExistsError):
        write_tree("cifar10", tmp_path / "official", tmp_path / "png")


def twins(name, labels, seed):
    """Returns the content of a file whose images all have one name."""
    data = np.zeros((len(labels), 3072), np.uint8)
    return {"data": data, "labels": list(map(int, labels)), "filenames": ["a.png"] * len(labels)}
