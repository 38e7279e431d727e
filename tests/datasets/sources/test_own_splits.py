"""Trees and tables without test images: a part of each class is set aside."""

import shutil

import numpy as np
import pytest
import torch

from datasets import load_data
from datasets.files.trees import FileList
from datasets.sources.own_splits import split_off_test
from tests.support.own_images import folder_data, write_folder
from tests.support.pictures import noise, options, pixels_of, save
from utils.errors import UserError


def write_flat(root, counts=(20, 10, 5, 2, 1)):
    for label, count in enumerate(counts):
        for i in range(count):
            save(root / f"class{label}" / f"{i}.png", noise(32, 32, 3, seed=100 * label + i))
    return root


def test_a_tree_of_class_folders_is_split_by_class_the_same_way_every_time(tmp_path):
    data = folder_data(write_flat(tmp_path / "one"))
    assert data.class_counts == [16, 8, 4, 1, 1]
    assert torch.bincount(data.test.labels, minlength=5).tolist() == [4, 2, 1, 1, 0]
    assert not set(data.train.files) & set(data.test.files)
    assert len({*data.train.files, *data.test.files}) == 38
    again = folder_data(write_flat(tmp_path / "two"))
    assert again.fingerprint == data.fingerprint and again.test.files == data.test.files
    np.testing.assert_array_equal(pixels_of(again.test), pixels_of(data.test))
    other = folder_data(tmp_path / "one", "--rand_number", 1)
    assert other.test.files != data.test.files
    assert "0.2 of each class (--test_fraction)" in data.account()
    assert data.account().endswith("; 1 class without test images (class4)")
    assert data.description()["test_fraction"] == 0.2


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.99])
def test_a_class_of_two_or_more_has_a_test_and_a_training_image(fraction):
    labels = np.repeat(np.arange(30), np.arange(1, 31)).tolist()
    files = FileList(None, [str(i) for i in range(len(labels))], labels)
    train, test = split_off_test(files, fraction, 3)
    sizes = np.arange(1, 31)
    expected = np.minimum(np.clip(np.floor(sizes * fraction + 0.5), 1, None), sizes - 1)
    np.testing.assert_array_equal(
        np.bincount(test.labels, minlength=30), np.minimum(expected, sizes - 1)
    )
    assert sorted(train.names + test.names, key=int) == files.names
    for part in (train, test):  # fingerprints are of the order too
        assert part.names == sorted(part.names, key=int)


def test_a_tree_with_training_images_alone_is_split_as_well(tmp_path):
    data = folder_data(write_folder(tmp_path, counts=(10, 5, 2), splits=("train",)))
    assert data.class_counts == [8, 4, 1] and len(data.test) == 4


def test_a_test_fraction_contradicts_test_images_of_their_own(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(UserError, match="test split of their own, test/"):
        folder_data(tmp_path, "--test_fraction", 0.3)


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_a_single_class_is_refused(tmp_path, splits):
    write_folder(tmp_path, splits=splits)
    for split in splits:
        shutil.rmtree(tmp_path / split / "bee")
        shutil.rmtree(tmp_path / split / "cat")
    with pytest.raises(UserError, match="ant is the only class there; a data set has two classes"):
        folder_data(tmp_path)
    assert not list(tmp_path.glob("decoded*"))


def test_single_images_alone_cannot_be_split(tmp_path):
    with pytest.raises(UserError, match="no class has two images"):
        folder_data(write_flat(tmp_path, counts=(1, 1)))


def test_stage_2_and_evaluation_test_on_the_images_that_stage_1_set_aside(tmp_path):
    write_flat(tmp_path)
    flags = ("--dataset", "folder", "--data_root", tmp_path)
    first = load_data(options(*flags, "--test_fraction", 0.4, "--rand_number", 5))
    recorded = {"data": first.description()}
    for changes in ((), ("--rand_number", 9), ("--test_fraction", 0.4)):
        again = load_data(options(*flags, *changes), recorded)
        assert again.test.files == first.test.files
    with pytest.raises(UserError, match=r"--test_fraction 0\.3 contradicts the checkpoint"):
        load_data(options(*flags, "--test_fraction", 0.3), recorded)


@pytest.mark.parametrize("fraction", [0.2, 0.3])
@pytest.mark.parametrize("own", ["test", "val"])
def test_test_images_of_their_own_contradict_a_checkpoint_that_split_them_off(
    tmp_path, fraction, own
):
    write_folder(tmp_path, splits=("train",))
    flags = ("--dataset", "folder", "--data_root", tmp_path)
    first = load_data(options(*flags, "--test_fraction", fraction))
    recorded = {"data": first.description()}
    again = load_data(options(*flags), recorded)
    # Checkpoints are read with weights_only, which refuses other types than torch's and Python's.
    assert type(again.description()["test_fraction"]) is float
    write_folder(tmp_path, splits=("train", own))
    with pytest.raises(UserError) as raised:
        load_data(options(*flags), recorded)
    assert f"of its own, {own}/, contradicts the checkpoint" in str(raised.value)
    assert f"are {fraction} of each class" in str(raised.value)
    assert "--test_fraction" not in str(raised.value)
