"""Where images come from: digits, CIFAR's official files and PNG trees, and the held-out images."""

import hashlib
import os
import pickle
import re
import socket
import struct
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import datasets.cifar
import datasets.image_files
from datasets import load_data, long_tail_counts, make_long_tailed
from datasets.cifar import load_cifar
from datasets.digits import load_digits
from datasets.splits import BalancedData, LongTailedData, Split
from main import main
from utils.command_line import parse_options
from utils.errors import UserError

REPOSITORY = Path(__file__).parents[1]
SOURCES = {
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
}
CLASSES = [f"class_{k}" for k in range(10)]


def options(*flags):
    return parse_options([str(flag) for flag in flags])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(split):
    """uint8 [N, H, W, 3], as files hold them."""
    return split.images.permute(0, 2, 3, 1).numpy()


def splits_of(balanced):
    return balanced.train, balanced.test


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to open an address fails; the time-outs that were set meanwhile."""
    timeouts = []

    def refuse(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return timeouts


# -------- digits --------


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_digits_are_1797_images_of_32x32_in_three_equal_channels(digits):
    assert (len(digits.train), len(digits.test)) == (1797 - 600, 600)
    assert digits.class_names == [str(digit) for digit in range(10)]
    for split in (digits.train, digits.test):
        assert split.images.shape == (len(split), 3, 32, 32)
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert torch.equal(split.images, split.images[:, :1].expand(-1, 3, -1, -1))


def test_the_test_split_of_digits_has_60_images_of_each_class(digits):
    assert torch.bincount(digits.test.labels).tolist() == [60] * 10


def test_digits_are_scikit_learns_each_used_once_with_its_label(digits):
    from sklearn.datasets import load_digits as originals

    source = originals()
    # Pillow's bilinear enlargement of floats is an independent one.
    expected = np.stack(
        [
            np.asarray(
                Image.fromarray((image * 255 / 16).astype(np.float32)).resize(
                    (32, 32), Image.Resampling.BILINEAR
                )
            ).ravel()
            for image in source.images
        ]
    ).astype(np.float64)
    found = np.concatenate([pixels_of(s)[..., 0].reshape(len(s), -1) for s in splits_of(digits)])
    labels = np.concatenate([split.labels.numpy() for split in splits_of(digits)])
    found = found.astype(np.float64)
    distances = (expected**2).sum(axis=1) - 2 * found @ expected.T
    origin = distances.argmin(axis=1)
    assert sorted(origin) == list(range(1797))  # so train and test share no image
    np.testing.assert_array_equal(labels, source.target[origin])
    assert np.abs(found - expected[origin]).max() <= 0.5 + 1e-4


def test_the_split_of_digits_is_fixed(digits):
    np.random.seed(5)
    torch.manual_seed(5)
    expected_next = np.random.RandomState(5).random()
    again = load_digits()
    assert np.random.random() == expected_next
    for split, same in zip(splits_of(digits), splits_of(again), strict=True):
        assert torch.equal(split.images, same.images) and torch.equal(split.labels, same.labels)
    for rand_number in (0, 1):
        data = load_data(options("--dataset", "digits", "--rand_number", rand_number))
        assert torch.equal(data.test.images, digits.test.images)
    # A change of the split would make results incomparable with those of before.
    assert digits.test.labels[:20].tolist() == first_test_labels_of_digits()


def first_test_labels_of_digits():
    """Of a shuffle by seed 0, the first 60 of each class, in shuffled order."""
    from sklearn.datasets import load_digits as originals

    target, seen, chosen = originals().target, [0] * 10, []
    for label in target[np.random.RandomState(0).permutation(1797)]:
        seen[label] += 1
        if seen[label] <= 60:
            chosen.append(int(label))
    return chosen[:20]


@pytest.mark.parametrize("factor", [0.05, 0.1, 1.0])
def test_digits_are_long_tailed_with_each_class_capped_by_what_it_has(digits, factor):
    data = load_data(options("--dataset", "digits", "--imb_factor", factor))
    sizes = torch.bincount(digits.train.labels).tolist()
    wanted = long_tail_counts(10, max(sizes), "exp", factor)
    assert data.class_counts == [min(*pair) for pair in zip(wanted, sizes, strict=True)]
    assert (data.name, data.num_classes, data.heldout) == ("digits", 10, None)
    assert torch.bincount(data.train.labels).tolist() == data.class_counts


def test_a_factor_that_leaves_a_class_empty_is_an_error():
    with pytest.raises(UserError, match=r"--imb_factor 0\.005 leaves class \d without images"):
        load_data(options("--dataset", "digits", "--imb_factor", 0.005))


def test_digits_have_no_held_out_images_of_their_own():
    with pytest.raises(UserError, match=r"--select_on heldout.*--heldout_fraction"):
        load_data(options("--dataset", "digits", "--select_on", "heldout"))


# -------- held-out images --------


def numbered(num_classes=10, per_class=60, seed=0):
    """Balanced data in mixed order, whose images hold their own number."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), per_class))
    n = len(labels)
    numbers = torch.arange(2 * n)
    images = torch.stack([numbers % 251, numbers // 251, torch.zeros_like(numbers)], dim=1)
    images = images.to(torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()
    labels = torch.from_numpy(labels)
    names = [f"class_{k}" for k in range(num_classes)]
    return BalancedData(Split(images[:n], labels), Split(images[n:], labels), names)


def numbers_of(split):
    values = split.images[:, :, 0, 0].long()
    return values[:, 0] + 251 * values[:, 1]


def test_images_that_the_subset_leaves_out_are_held_out_at_most_20_per_class():
    balanced = numbered()
    chosen = options("--dataset", "cifar10", "--imb_factor", 0.1)
    data = make_long_tailed(chosen, balanced)
    assert data.class_counts == long_tail_counts(10, 60, "exp", 0.1)
    assert data.class_counts[0] == 60 and 40 < data.class_counts[1] < 60
    expected = [min(20, 60 - count) for count in data.class_counts]
    assert torch.bincount(data.heldout.labels, minlength=10).tolist() == expected
    assert not set(numbers_of(data.train).tolist()) & set(numbers_of(data.heldout).tolist())
    for split in (data.train, data.heldout):
        numbers = numbers_of(split)
        assert len(set(numbers.tolist())) == len(numbers)
        assert torch.equal(balanced.train.labels[numbers], split.labels)
    assert torch.equal(data.test.images, balanced.test.images)


def test_held_out_images_are_drawn_with_rand_number():
    balanced = numbered()

    def held_out(*flags):
        data = make_long_tailed(
            options("--dataset", "cifar10", "--imb_factor", 0.1, *flags), balanced
        )
        return numbers_of(data.heldout).tolist()

    assert held_out() == held_out("--rand_number", 0) == held_out("--seed", 3)
    assert sorted(held_out("--rand_number", 1)) != sorted(held_out())


def test_step_leaves_half_of_the_classes_without_held_out_images():
    flags = ("--dataset", "cifar10", "--imb_type", "step", "--imb_factor", 0.1)
    data = make_long_tailed(options(*flags), numbered())
    assert torch.bincount(data.heldout.labels, minlength=10).tolist() == [0] * 5 + [20] * 5


@pytest.mark.parametrize("flags", [("--imb_factor", 1), ("--imb_type", "natural")])
def test_nothing_is_held_out_where_nothing_is_left(flags):
    data = make_long_tailed(options("--dataset", "cifar10", *flags), numbered())
    assert data.heldout is None and list(data.evaluation_splits) == ["test"]


@pytest.mark.parametrize("imb_factor", [0.1, 1.0])
def test_a_held_out_fraction_is_disjoint_from_the_subset_and_stratified(digits, imb_factor):
    flags = ("--dataset", "digits", "--imb_factor", imb_factor, "--heldout_fraction", 0.25)
    data = load_data(options(*flags))
    sizes = torch.bincount(digits.train.labels)
    held_out = torch.bincount(data.heldout.labels, minlength=10)
    # A quarter of each class stays back; what remains of it is rounded up.
    assert held_out.tolist() == (sizes // 4).tolist()
    remaining = (sizes - held_out).tolist()
    wanted = long_tail_counts(10, max(remaining), "exp", imb_factor)
    assert data.class_counts == [min(*pair) for pair in zip(wanted, remaining, strict=True)]

    def identities(split):
        return {image.tobytes() for image in split.images.numpy()}

    assert len(identities(data.train)) == len(data.train)
    assert len(identities(data.heldout)) == len(data.heldout)
    assert not identities(data.train) & identities(data.heldout)
    assert not identities(data.test) & (identities(data.train) | identities(data.heldout))
    assert set(data.evaluation_splits) == {"test", "heldout"}


def test_a_held_out_fraction_replaces_the_20_per_class_of_cifar():
    flags = ("--dataset", "cifar10", "--imb_factor", 0.1, "--heldout_fraction", 0.5)
    data = make_long_tailed(options(*flags), numbered())
    assert torch.bincount(data.heldout.labels).tolist() == [30] * 10
    assert data.class_counts == long_tail_counts(10, 30, "exp", 0.1)
    assert not set(numbers_of(data.train).tolist()) & set(numbers_of(data.heldout).tolist())


# -------- the fingerprint --------


def test_the_fingerprint_tells_the_chosen_images_and_their_labels():
    def fingerprint(balanced=None, *flags):
        flags = ("--dataset", "cifar10", "--imb_factor", 0.1, *flags)
        return make_long_tailed(options(*flags), balanced or numbered()).fingerprint

    plain = fingerprint()
    assert fingerprint() == plain == fingerprint(None, "--seed", 9)
    assert fingerprint(None, "--rand_number", 1) != plain
    assert fingerprint(None, "--imb_factor", 0.2) != plain
    balanced = numbered()
    balanced.train.images[balanced.train.labels == 0, 2] += 1
    assert fingerprint(balanced) != plain
    data = make_long_tailed(options("--dataset", "cifar10", "--imb_factor", 0.1), numbered())
    relabelled = Split(data.train.images, data.train.labels.flip(0))
    other = LongTailedData(data.name, relabelled, data.test, None, data.class_names)
    assert other.class_counts == data.class_counts and other.fingerprint != plain


# -------- CIFAR from torchvision's files --------


def arrays(name, labels, seed):
    """What an official file holds: rows of 1024 red, 1024 green and 1024 blue values."""
    key = "labels" if name == "cifar10" else "fine_labels"
    return {"data": noise(len(labels), 3072, seed=seed), key: [int(label) for label in labels]}


def write_official(name, root, monkeypatch, labels=None):
    """Small files in the official layout, whose checksums torchvision is made to expect."""
    source = SOURCES[name]
    num_classes = datasets.cifar.NUM_CLASSES[name]
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    names = [f"name_{k}" for k in range(num_classes)]
    contents = {source.meta["filename"]: {source.meta["key"]: names}}
    rng = np.random.default_rng(1)
    for seed, (file, _) in enumerate(source.train_list + source.test_list):
        chosen = rng.permutation(num_classes) if labels is None else labels[file]
        contents[file] = arrays(name, chosen, seed)
    sums = {}
    for file, content in contents.items():
        written = pickle.dumps(content)
        (folder / file).write_bytes(written)
        sums[file] = hashlib.md5(written).hexdigest()
    for which in ("train_list", "test_list"):
        files = [[file, sums[file]] for file, _ in getattr(source, which)]
        monkeypatch.setattr(source, which, files)
    meta = source.meta["filename"]
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums[meta]})
    return contents


def expected_of(contents, files):
    data = np.concatenate([contents[file]["data"] for file in files])
    labels = [contents[file].get("labels") or contents[file].get("fine_labels") for file in files]
    return data.reshape(-1, 3, 32, 32), np.concatenate(labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_official_files_give_images_and_labels_in_file_order(
    name, tmp_path, monkeypatch, no_network
):
    contents = write_official(name, tmp_path, monkeypatch)
    balanced = load_cifar(name, tmp_path)
    source = SOURCES[name]
    for split, files in ((balanced.train, source.train_list), (balanced.test, source.test_list)):
        images, labels = expected_of(contents, [file for file, _ in files])
        assert split.images.dtype == torch.uint8 and split.images.is_contiguous()
        np.testing.assert_array_equal(split.images, images)
        assert split.labels.dtype == torch.int64
        np.testing.assert_array_equal(split.labels, labels)
    assert balanced.class_names == contents[source.meta["filename"]][source.meta["key"]]
    assert no_network == []


def test_the_archive_alone_is_enough(tmp_path, monkeypatch, no_network):
    contents = write_official("cifar10", tmp_path / "unpacked", monkeypatch)
    source, root = SOURCES["cifar10"], tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / source.filename, "w:gz") as archive:
        archive.add(tmp_path / "unpacked" / source.base_folder, source.base_folder)
    md5 = hashlib.md5((root / source.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(source, "tgz_md5", md5)
    # With a PNG tree beside it, too: the official file comes first.
    (root / "cifar10" / "train").mkdir(parents=True)
    balanced = load_cifar("cifar10", root)
    images, labels = expected_of(contents, ["test_batch"])
    np.testing.assert_array_equal(balanced.test.images, images)
    np.testing.assert_array_equal(balanced.test.labels, labels)
    assert no_network == []


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_a_damaged_or_missing_file_without_network_names_the_archive_and_its_place(
    name, fault, tmp_path, monkeypatch, no_network
):
    write_official(name, tmp_path, monkeypatch)
    source = SOURCES[name]
    path = tmp_path / source.base_folder / source.train_list[0][0]
    if fault == "damaged":
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(UserError) as raised:
        load_cifar(name, tmp_path)
    message = str(raised.value)
    for part in (name, source.filename, source.tgz_md5, source.url, str(tmp_path), "no route"):
        assert part in message
    assert f"{tmp_path / name}/{{train,test}}/<class>/" in message
    if fault == "damaged":
        assert path.read_bytes() == content


@pytest.mark.parametrize("before", [None, 123.0])
def test_the_connect_time_out_is_seconds_and_restored_after_the_download(
    before, tmp_path, no_network
):
    original = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before)
    try:
        with pytest.raises(UserError):
            load_cifar("cifar10", tmp_path)
        after = socket.getdefaulttimeout()
    finally:
        socket.setdefaulttimeout(original)
    assert after == before
    assert no_network and all(seconds is not None and 1 <= seconds <= 60 for seconds in no_network)


def test_a_failed_download_is_bad_input_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, no_network
):
    monkeypatch.chdir(tmp_path)
    command = f"--dataset cifar10 --data_root {tmp_path}/data --epochs 1 --seed 0"
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "warning" not in line]
    assert len(errors) == 1 and errors[0].startswith("main.py: error: ")
    assert "cifar-10-python.tar.gz" in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_selection_on_held_out_images_needs_some(tmp_path, monkeypatch):
    write_official("cifar10", tmp_path, monkeypatch)
    flags = ("--dataset", "cifar10", "--data_root", tmp_path, "--select_on", "heldout")
    with pytest.raises(UserError, match="--select_on heldout"):
        load_data(options(*flags, "--imb_factor", 1))
    data = load_data(options(*flags, "--imb_factor", 0.2))
    # Five batches with each class once; class 0 keeps all five images.
    assert data.class_counts[0] == 5 and data.class_counts[-1] == 1
    expected = [5 - count for count in data.class_counts]
    assert torch.bincount(data.heldout.labels, minlength=10).tolist() == expected


# -------- PNG trees --------


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_tree(root, name="cifar10", classes=CLASSES, per_class=3):
    """A tree of noise; {split: [(class, file, pixels)]} in sorted order."""
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
            write_png(root / name / split / cls / file, pixels)
        files[split] = sorted(written, key=lambda entry: entry[:2])
    return files


def cache_of(root, name="cifar10"):
    return root / name / "decoded.npz"


def forbid_decoding(monkeypatch):
    def decode(*args, **kwargs):
        raise AssertionError(f"decoded {args}")

    monkeypatch.setattr(datasets.image_files, "read_pixels", decode)


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path)
    return tmp_path


def assert_same(balanced, other):
    for split, expected in zip(splits_of(balanced), splits_of(other), strict=True):
        assert torch.equal(split.images, expected.images)
        assert torch.equal(split.labels, expected.labels)
    assert balanced.class_names == other.class_names


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
        "decoded.npz",
        "test",
        "train",
    ]
    forbid_decoding(monkeypatch)
    assert_same(load_cifar("cifar10", tree), first)


def change(tree, how):
    path = tree / "cifar10" / "train" / CLASSES[4] / "1.png"
    if how == "content":
        write_png(path, noise(32, 32, 3, seed=99))
    elif how == "added":
        write_png(path.with_name("10.png"), noise(32, 32, 3, seed=99))
    elif how == "removed":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_name("9.png"))
    elif how == "of the test split":
        write_png(tree / "cifar10" / "test" / CLASSES[4] / "1.png", noise(32, 32, 3, seed=99))
    elif how == "moved to another class":
        path.rename(path.parents[1] / CLASSES[5] / "7.png")


@pytest.mark.parametrize(
    "how",
    ["content", "added", "removed", "renamed", "of the test split", "moved to another class"],
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


def test_the_cache_is_skipped_where_the_folder_is_read_only(tree, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    balanced = load_cifar("cifar10", tree)
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
    write_png(path, noise(28, 33, 3))
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


def black_png():
    """Its data in two chunks, as large files have them."""
    data = zlib.compress(bytes(32 * (1 + 32 * 3)))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data[:10]), (b"IDAT", data[10:]), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def test_whatever_is_wrong_with_a_png_is_an_error_that_names_it(tree):
    """One byte changed anywhere, or the file cut off anywhere."""
    folder = tree / "cifar10" / "train" / CLASSES[0]
    whole = black_png()
    (folder / "0.png").write_bytes(whole)
    assert not pixels_of(load_cifar("cifar10", tree).train)[0].any()
    for i, byte in enumerate(whole):
        damaged = whole[:i] + bytes([byte ^ 0x41]) + whole[i + 1 :]
        (folder / f"flipped_{i:03}.png").write_bytes(damaged)
        (folder / f"cut_{i:03}.png").write_bytes(whole[:i])
    with pytest.raises(UserError, match=r"unreadable images: .*cut_000"):
        load_cifar("cifar10", tree)


def test_the_container_changes_neither_subset_nor_fingerprint(tmp_path, monkeypatch):
    """The same images in the same order, once as official files, once as PNGs."""
    in_order = {f"data_batch_{b + 1}": [2 * b] * 5 + [2 * b + 1] * 5 for b in range(5)}
    in_order["test_batch"] = list(range(10))
    contents = write_official("cifar10", tmp_path / "official", monkeypatch, in_order)
    batches = {"train": list(in_order)[:5], "test": ["test_batch"]}
    for split, files in batches.items():
        images, labels = expected_of(contents, files)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "png" / "cifar10" / split / CLASSES[label] / f"{i:02}.png"
            write_png(path, np.ascontiguousarray(image.transpose(1, 2, 0)))

    def load(container, *flags):
        flags = ("--dataset", "cifar10", "--imb_factor", 0.2, *flags)
        return load_data(options(*flags, "--data_root", tmp_path / container))

    official, png = load("official"), load("png")
    assert official.fingerprint == png.fingerprint
    assert torch.equal(official.heldout.images, png.heldout.images)
    assert torch.equal(official.test.images, png.test.images)
    assert load("png", "--rand_number", 1).fingerprint != png.fingerprint


def test_images_keep_their_order_whichever_thread_decodes_first(tree, monkeypatch):
    expected = load_cifar("cifar10", tree)
    cache_of(tree).unlink()
    read = datasets.image_files.read_pixels
    delays = iter(np.random.default_rng(0).uniform(0, 2e-3, 60).tolist())

    def read_slowly(path, **kwargs):
        time.sleep(next(delays))
        return read(path, **kwargs)

    monkeypatch.setattr(datasets.image_files, "read_pixels", read_slowly)
    assert_same(load_cifar("cifar10", tree), expected)


# -------- the real CIFAR-100 --------


@pytest.fixture(scope="module")
def real_cifar100():
    root = REPOSITORY / "data"
    if not (root / "cifar100" / "train").is_dir():
        pytest.skip(f"no PNG files of CIFAR-100 in {root / 'cifar100'}")
    return load_data(options("--dataset", "cifar100", "--data_root", root))


def test_the_long_tailed_cifar100_has_the_published_sizes(real_cifar100):
    data = real_cifar100
    assert (len(data.train), len(data.test), len(data.heldout)) == (10_847, 10_000, 1_980)
    assert data.class_counts == long_tail_counts(100, 500, "exp", 0.01)
    assert (data.class_counts[0], data.class_counts[-1]) == (500, 5)
    assert torch.bincount(data.test.labels).tolist() == [100] * 100
    assert torch.bincount(data.heldout.labels, minlength=100).tolist() == [0] + [20] * 99
    assert data.class_names == sorted(data.class_names) and data.num_classes == 100


def a_split(labels, images=None):
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8) if images is None else images
    return Split(images, torch.tensor(labels))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: a_split([0], torch.zeros(1, 3, 4, 4)), "uint8"),
        (lambda: a_split([0], torch.zeros(1, 1, 4, 4, dtype=torch.uint8)), "[1, 1, 4, 4]"),
        (lambda: a_split([0, 1], torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), "1 images"),
        (lambda: BalancedData(a_split([0, 2]), a_split([0]), ["a", "b"]), "0 to 2"),
        (lambda: BalancedData(a_split([0, 1]), a_split([-1]), ["a", "b"]), "test labels"),
        (lambda: BalancedData(a_split([0, 1]), a_split([]), ["a", "b"]), "no test images"),
        (lambda: BalancedData(a_split([1, 1]), a_split([0]), ["a", "b"]), "training images: a"),
    ],
)
def test_data_that_do_not_fit_together_are_refused(make, says):
    with pytest.raises(UserError, match=re.escape(says)):
        make()
