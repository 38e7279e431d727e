"""PNG trees: what is read in which order, the decoded cache, and what is refused."""

import os
import pickle
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets.files.decode
import datasets.sources.cifar
from datasets.files.images import DataFaults, exactly, read_pixels
from datasets.sources.cifar import load_cifar
from tests.support.image_data import CLASSES, assert_same, splits_of
from tests.support.pictures import noise, pixels_of, save
from utils.errors import UserError


def write_tree(root, name="cifar10", classes=CLASSES, per_class=3):
    """Writes a tree of noise; returns {split: [(class, file, pixels)]} in sorted order."""
    files = {}
    for split_seed, split in enumerate(("train", "test")):
        images = noise(len(classes), per_class, 32, 32, 3, seed=split_seed)
        written = [
            (cls, f"{i}.png", images[k, i])
            for k, cls in enumerate(classes)
            for i in range(per_class)
        ]
        # Written in another order than that in which they are to be read.
        for cls, file, pixels in reversed(written):
            save(root / name / split / cls / file, pixels)
        files[split] = sorted(written, key=lambda entry: entry[:2])
    return files


def cache_of(root, name="cifar10"):
    return root / name / "decoded-32.npz"


def forbid_decoding(monkeypatch):
    def decode(*args, **kwargs):
        raise AssertionError(f"decoded {args}")

    monkeypatch.setattr(datasets.files.decode, "read_pixels", decode)


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_a_tree_gives_what_pillow_decodes_with_classes_and_files_sorted(
    name, num_classes, tmp_path
):
    # Twelve files a class and unpadded numbers: sorted by name, 10 comes before 2.
    names = [f"class_{k}" for k in np.random.default_rng(0).permutation(num_classes)]
    files = write_tree(tmp_path, name, names, per_class=12 if num_classes == 10 else 1)
    balanced = load_cifar(name, tmp_path)
    assert balanced.class_names == sorted(names) != names
    for split, which in ((balanced.train, "train"), (balanced.test, "test")):
        paths = [tmp_path / name / which / cls / file for cls, file, _ in files[which]]
        decoded = np.stack([np.asarray(Image.open(path)) for path in paths])
        np.testing.assert_array_equal(decoded, np.stack([pixels for *_, pixels in files[which]]))
        np.testing.assert_array_equal(pixels_of(split), decoded)
        expected = [sorted(names).index(cls) for cls, *_ in files[which]]
        assert split.labels.tolist() == expected
        assert [tmp_path / file for file in split.files] == paths


def test_other_files_are_ignored_and_other_modes_become_rgb(tree):
    folder = tree / "cifar10" / "train" / CLASSES[0]
    (folder / "notes.txt").write_text("not an image")
    (tree / "cifar10" / "train" / "README").write_text("not a class")
    grey = noise(32, 32)
    Image.fromarray(grey).save(folder / "a_grey.PNG")
    Image.fromarray(grey).convert("P").save(folder / "b_palette.png")
    balanced = load_cifar("cifar10", tree)
    assert torch.bincount(balanced.train.labels).tolist() == [5] + [3] * 9
    for pixels in pixels_of(balanced.train)[3:5]:
        np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_a_tree_is_decoded_once_into_a_cache_without_pickles(tree, monkeypatch):
    first = load_cifar("cifar10", tree)
    with np.load(cache_of(tree), allow_pickle=False) as cached:
        contents = {key: cached[key] for key in cached.files}
    np.testing.assert_array_equal(contents["train"], pixels_of(first.train))
    np.testing.assert_array_equal(contents["test"], pixels_of(first.test))
    assert sorted(path.name for path in (tree / "cifar10").iterdir()) == [
        "decoded-32.npz",
        "test",
        "train",
    ]
    forbid_decoding(monkeypatch)
    assert_same(load_cifar("cifar10", tree), first)


def change(tree, how):
    path = tree / "cifar10" / "train" / CLASSES[4] / "1.png"
    if how == "content":
        save(path, noise(32, 32, 3, seed=99))
    elif how == "size":  # a copy may keep the time of another file
        status = path.stat()
        save(path, np.zeros((32, 32, 3), np.uint8))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "added":
        save(path.with_name("10.png"), noise(32, 32, 3, seed=99))
    elif how == "removed":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_name("9.png"))
    elif how == "of the test split":
        save(tree / "cifar10" / "test" / CLASSES[4] / "1.png", noise(32, 32, 3, seed=99))
    elif how == "moved to another class":
        path.rename(path.parents[1] / CLASSES[5] / "7.png")


@pytest.mark.parametrize(
    "how",
    [
        *("content", "size", "added", "removed", "renamed"),
        *("of the test split", "moved to another class"),
    ],
)
def test_the_cache_is_remade_when_a_file_changes(tree, how, monkeypatch):
    before = load_cifar("cifar10", tree)
    change(tree, how)
    after = load_cifar("cifar10", tree)
    cache_of(tree).unlink()
    assert_same(after, load_cifar("cifar10", tree))
    unchanged = all(
        torch.equal(new.images, old.images) and torch.equal(new.labels, old.labels)
        for new, old in zip(splits_of(after), splits_of(before), strict=True)
    )
    assert not unchanged
    forbid_decoding(monkeypatch)
    assert_same(load_cifar("cifar10", tree), after)


def test_a_read_only_folder_gets_no_cache_and_a_warning(tree, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(datasets.files.decode, "atomic_write", refuse)
    balanced = load_cifar("cifar10", tree)
    [warning] = capsys.readouterr().err.splitlines()
    assert f"{cache_of(tree)} cannot be written (Permission denied)" in warning
    assert torch.bincount(balanced.train.labels).tolist() == [3] * 10
    assert sorted(os.listdir(tree / "cifar10")) == ["test", "train"]


def test_a_cache_that_cannot_be_finished_leaves_nothing(tree, monkeypatch):
    def fill_the_disk(file, **arrays):
        file.write(b"part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    balanced = load_cifar("cifar10", tree)
    assert torch.bincount(balanced.train.labels).tolist() == [3] * 10
    assert sorted(os.listdir(tree / "cifar10")) == ["test", "train"]


def test_what_killed_processes_left_of_a_cache_is_deleted(tree):
    """Parts that cannot be deleted, such as another user's, keep no cache from being written."""
    kept, left, growing = (cache_of(tree).with_name(f".decoded-32.npz.{n}.tmp") for n in "012")
    kept.mkdir()
    for part in (left, growing):
        part.write_bytes(b"part of it")
    for part in (kept, left):
        os.utime(part, times=(time.time() - 3600,) * 2)
    load_cifar("cifar10", tree)
    assert cache_of(tree).exists() and growing.exists() and kept.exists() and not left.exists()


def test_faults_can_be_sent_to_another_process():
    faults = DataFaults("--data_root photos", [f"{name}.jpg: cut off" for name in "abcd"])
    sent = pickle.loads(pickle.dumps(faults))
    assert str(sent) == str(faults) and sent.faults == faults.faults
    assert str(sent) == (
        "--data_root photos: 4 faults: a.jpg: cut off; b.jpg: cut off; c.jpg: cut off and 1 more; "
        "--check_images True lists them all"
    )


class Trap:
    """An object whose unpickling leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "flipped", "pickle", "partial"])
def test_a_damaged_cache_is_ignored_and_replaced(tree, damage, tmp_path, monkeypatch):
    expected = load_cifar("cifar10", tree)
    cache = cache_of(tree)
    whole = cache.read_bytes()
    with np.load(cache) as cached:
        listing, train = cached["listing"], cached["train"]
    trace = tmp_path / "trace"
    if damage == "garbage":
        cache.write_bytes(b"no archive at all")
    elif damage == "empty":
        cache.write_bytes(b"")
    elif damage == "cut off":
        cache.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        middle = len(whole) // 2
        cache.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "pickle":
        trap = np.array([Trap(trace)], dtype=object)
        np.savez(cache, listing=listing, train=trap, test=trap)
    else:
        np.savez(cache, listing=listing, train=train)
    assert_same(load_cifar("cifar10", tree), expected)
    assert not trace.exists()
    forbid_decoding(monkeypatch)
    assert_same(load_cifar("cifar10", tree), expected)


@pytest.mark.parametrize(
    ("classes", "found"), [(CLASSES[:9], 9), ([*CLASSES, "class_x"], 11)], ids=["fewer", "more"]
)
def test_another_number_of_class_folders_is_an_error(tmp_path, classes, found):
    write_tree(tmp_path, classes=classes, per_class=1)
    with pytest.raises(UserError, match=rf"cifar10 needs 10 class folders .*which has {found}"):
        load_cifar("cifar10", tmp_path)


def test_a_class_in_only_one_of_train_and_test_is_an_error_that_names_it(tree):
    (tree / "cifar10" / "test" / CLASSES[3]).rename(tree / "cifar10" / "test" / "other")
    with pytest.raises(UserError, match=rf"only one of train and test.*: {CLASSES[3]}, other$"):
        load_cifar("cifar10", tree)


def test_a_tree_without_a_test_folder_is_an_error_that_names_it(tree):
    (tree / "cifar10" / "test").rename(tree / "elsewhere")
    with pytest.raises(UserError, match=f"no folder {tree}/cifar10/test"):
        load_cifar("cifar10", tree)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_is_an_error_that_names_it(tree, split):
    for path in (tree / "cifar10" / split / CLASSES[6]).iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f"no PNG files of {CLASSES[6]} in .*{split}"):
        load_cifar("cifar10", tree)


def test_a_png_of_another_size_is_an_error_that_names_it(tree):
    path = tree / "cifar10" / "train" / CLASSES[2] / "1.png"
    save(path, noise(28, 33, 3))
    with pytest.raises(UserError, match=f"{path}: 33x28 pixels instead of 32x32"):
        load_cifar("cifar10", tree)
    assert not cache_of(tree).exists()


def test_unreadable_pngs_are_an_error_that_names_them(tree):
    folder = tree / "cifar10" / "test" / CLASSES[7]
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    (folder / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError) as raised:
        load_cifar("cifar10", tree)
    message = str(raised.value)
    assert all(str(folder / f"{i}.png") in message for i in range(3))
    assert "and 1 more" in message
    assert not cache_of(tree).exists()


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def white_png():
    """Returns a PNG file whose data are in two chunks, as in large files."""
    data = zlib.compress((b"\0" + b"\xff" * 32 * 3) * 32)
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data[:10]), (b"IDAT", data[10:]), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def test_a_damaged_png_is_refused_by_its_name_or_gives_its_whole_picture(tmp_path):
    """One byte is changed anywhere, or the file is cut off anywhere."""
    path, whole, refused = tmp_path / "0.png", white_png(), []
    flipped = [whole[:i] + bytes([byte ^ 0x41]) + whole[i + 1 :] for i, byte in enumerate(whole)]
    for content in (whole, *flipped, *(whole[:i] for i in range(len(whole)))):
        path.write_bytes(content)
        found = read_pixels(str(path), lambda image: exactly(image, 32))
        if isinstance(found, str):
            assert found.startswith(f"{path}: ")
            refused.append(content)
        else:
            assert (found == 255).all()
    assert len(refused) > 100 and whole not in refused


def test_images_keep_their_order_whichever_thread_decodes_first(tree, monkeypatch):
    expected = load_cifar("cifar10", tree)
    cache_of(tree).unlink()
    read = datasets.files.decode.read_pixels
    delays = iter(np.random.default_rng(0).uniform(0, 2e-3, 60).tolist())

    def read_slowly(path, **kwargs):
        time.sleep(next(delays))
        return read(path, **kwargs)

    monkeypatch.setattr(datasets.files.decode, "read_pixels", read_slowly)
    monkeypatch.setattr(datasets.files.decode, "usable_cores", lambda: 4)
    assert_same(load_cifar("cifar10", tree), expected)
