"""The error for a wrong --data_root says what was looked for and what is there."""

import pytest

from tests.support.own_images import write_folder
from tests.support.pictures import noise, options, save
from utils.errors import UserError
from utils.options.data_paths import check_data, read_tree


def refused(root, dataset="folder"):
    with pytest.raises(UserError) as raised:
        check_data(options("--dataset", dataset, "--data_root", root))
    return str(raised.value)


@pytest.mark.parametrize("dataset", ["folder", "npz", "csv", "imagenet_lt"])
def test_the_error_for_a_missing_path_says_what_is_there(tmp_path, dataset):
    (tmp_path / "flowers").mkdir()
    message = refused(tmp_path / "flower" / "x", dataset)
    assert f"{tmp_path}/flower/x: no such" in message and f"{tmp_path} holds flowers" in message


def test_a_home_folder_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "own")
    check_data(options("--dataset", "folder", "--data_root", "~/own"))
    assert f"{tmp_path}/other: no such folder" in refused("~/other")


def test_a_path_one_level_too_deep_or_too_high_is_corrected_in_the_error(tmp_path):
    write_folder(tmp_path / "own")
    assert f"did you mean --data_root {tmp_path}/own?" in refused(tmp_path / "own" / "train")
    assert f"did you mean --data_root {tmp_path}/own?" in refused(tmp_path)
    for name in "ab":
        save(tmp_path / "flat" / "images" / name / "x.png", noise(8, 8, 3))
    assert f"did you mean --data_root {tmp_path}/flat/images?" in refused(tmp_path / "flat")


@pytest.mark.parametrize("classes", [["cat", "dog"], ["dog"]], ids=["all", "one"])
def test_splits_inside_classes_are_told_from_a_tree_one_level_deeper(classes, tmp_path):
    save(tmp_path / "cat" / "x.png", noise(8, 8, 3))
    for name in classes:
        for split in ("test", "train"):
            save(tmp_path / name / split / "x.png", noise(8, 8, 3))
    message = refused(tmp_path)
    assert f"the split {classes[0]}/test lies inside a class" in message
    assert f"to test/{classes[0]}," in message and "did you mean" not in message
    write_folder(tmp_path / "own")
    assert f"did you mean --data_root {tmp_path}/own?" in refused(tmp_path)


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_refused(tmp_path):
    (tmp_path / "a.npz").touch()
    assert "a.npz is a file; give a folder that holds train and test" in refused(tmp_path / "a.npz")
    assert "needs a file, not a folder, which holds a.npz" in refused(tmp_path, "npz")
    assert "which has no csv file" in refused(tmp_path, "csv")


def test_a_split_that_is_there_twice_is_refused(tmp_path):
    write_folder(tmp_path, splits=("train", "Train", "test"))
    assert "are both a folder of the train split" in refused(tmp_path)


def test_a_class_named_as_a_split_is_a_class(tmp_path):
    for name in ("train", "plane", "test"):
        save(tmp_path / name / "x.png", noise(8, 8, 3))
    tree = read_tree(tmp_path)
    assert tree.splits == {} and tree.others == []


@pytest.mark.parametrize("folder", ["cat", "train/cat"])
def test_own_images_without_their_data_set_are_no_place_for_cifar(folder, tmp_path, monkeypatch):
    """`--dataset folder` is easily forgotten, and then CIFAR would be downloaded among them."""
    own = tmp_path / "own"
    save(own / folder / "x.jpg", noise(8, 8, 3))
    (own / "README.txt").touch()
    message = refused(own, "cifar10")
    assert "no cifar10 there, but folders of images; did you mean --dataset folder?" in message
    assert message.endswith(f"make a folder {own / 'cifar10'})")
    for name in ("a.csv", "a.npz"):
        (tmp_path / name).touch()
        assert f"did you mean --dataset {name[2:]}?" in refused(tmp_path / name, "cifar100")
    own.rename(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for root in ("./data", "data", tmp_path / "data", f"../{tmp_path.name}/data"):  # its own place
        check_data(options("--dataset", "cifar10", "--data_root", root))


@pytest.mark.parametrize(
    "beside",
    [
        *("cifar-10-batches-py/data_batch_1", "cifar10", "cifar10_exp_0.01_0.npz"),
        *("notes", "birds/robin/x.jpg", "src/main.py", "checkpoint/run/report.png"),
    ],
)
def test_cifar_may_lie_and_be_downloaded_beside_more_than_folders_of_images(beside, tmp_path):
    save(tmp_path / "photos" / "x.jpg", noise(8, 8, 3))
    assert "--dataset folder" in refused(tmp_path, "cifar10")
    (tmp_path / beside).mkdir(parents=True)
    check_data(options("--dataset", "cifar10", "--data_root", tmp_path))
