"""Any tree: all of its images are used and what is ignored is reported, or one line says what is
wrong."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets import load_data
from tests.support.helpers import call
from tests.support.pictures import noise, options
from utils.errors import UserError

MODES = {"RGB": ".png", "L": ".PNG", "P": ".gif", "RGBA": ".webp", "LA": ".png", "CMYK": ".jpg",
         "1": ".bmp", "I;16": ".tif"}  # fmt: skip
CLASSES = (b"ant", b"caf\xc3\xa9", b"cafe\xcc\x81", b"ch\xe2t", b"1", b"a b", b"new\nline", b"test")
FOLDERS = (b"", b"sub/", b"a/b/c/", b"val/")
MISHAPS = ("empty", "cut", "dangling", "text", "hidden", "pipe", "circle", "32-bit")
FAULTS = {"empty", "cut", "dangling", "circle", "32-bit"}
OTHERS = {"text", "pipe"}
REASONS = (
    *("no folder train", "is the only folder there", "is the only class there", ": no images"),
    *("no class has two images", "lies inside a class"),
)
"""Of refused trees in which every image is whole."""


SPLITS = [(b"",), (b"train",), (b"Training", b"TEST"), (b"train", b"valid")]


@st.composite
def pictures(draw):
    """Draws a class, a folder in it, a mode, a suffix, a size and an EXIF orientation."""
    mode = draw(st.sampled_from(sorted(MODES)))
    ending = draw(st.sampled_from([MODES[mode], ".dat", ""]))
    size = draw(st.sampled_from([(8, 8), (8, 9), (1, 70), (40, 3)]))
    place = draw(st.sampled_from(CLASSES)), draw(st.sampled_from(FOLDERS))
    return *place, mode, ending, size, draw(st.integers(0, 9))


trees = st.fixed_dictionaries(
    {
        "splits": st.sampled_from(SPLITS),
        "pictures": st.lists(pictures(), min_size=2, max_size=8),
        "mishaps": st.lists(st.tuples(st.sampled_from(MISHAPS), pictures()), max_size=2),
    }
)


def save(path, mode, size, orientation):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    tag = Image.Exif()
    tag[0x0112] = orientation
    if mode == "I;16":
        image = Image.fromarray(noise(*size[::-1]).astype(np.uint16) * 256)
    else:
        image = Image.fromarray(noise(*size[::-1], 3)).convert("RGBA" if mode == "LA" else mode)
        image = image.convert(mode)
    kind = Image.registered_extensions()[MODES[mode].lower()]
    image.save(os.fsdecode(path), kind, **({"exif": tag} if kind in ("PNG", "JPEG") else {}))


def do(mishap, path):
    """Writes something that is not an image, or a broken image, at a path without a suffix."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if mishap == "empty":
        Path(os.fsdecode(path + b".jpg")).touch()
    elif mishap == "cut":
        save(path + b".png", "RGB", (8, 8), 1)
        os.truncate(path + b".png", 50)
    elif mishap == "dangling":
        os.symlink(b"nowhere", path)
    elif mishap == "text":
        Path(os.fsdecode(path + b".txt")).write_text("no image")
    elif mishap == "hidden":
        Path(os.fsdecode(os.path.dirname(path) + b"/.DS_Store")).touch()
    elif mishap == "pipe":
        os.mkfifo(path)
    elif mishap == "circle":
        os.symlink(os.path.dirname(path), path)
    else:
        Image.fromarray(np.zeros((8, 8), np.float32)).save(os.fsdecode(path + b".tif"))


def write(root, tree):
    """Writes the tree and returns the number of good images in it."""
    root = os.fsencode(root)
    for number, (name, folder, mode, ending, size, orientation) in enumerate(tree["pictures"]):
        for split in tree["splits"]:
            path = os.path.join(root, split, name, folder, b"%d" % number)
            save(path + ending.encode(), mode, size, orientation)
    for number, (mishap, (name, folder, *_)) in enumerate(tree["mishaps"]):
        do(mishap, os.path.join(root, tree["splits"][0], name, folder, b"m%d" % number))
    return len(tree["pictures"]) * len(tree["splits"])


def loads_without_loss(tree, stream):
    """Returns True if all images of the tree are used, and False if it is refused in one line."""
    kinds = {mishap for mishap, _ in tree["mishaps"]}
    with tempfile.TemporaryDirectory() as root:
        good = write(root, tree)
        flags = ("--dataset", "folder", "--data_root", root, "--image_size", 8, "-j", 0)
        try:
            data = load_data(options(*flags, "--stream", stream))
            used = sum(len(split) for split in (data.train, *data.evaluation_splits.values()))
            for split in (data.train, *data.evaluation_splits.values()):
                assert sum(len(part) for part in split.pixels()) == len(split)
        except UserError as error:
            assert kinds & FAULTS or any(reason in str(error) for reason in REASONS)
            return False
    # A cut file's header is whole, so that a streamed one comes up when its pixels are read.
    assert used == good and not kinds & FAULTS
    assert ("that Pillow cannot open" in data.account()) == bool(kinds & OTHERS)
    return True


def test_any_tree_loads_without_loss_or_is_refused_in_one_line():
    loaded = []

    @settings(deadline=None, derandomize=True, database=None, max_examples=120)
    @given(trees, st.booleans())
    def load(tree, stream):
        loaded.append(loads_without_loss(tree, stream))

    load()
    assert sum(loaded) >= 20, "refusals alone would prove nothing"


@pytest.mark.parametrize("mishap", sorted(FAULTS))
def test_what_is_wrong_ends_a_whole_run_with_status_2_and_one_line(tmp_path, mishap):
    tree = {
        "splits": (b"train", b"test"),
        "pictures": [(name, b"", "RGB", ".png", (8, 8), 1) for name in (b"a", b"b") for _ in "12"],
        "mishaps": [(mishap, (b"a", b"sub/"))],
    }
    write(tmp_path / "own", tree)
    flags = ["--dataset", "folder", "--data_root", tmp_path / "own", "--epochs", 1]
    flags += ["--root_log", tmp_path / "runs", "--root_model", tmp_path / "runs"]
    outcome = call([str(flag) for flag in flags])
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert f"{tmp_path}/own/train/a/sub/m0" in outcome.err and not (tmp_path / "runs").exists()
