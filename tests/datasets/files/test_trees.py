"""Which files of a tree are images, and what is said about the others."""

import os
import threading
import unicodedata

import numpy as np
import pytest
from PIL import Image

from datasets import load_data
from tests.support.own_images import folder_data, refused, write_folder
from tests.support.pictures import noise, options, pixels_of, save
from utils.options.digests import content_digest


@pytest.mark.parametrize("stream", [False, True])
def test_images_at_any_depth_below_their_class_are_used_and_named(tmp_path, stream):
    write_folder(tmp_path)
    save(tmp_path / "train" / "cat" / "day" / "one" / "x.png", noise(32, 32, 3, seed=7))
    data = folder_data(tmp_path, "--stream", stream, "-j", 0)
    assert data.class_counts == [6, 3, 3]
    assert "train/cat/day/one/x.png" in data.train.files
    assert data.test.files == [f"test/{c}/0{i}.png" for c in ("ant", "bee", "cat") for i in (0, 1)]
    position = data.train.files.index("train/cat/day/one/x.png")
    (pixels,) = data.train.subset(np.array([position])).pixels()
    np.testing.assert_array_equal(pixels[0].permute(1, 2, 0), noise(32, 32, 3, seed=7))


def test_a_file_is_an_image_if_pillow_opens_it_whatever_its_ending(tmp_path):
    write_folder(tmp_path)
    for name, kind in (("a.jfif", "JPEG"), ("b", "PNG"), ("c.PiC", "BMP"), ("d.jpg_large", "JPEG")):
        Image.fromarray(noise(32, 32, 3)).save(tmp_path / "train" / "cat" / name, kind)
    data = folder_data(tmp_path)
    assert data.class_counts == [6, 3, 6] and "ignored" not in data.account()


def test_files_that_are_no_images_are_counted_with_an_example(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "ant" / "labels.csv").write_text("no image")
    (tmp_path / "test" / "bee" / "film.mpg").write_bytes(b"\x00\x00\x01\xb3" + bytes(20))
    (tmp_path / "train" / "README").write_text("no class")
    (tmp_path / "extra").mkdir()
    os.mkfifo(tmp_path / "train" / "bee" / "pipe")  # opening it would wait for ever
    told = folder_data(tmp_path).account()
    assert "3 files that Pillow cannot open as an image (such as " in told
    assert f"1 file outside the class folders ({tmp_path}/train/README)" in told
    assert told.endswith("folder extra (0 images)")
    assert told.startswith(
        "3 classes, 17 images: 11 training (ant 6 to cat 2), 6 test (test/), none"
    )


@pytest.mark.parametrize("dataset", ["folder", "csv"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_look_at_a_file_keeps_the_others_waiting(tmp_path, monkeypatch, dataset, stream):
    """On a network it takes a millisecond, and data may have millions of files."""
    images = sorted(write_folder(tmp_path).glob("*/*/*"))
    places = {"folder": tmp_path, "csv": tmp_path / "table.csv"}
    rows = (f"{path},{path.parent.name},{path.parts[-3]}" for path in images)
    places["csv"].write_text("\n".join(["path,label,split", *rows]))
    alone = []

    def watched(look):
        def watch(path, *args, **kwargs):
            if threading.current_thread() is threading.main_thread():
                alone.append(str(path))
            return look(path, *args, **kwargs)

        return watch

    monkeypatch.setattr(os, "stat", watched(os.stat))
    monkeypatch.setattr("builtins.open", watched(open))
    flags = ("--dataset", dataset, "--data_root", places[dataset], "--stream", stream)
    data = load_data(options(*flags, "-j", 0, "--normalisation", "imagenet"))
    assert data.fingerprint and content_digest(str(places["csv"]), is_table=True)
    assert not [path for path in alone if path.endswith(".png")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_image_is_a_fault_and_not_passed_over(tmp_path, stream):
    write_folder(tmp_path)
    (tmp_path / "train" / "ant" / "empty.jpg").touch()
    assert "empty.jpg: not an image that Pillow can read" in refused(tmp_path, "--stream", stream)


@pytest.mark.parametrize("stream", [False, True])
def test_links_to_nothing_are_listed_among_all_faults(tmp_path, stream):
    write_folder(tmp_path)
    (tmp_path / "train" / "bee" / "x.png").symlink_to("nowhere.png")
    (tmp_path / "train" / "ant" / "notes").symlink_to("notes")
    (tmp_path / "test" / "ant" / "00.png").write_bytes(b"")
    message = refused(tmp_path, "--stream", stream)
    assert "3 faults: " in message and "train/bee/x.png: a link to nothing" in message
    assert "train/ant/notes: a link to nothing" in message and "test/ant/00.png" in message


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path / "own")
    save(tmp_path / "elsewhere" / "x.png", noise(32, 32, 3))
    (tmp_path / "own" / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    assert folder_data(tmp_path / "own").class_counts == [6, 3, 3]
    (tmp_path / "own" / "train" / "cat" / "again").symlink_to(tmp_path / "own" / "train")
    assert "train/cat/again: a link to a folder that it is in" in refused(tmp_path / "own")


@pytest.mark.parametrize("stream", [False, True])
def test_names_that_are_not_utf_8_are_read_and_classes_of_such_names_can_be_printed(
    tmp_path, stream
):
    write_folder(tmp_path)
    folder = os.fsencode(tmp_path) + b"/train/"
    os.rename(folder + b"ant/00.png", folder + b"ant/fl\xe9ur.png")
    for split in (b"/train/", b"/test/"):
        os.rename(
            os.fsencode(tmp_path) + split + b"cat", os.fsencode(tmp_path) + split + b"ch\xe2t"
        )
    data = folder_data(tmp_path, "--stream", stream, "-j", 0)
    assert data.class_counts == [6, 3, 2] and data.class_names == ["ant", "bee", "ch\\xe2t"]
    assert len(data.fingerprint) == 64 and data.account().encode("ascii")
    assert b"train/ant/fl\xe9ur.png" in map(os.fsencode, data.train.files)


@pytest.mark.parametrize(("of_train", "of_test"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_class_is_the_same_class_composed_and_decomposed(of_train, of_test, tmp_path):
    """Its label is the same too: decomposed, the name of its folder begins with an `a`."""
    write_folder(tmp_path)
    composed = unicodedata.normalize("NFC", "ånd")
    for split, form in (("train", of_train), ("test", of_test)):
        name = unicodedata.normalize(form, composed)
        (tmp_path / split / "cat").rename(tmp_path / split / name)
    data = folder_data(tmp_path)
    assert data.class_names == ["ant", "bee", composed]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "names", [("Training", "TESTING", "Valid"), ("TRAIN", "test", "validation")]
)
def test_splits_may_have_other_names_in_any_case(tmp_path, names):
    write_folder(tmp_path, splits=names)
    for folder in (tmp_path / names[0]).iterdir():  # of which only two images were written
        save(folder / "more.png", noise(32, 32, 3, seed=5))
    data = folder_data(tmp_path, "--select_on", "heldout")
    np.testing.assert_array_equal(pixels_of(data.test)[0], noise(32, 32, 3, seed=1000))
    np.testing.assert_array_equal(pixels_of(data.heldout)[0], noise(32, 32, 3, seed=2000))
    assert f"({names[1]}/), 6 held out ({names[2]}/)" in data.account()


def test_a_cache_of_an_earlier_decoding_is_not_used_again(tmp_path, monkeypatch):
    write_folder(tmp_path)
    expected = pixels_of(folder_data(tmp_path).train)
    cache = tmp_path / "decoded-32.npz"
    with np.load(cache) as arrays:
        black = {name: np.zeros_like(arrays[name]) for name in ("train", "test")}
        listing = str(arrays["listing"])
    version, digests = listing.split(" ", 1)
    np.savez(cache, listing=np.array(f"{int(version) - 1} {digests}"), **black)
    np.testing.assert_array_equal(pixels_of(folder_data(tmp_path).train), expected)
    np.savez(cache, listing=np.array(listing), **black)  # this one is of the same decoding
    assert not pixels_of(folder_data(tmp_path).train).any()
