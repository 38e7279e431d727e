"""ImageNet-LT and iNaturalist 2018 by their lists: what is read, what is refused."""

import shutil

import pytest
import torch

from datasets import normalisation
from tests.support.helpers import call
from tests.support.streamed_sets import (
    CLASSES,
    data_of,
    training_counts,
    write_imagenet_lt,
    write_inaturalist,
)
from utils.errors import UserError


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return write_imagenet_lt(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def own(tmp_path):
    """Gives a small data set that the test may change."""
    return write_imagenet_lt(tmp_path / "own", classes=3)


def test_imagenet_lt_is_streamed_with_its_own_imbalance_and_its_validation_list_held_out(imagenet):
    data = data_of(imagenet)
    assert data.is_streamed and data.class_counts == training_counts(CLASSES)
    assert (len(data.test), len(data.heldout)) == (2 * CLASSES, CLASSES)
    assert data.class_names[:2] == ["n00000000", "n00000001"]
    assert data.normalisation == normalisation.IMAGENET
    lines = (imagenet / "ImageNet_LT_train.txt").read_text().split("\n")[:-1]
    listed = dict(line.split() for line in lines)
    labels = dict(zip(data.train.files, data.train.labels.tolist(), strict=True))
    assert labels == {name: int(label) for name, label in listed.items()}


def test_inaturalists_validation_list_is_its_test_set(tmp_path):
    root = write_inaturalist(tmp_path / "images", tmp_path / "lists")
    data = data_of(root, "--list_root", tmp_path / "lists", dataset="inaturalist18")
    assert (data.class_counts, len(data.test), data.heldout) == ([4] * 5, 10, None)
    assert data.class_names == ["70", "71", "72", "73", "74"]
    with pytest.raises(UserError, match="give the lists' folder with --list_root"):
        data_of(root, dataset="inaturalist18")


def test_classes_without_folders_of_their_own_are_numbered(own):
    path = own / "ImageNet_LT_train.txt"
    for image in list(own.glob("train/*/*")):
        image.rename(own / "train" / image.name)
        path.write_text(path.read_text().replace(f"{image.parent.name}/", ""))
    assert data_of(own).class_names == ["0", "1", "2"]


def test_images_and_lists_may_be_below_the_home_folder(own, monkeypatch):
    monkeypatch.setenv("HOME", str(own.parent))
    data = data_of("~/own", "--list_root", "~/own")
    assert data.fingerprint == data_of(own).fingerprint


def test_the_fingerprint_is_of_names_and_labels_and_not_of_the_place(own, tmp_path):
    before = data_of(own).fingerprint
    shutil.move(own, tmp_path / "moved")
    assert data_of(tmp_path / "moved").fingerprint == before
    assert data_of(tmp_path / "moved", "--rand_number", 1).fingerprint != before
    path = tmp_path / "moved" / "ImageNet_LT_train.txt"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first.replace(" 0", " 1"), *rest]))
    assert data_of(tmp_path / "moved").fingerprint != before


def test_streamed_and_resident_images_are_the_same(own):
    streamed, resident = data_of(own), data_of(own, "--stream", "False")
    assert not resident.is_streamed
    for split in ("train", "test", "heldout"):
        pixels = torch.cat(list(getattr(streamed, split).pixels()))
        assert torch.equal(pixels, getattr(resident, split).images)
        assert torch.equal(getattr(streamed, split).labels, getattr(resident, split).labels)


def test_exp_takes_a_part_of_a_listed_set(imagenet):
    data = data_of(imagenet, "--imb_type", "exp", "--imb_factor", 0.1)
    wanted = [int(12 * 0.1 ** (k / (CLASSES - 1))) for k in range(CLASSES)]
    assert data.class_counts == [
        min(*p) for p in zip(wanted, training_counts(CLASSES), strict=True)
    ]
    assert len(data.train.files) == sum(data.class_counts)
    assert len(data.heldout) == CLASSES


def change(path, text, addition):
    path.write_text(path.read_text().replace(*text) + addition)


@pytest.mark.parametrize(
    ("file", "text", "addition", "says"),
    [
        ("train", (" 0\n", " zero\n"), "", "ImageNet_LT_train.txt, line 1: "),
        ("train", ("", ""), "only_a_path.JPEG\n", "'only_a_path.JPEG' is not a path, a space"),
        ("train", ("", ""), "x.JPEG -1\n", "'x.JPEG -1' is not"),
        ("train", ("", ""), f"{'long/' * 20}x.JPEG,1\n", "long/x.JPEG,1' is not a path, a space"),
        ("train", ("", ""), "nowhere/x.JPEG 1\n", "nowhere/x.JPEG: no such file"),
        ("train", (" 1\n", " 2\n"), "", "class 1 has no training images"),
        ("test", (" 1\n", " 7\n"), "", "ImageNet_LT_test.txt: class 7 has no training images"),
        ("test", ("", ""), "val/test_00_000.JPEG 0\n", "again in ImageNet_LT_test.txt"),
        ("val", ("", ""), "val/test_00_000.JPEG 0\n", "listed in ImageNet_LT_test.txt and again"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(own, file, text, addition, says):
    change(own / f"ImageNet_LT_{file}.txt", text, addition)
    with pytest.raises(UserError) as raised:
        data_of(own)
    assert says in str(raised.value)


def test_all_faults_of_lists_and_files_are_collected(own):
    change(own / "ImageNet_LT_train.txt", ("", ""), "no label\ntrain/gone.JPEG 0\n")
    (own / "val" / "test_00_000.JPEG").write_bytes(b"")
    (own / "val" / "val_01_000.JPEG").write_text("no image")
    with pytest.raises(UserError, match=r"4 faults: .*; .*; .* and 1 more"):
        data_of(own)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe binary 1\n"])
def test_a_list_that_is_none_is_named(own, content):
    (own / "ImageNet_LT_test.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"ImageNet_LT_test\.txt: (no images|not a text)"):
        data_of(own)


def test_a_missing_list_is_bad_input_and_nothing_is_written(own, tmp_path):
    (own / "ImageNet_LT_val.txt").unlink()
    root = tmp_path / "root"
    outcome = call(
        ["--dataset", "imagenet_lt", "--data_root", own, "--root_log", root, "--root_model", root]
    )
    assert outcome.status == 2 and len(outcome.errors) == 1 and not root.exists()
    assert str(own / "ImageNet_LT_val.txt") in outcome.err


def test_lists_with_a_byte_order_mark_are_read(own):
    before, path = data_of(own).train.files, own / "ImageNet_LT_train.txt"
    path.write_text(f"\ufeff{path.read_text()}", encoding="utf-8")
    assert data_of(own).train.files == before
