"""Images that a user's data have more than once, by the bytes of their files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from datasets import load_data
from tests.support.own_images import folder_data, write_folder
from tests.support.pictures import noise, options, save
from utils.machine.processes import VARIABLES

ways = pytest.mark.parametrize("stream", [False, True], ids=["in memory", "streamed"])


@ways
def test_test_and_held_out_images_that_also_train_are_counted_with_an_example(stream, tmp_path):
    write_folder(tmp_path)
    flags = ("--stream", stream, "-j", 0)
    assert folder_data(tmp_path, *flags).account().endswith("none held out")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    shutil.copy(tmp_path / "train/bee/02.png", tmp_path / "test/bee/copy.png")
    told = folder_data(tmp_path, *flags).account()
    assert told.endswith(
        "; 1 test image is also among the training images (such as test/bee/copy.png and "
        "train/bee/02.png); 11 held-out images are also among the training images (such as "
        "val/ant/00.png and train/ant/00.png)"
    )


@ways
def test_an_image_in_several_classes_is_told_also_if_it_is_a_link(stream, tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "link.png").symlink_to("../ant/03.png")
    shutil.copy(tmp_path / "train/ant/03.png", tmp_path / "train/ant/copy.png")
    told = folder_data(tmp_path, "--stream", stream, "-j", 0).account()
    assert told.endswith(
        "; 1 image is in several classes (such as train/ant/03.png and train/cat/link.png)"
    )
    assert "also among" not in told


@ways
def test_images_of_a_table_are_compared_by_their_files(stream, tmp_path):
    lines = ["path,label,split"]
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(32, 32, 3, seed=i))
        lines.append(f"{i}.png,{'ab'[i % 2]},train")
    for i in range(2):
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"copy{i}.png")
        lines.append(f"copy{i}.png,{'ab'[i % 2]},test")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    flags = ("--dataset", "csv", "--data_root", tmp_path / "t.csv", "--stream", stream, "-j", 0)
    assert (
        load_data(options(*flags))
        .account()
        .endswith(
            "; 2 test images are also among the training images (such as copy0.png and 0.png)"
        )
    )


def test_copies_that_a_split_by_fraction_parts_are_told(tmp_path):
    for name in "ab":
        save(tmp_path / name / "0.png", noise(32, 32, 3, seed=ord(name)))
        shutil.copy(tmp_path / name / "0.png", tmp_path / name / "1.png")
    assert "; 2 test images are also among the training images" in folder_data(tmp_path).account()


def test_a_photograph_in_two_formats_that_a_split_by_fraction_parts_is_told(tmp_path):
    """A camera may write a RAW file beside each JPEG file."""
    for name in "ab":
        for i, ending in enumerate(("JPG", "tif")):
            pixels = noise(32, 32, 3, seed=10 * ord(name) + i)
            save(tmp_path / name / f"DSC_1.{ending}", pixels)
    told = folder_data(tmp_path).account()
    assert "; 2 test or held-out images are in another format among the training images" in told
    for name in "ab":
        (tmp_path / name / "DSC_1.tif").rename(tmp_path / name / "DSC_2.tif")
    assert "format" not in folder_data(tmp_path).account()


def test_numbered_files_are_no_formats_and_a_copy_with_another_ending_is_told_once(tmp_path):
    for name in "ab":
        for i in range(2):
            save(tmp_path / name / f"{i}.png", noise(32, 32, 3, seed=2 * ord(name) + i))
            (tmp_path / name / f"{i}.png").rename(tmp_path / name / f"IM.000{i}")
    assert folder_data(tmp_path).account().endswith("none held out")
    for name in "ab":
        (tmp_path / name / "IM.0000").rename(tmp_path / name / "IM.jpg")
        shutil.copy(tmp_path / name / "IM.jpg", tmp_path / name / "IM.jpeg")
        (tmp_path / name / "IM.0001").unlink()
    told = folder_data(tmp_path).account()
    assert "; 2 test images are also among the training" in told and "format" not in told


def test_copies_and_formats_within_the_test_set_are_not_called_training_images(tmp_path):
    write_folder(tmp_path)
    shutil.copy(tmp_path / "test/bee/00.png", tmp_path / "test/bee/copy.png")
    for i, ending in enumerate(("JPG", "tif")):
        save(tmp_path / "test" / "bee" / f"DSC_1.{ending}", noise(32, 32, 3, seed=50 + i))
    assert folder_data(tmp_path).account().endswith("none held out")


@ways
def test_copies_that_a_held_out_part_parts_are_told(stream, tmp_path):
    write_folder(tmp_path, counts=(1, 1, 1))
    for name in ("ant", "bee", "cat"):
        shutil.copy(tmp_path / "train" / name / "00.png", tmp_path / "train" / name / "copy.png")
    flags = ("--stream", stream, "-j", 0)
    assert folder_data(tmp_path, *flags).account().endswith("none held out")
    told = folder_data(tmp_path, "--heldout_fraction", 0.5, *flags).account()
    assert "; 3 held-out images are also among the training images (such as train/ant/" in told


def test_an_evaluation_compares_new_test_images_with_the_training_images(tmp_path):
    write_folder(tmp_path)
    trained = {"data": folder_data(tmp_path).description()}
    shutil.copy(tmp_path / "train/bee/02.png", tmp_path / "test/bee/new.png")
    chosen = options("--dataset", "folder", "--data_root", tmp_path, "--evaluation", True)
    assert "; 1 test image is also among the training" in load_data(chosen, trained).account()


def refuse(*_, **__):
    raise AssertionError("a file is read again")


def test_a_run_that_has_been_told_reads_no_file_again(tmp_path, monkeypatch):
    write_folder(tmp_path)
    shutil.copy(tmp_path / "train/bee/02.png", tmp_path / "test/bee/copy.png")
    data = folder_data(tmp_path)
    assert "1 test image is also among" in data.account()
    monkeypatch.setattr("datasets.files.repeats.open", refuse, raising=False)
    chosen = options("--dataset", "folder", "--data_root", tmp_path)
    with pytest.raises(AssertionError, match="read again"):
        load_data(chosen)
    again = load_data(chosen, {"data": data.description()})
    assert again.account() == data.account().partition("; ")[0]


def test_only_the_process_that_prints_compares_files(tmp_path, monkeypatch):
    write_folder(tmp_path)
    shutil.copy(tmp_path / "train/bee/02.png", tmp_path / "test/bee/copy.png")
    monkeypatch.setattr("datasets.files.repeats.open", refuse, raising=False)
    for name, text in zip(VARIABLES, ("1", "2", "1", "here", "29500"), strict=True):
        monkeypatch.setenv(name, text)
    assert folder_data(tmp_path).account().endswith("none held out")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(AssertionError, match="read again"):
        folder_data(tmp_path)


def test_pictures_with_a_border_are_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.files.repeats._content", refuse)
    for i, path in enumerate(("train/a/0", "train/b/0", "test/a/0", "test/b/0")):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[20] = i
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / f"{path}.bmp")
    assert folder_data(tmp_path).account().endswith("none held out")


def test_images_of_equal_size_and_equal_first_bytes_are_not_the_same(tmp_path):
    for i, path in enumerate(("train/a/0", "train/b/0", "test/a/0", "test/b/0")):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[0] = i  # a BMP file begins with the lowest row
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / f"{path}.bmp")
    files = sorted(tmp_path.glob("*/*/*"))
    assert len({file.read_bytes()[:4096] for file in files}) == 1 < len(files)
    assert folder_data(tmp_path).account().endswith("none held out")
