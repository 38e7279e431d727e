"""A user's own images in an npz file: what is read, and what is refused."""

import random
import zipfile

import numpy as np
import pytest
from PIL import Image

from datasets import load_data
from tests.support.own_images import npz_data, write_npz
from tests.support.pictures import noise, options, pixels_of
from utils.errors import UserError


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("side", [28, 64])
def test_an_npz_file_gives_its_images_in_three_channels_with_val_held_out(tmp_path, colour, side):
    path = tmp_path / "own.npz"
    arrays = write_npz(path, side=side, colour=colour, flat_labels=colour)
    data = npz_data(path)
    assert data.class_counts == [6, 4, 3] and data.class_names == ["0", "1", "2"]
    for split, key in ((data.test, "test"), (data.heldout, "val")):
        images = arrays[f"{key}_images"]
        expected = images if colour else np.repeat(images[..., None], 3, axis=3)
        np.testing.assert_array_equal(pixels_of(split), expected)
        np.testing.assert_array_equal(split.labels, arrays[f"{key}_labels"].ravel())


def test_grey_images_may_have_a_dimension_for_their_channel(tmp_path):
    arrays = write_npz(tmp_path / "own.npz")
    changes = {name: a[..., None] for name, a in arrays.items() if name.endswith("images")}
    write_npz(tmp_path / "other.npz", **changes)
    own, other = (npz_data(tmp_path / f"{name}.npz") for name in ("own", "other"))
    assert other.fingerprint == own.fingerprint
    assert other.evaluation_fingerprints == own.evaluation_fingerprints


def test_an_npz_file_is_resized_where_a_side_is_asked_for(tmp_path):
    arrays = write_npz(tmp_path / "own.npz")
    data = npz_data(tmp_path / "own.npz", "--image_size", 32)
    first = Image.fromarray(arrays["test_images"][0]).convert("RGB").resize((32, 32), 2)
    np.testing.assert_array_equal(pixels_of(data.test)[0], first)
    assert not data.description()["are_whole"]
    own_size = npz_data(tmp_path / "own.npz", "--image_size", 28)
    assert own_size.description()["are_whole"]


def test_the_line_about_the_data_names_the_arrays(tmp_path):
    write_npz(tmp_path / "own.npz")
    line = npz_data(tmp_path / "own.npz").account()
    assert line.endswith("5 test (test_images), 5 held out (val_images)")
    write_npz(tmp_path / "own.npz", class_names=noise(3), valid_images=noise(3))
    told = npz_data(tmp_path / "own.npz").account()
    assert told == f"{line}; ignored: other arrays (class_names, valid_images)"


def test_images_of_several_sizes_need_a_size_that_is_given_or_recorded(tmp_path):
    path = tmp_path / "own.npz"
    write_npz(path, test_images=noise(5, 64, 64))
    with pytest.raises(UserError, match=r"val, test have images of the sides \[28, 28, 64\]: give"):
        npz_data(path)
    sized = npz_data(path, "--image_size", 28)
    recorded = load_data(
        options("--dataset", "npz", "--data_root", path), {"data": {"image_size": 28}}
    )
    assert sized.fingerprint == recorded.fingerprint


@pytest.mark.parametrize(
    ("changes", "own"), [({}, "test_images"), ({"test_images": None, "test_labels": None}, "val_")]
)
def test_a_test_fraction_contradicts_the_test_images_of_an_npz_file(tmp_path, changes, own):
    write_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(UserError, match=f"--test_fraction 0.3: .* of their own, {own}"):
        npz_data(tmp_path / "own.npz", "--test_fraction", 0.3)


def test_val_is_the_test_set_of_an_npz_file_without_one(tmp_path):
    arrays = write_npz(tmp_path / "own.npz", test_images=None, test_labels=None)
    data = npz_data(tmp_path / "own.npz")
    assert data.heldout is None and "5 test (val_images), none held out" in data.account()
    np.testing.assert_array_equal(pixels_of(data.test)[..., 0], arrays["val_images"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"train_labels": None, "test_labels": None, "train_label": noise(13)},
            ["holds test_images, train_images, train_label,", "no train_labels; no test_labels"],
        ),
        ({"train_images": None, "train_labels": None}, ["no train_images"]),
        ({"test_images": None, "val_labels": None}, ["no test_images", "no val_labels"]),
        ({"train_images": np.zeros((13, 28, 28), np.float32)}, ["float32 [13, 28, 28]", "by 255"]),
        ({"train_images": noise(13, 28, 20)}, ["[13, 28, 20]"]),
        ({"train_images": noise(13, 4, 4)}, ["[13, 4, 4]", "from 8 to 1024"]),
        ({"train_images": np.uint8(3)}, ["train_images are uint8 []"]),
        ({"test_labels": np.int64(3)}, ["test_labels are int64 []"]),
        ({"train_labels": 2**40 * np.arange(13)}, ["[1, 2, 3, 4, 5] of train_labels"]),
        ({"test_images": noise(5, 28, 28, 28)}, ["test_images", "[5, 28, 28, 28]"]),
        ({"train_labels": np.zeros((13, 14), np.uint8)}, ["[13, 14]", "each of 13 images"]),
        ({"train_labels": np.zeros(12, np.int64)}, ["[12]"]),
        ({"train_labels": np.arange(13) - 1}, ["train_labels go down to -1"]),
        ({"train_labels": 2 * np.arange(13)}, ["[1, 3, 5, 7, 9] of train_labels (labels count"]),
        ({"train_labels": np.array(["ant"] * 13, object)}, ["train_labels are Python objects: "]),
        (
            {"test_labels": np.array([0, 1, 2, 7, 0]), "val_labels": np.array([0, 9, 2, 1, 0])},
            ["[7] of test_labels", "[9] of val_labels"],
        ),
        (
            {
                "train_labels": np.zeros(13, int),
                "test_labels": np.zeros(5, int),
                "val_labels": 0 * np.arange(5),
            },
            ["0 is the only class there", "two classes or more"],
        ),
        ({"test_images": noise(0, 28, 28), "test_labels": noise(0)}, ["test_images has no images"]),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_named(tmp_path, changes, says):
    write_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(UserError) as raised:
        npz_data(tmp_path / "own.npz")
    assert all(part in str(raised.value) for part in [str(tmp_path / "own.npz"), *says])


def test_values_from_0_to_1_warn(tmp_path, capsys):
    write_npz(tmp_path / "own.npz", train_images=noise(13, 28, 28) // 128)
    npz_data(tmp_path / "own.npz")
    warning = capsys.readouterr().err
    assert "nearly black (mean 0.5 of 255); multiply values from 0 to 1 by 255" in warning


@pytest.mark.parametrize("damage", ["missing", "folder", "garbage", "cut off", "pickle"])
def test_an_npz_file_that_cannot_be_read_is_named_and_nothing_in_it_runs(tmp_path, damage):
    path = tmp_path / "own.npz"
    if damage == "folder":
        path.mkdir()
    elif damage == "garbage":
        path.write_bytes(b"no archive")
    elif damage == "cut off":
        write_npz(path)
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "pickle":
        write_npz(path, train_images=np.array([random], dtype=object)[:0])
    with pytest.raises(UserError, match=f"--data_root {path}"):
        npz_data(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!doctype html><title>quota exceeded</title>", "a web page"),
        (b"", "an empty file"),
        (b"\x80\x04K\x01.", "a pickle"),
        (b"images: 3", "a text that begins with 'images: 3'"),
    ],
)
def test_the_error_says_what_a_file_is_that_is_not_an_archive(tmp_path, content, says):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(UserError) as raised:
        npz_data(tmp_path / "own.npz")
    assert f"{tmp_path}/own.npz: {says}" in str(raised.value)
    assert "allow_pickle" not in str(raised.value)


def test_an_array_that_is_none_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("train_images.npy", b"raw")
    with pytest.raises(UserError, match="train_images is not an array"):
        npz_data(tmp_path / "own.npz")


def test_a_file_with_one_array_is_not_taken_for_an_archive(tmp_path):
    with open(tmp_path / "own.npz", "wb") as file:
        np.save(file, noise(3, 28, 28))
    with pytest.raises(UserError, match=r"one array \(npy\), not an npz file"):
        npz_data(tmp_path / "own.npz")


def test_the_error_names_the_arrays_that_are_there(tmp_path):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "own.npz", **{name: noise(3) for name in names})
    with pytest.raises(UserError, match=r"holds x_test, x_train, y_test, y_train \(Keras' names"):
        npz_data(tmp_path / "own.npz")


def test_sizes_fall_from_the_largest_class_whatever_its_label(tmp_path):
    path = tmp_path / "own.npz"
    write_npz(path, counts=(3, 6, 20))
    data = npz_data(path, "--imb_type", "exp", "--imb_factor", 0.1)
    assert data.class_counts == [2, 6, 20]
    assert npz_data(path, "--imb_type", "step", "--imb_factor", 0.1).class_counts == [2, 6, 20]
