"""What belongs to the checkpoint: image size, normalisation and class names."""

import hashlib

import pytest

from datasets import load_data
from datasets.recorded import test_rand_number as recorded_test_number
from tests.support.own_images import folder_data, write_folder
from tests.support.pictures import options
from utils.errors import UserError


@pytest.fixture
def trained(tmp_path):
    """Gives the flags of a data set, and what a run on it records."""
    flags = ("--dataset", "folder", "--data_root", write_folder(tmp_path / "own", side=48))
    data = load_data(options(*flags, "--image_size", 48))
    assert data.description()["image_size"] == 48
    return flags, {"data": data.description()}, tmp_path


def test_the_image_size_comes_from_the_checkpoint(trained):
    flags, recorded, _ = trained
    for size in ((), ("--image_size", 48)):
        assert load_data(options(*flags, *size), recorded).image_size == 48


@pytest.mark.parametrize(
    ("flag", "value"), [("--image_size", 32), ("--image_size", 64), ("--normalisation", "imagenet")]
)
def test_a_flag_that_contradicts_the_checkpoint_is_an_error(trained, flag, value):
    flags, recorded, _ = trained
    with pytest.raises(UserError, match=f"{flag} {value} contradicts the checkpoint"):
        load_data(options(*flags, flag, value), recorded)


@pytest.mark.parametrize(("size", "streamed"), [(48, True), (64, False)])
def test_the_record_decides_stream_auto_and_an_explicit_flag_decides_alone(trained, size, streamed):
    """Alone, `auto` streams images of 64 pixels and keeps these smaller ones in memory."""
    flags, recorded, _ = trained
    flags = (*flags, "-j", 0)
    recorded["data"] |= {"image_size": size, "streamed": streamed}
    assert load_data(options(*flags), recorded).is_streamed == streamed
    other = load_data(options(*flags, "--stream", not streamed), recorded)
    assert other.is_streamed != streamed


@pytest.mark.parametrize("size", [0, 7, 1025])
def test_a_recorded_size_that_no_images_have_is_an_error(trained, size):
    flags, _, _ = trained
    with pytest.raises(UserError, match=f"image_size must be .* from 8 to 1024, not {size}$"):
        load_data(options(*flags), {"data": {"image_size": size}})


@pytest.mark.parametrize(("number", "taken"), [(0, 0), (2**32 - 1, 2**32 - 1), (2**32, 5)])
def test_a_recorded_number_splits_the_test_images_off_if_it_is_a_seed(number, taken):
    of_run = options("--rand_number", 5)
    assert recorded_test_number(of_run, {"test_rand_number": number}) == taken


def test_a_normalisation_that_was_asked_for_is_kept(trained):
    flags, _, _ = trained
    first = load_data(options(*flags, "--normalisation", "imagenet"))
    again = load_data(options(*flags), {"data": first.description()})
    assert again.normalisation == first.normalisation


def test_other_classes_are_an_error_that_names_them(trained):
    _, recorded, tmp_path = trained
    other = write_folder(tmp_path / "other", side=48)
    for split in ("train", "test"):
        (other / split / "cat").rename(other / split / "dog")
    flags = ("--dataset", "folder", "--data_root", other)
    with pytest.raises(UserError, match="only these data have dog; only the checkpoint has cat"):
        load_data(options(*flags), recorded)


def test_classes_in_another_order_are_an_error(trained):
    flags, recorded, _ = trained
    recorded["data"]["class_names"].reverse()
    with pytest.raises(UserError, match="the order is another"):
        load_data(options(*flags), recorded)


def test_streamed_images_of_equal_names_are_told_apart_and_copies_are_not(tmp_path):
    def fingerprint(root):
        flags = ("--dataset", "folder", "--data_root", root, "--stream", "True", "-j", 0)
        return load_data(options(*flags))

    first = fingerprint(write_folder(tmp_path / "one"))
    copy = fingerprint(write_folder(tmp_path / "two"))
    assert copy.fingerprint == first.fingerprint
    (tmp_path / "two/train/ant/00.png").write_bytes(
        (tmp_path / "two/train/ant/01.png").read_bytes()
    )
    changed = fingerprint(tmp_path / "two")
    assert changed.fingerprint != first.fingerprint
    assert not changed.has_fingerprint(first.fingerprint) and changed.has_fingerprint(None)


def test_an_earlier_fingerprint_of_streamed_images_was_of_labels_and_names_alone(tmp_path):
    root = write_folder(tmp_path / "own")
    streamed, resident = (folder_data(root, "--stream", s, "-j", 0) for s in (True, False))
    digest = hashlib.sha256(streamed.train.labels.numpy().tobytes())
    for name in streamed.train.listing.names:
        digest.update(f"{name}\n".encode())
    assert streamed.has_fingerprint(digest.hexdigest())
    assert not resident.has_fingerprint(digest.hexdigest())
