"""CIFAR from torchvision's official files: reading, downloading, and the published sizes."""

import fcntl
import hashlib
import io
import socket
import tarfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from datasets import load_data, long_tail_counts
from datasets.png_tree import file_names
from datasets.sources.cifar import LOCK, is_here, load_cifar, official_sets
from main import main
from tests.support.helpers import REPOSITORY
from tests.support.image_data import CLASSES, SOURCES, assert_same, expected_of, write_official
from tests.support.pictures import options, save
from utils.errors import RunError, UserError


@pytest.fixture
def no_network(monkeypatch):
    """Makes every attempt to open an address fail; gives the time-outs that were set meanwhile."""
    timeouts = []

    def refuse(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return timeouts


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


def write_archive(path, monkeypatch):
    """Writes a small archive of CIFAR-10, and makes torchvision expect its checksum. Returns the
    contents of its files."""
    source, unpacked = SOURCES["cifar10"], path.parent / "unpacked"
    contents = write_official("cifar10", unpacked, monkeypatch)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(unpacked / source.base_folder, source.base_folder)
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return contents


def test_the_archive_alone_is_enough(tmp_path, monkeypatch, no_network):
    root = tmp_path / "data"
    root.mkdir()
    contents = write_archive(root / SOURCES["cifar10"].filename, monkeypatch)
    # With a PNG tree beside it, too: the official file comes first.
    (root / "cifar10" / "train").mkdir(parents=True)
    balanced = load_cifar("cifar10", root)
    images, labels = expected_of(contents, ["test_batch"])
    np.testing.assert_array_equal(balanced.test.images, images)
    np.testing.assert_array_equal(balanced.test.labels, labels)
    assert no_network == []


class Response(io.BytesIO):
    """What a server sends, as urllib gives it."""

    url, length = None, 0


def test_missing_files_are_downloaded_and_read(tmp_path, monkeypatch):
    contents = write_archive(tmp_path / "served.tar.gz", monkeypatch)
    source, asked = SOURCES["cifar10"], []

    def urlopen(request):
        asked.append(request.full_url)
        return Response((tmp_path / "served.tar.gz").read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    balanced = load_cifar("cifar10", tmp_path / "data")
    assert set(asked) == {source.url} and (tmp_path / "data" / source.filename).is_file()
    images, labels = expected_of(contents, ["test_batch"])
    np.testing.assert_array_equal(balanced.test.images, images)
    np.testing.assert_array_equal(balanced.test.labels, labels)


class Interrupted(Response):
    """A page of a proxy, after which the user stops the program."""

    def read(self, size=-1):
        if not (part := super().read(size)):
            raise KeyboardInterrupt
        return part


@pytest.mark.parametrize(
    ("page", "error"), [(Response, UserError), (Interrupted, KeyboardInterrupt)]
)
def test_a_false_archive_is_not_left(page, error, tmp_path, monkeypatch):
    """It would be taken for the data for ever, also beside PNG files."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda request: page(b"<html>"))
    with pytest.raises(error):
        load_cifar("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_was_there_is_not_deleted(tmp_path, no_network):
    archive = tmp_path / SOURCES["cifar10"].filename
    archive.write_bytes(b"half")
    with pytest.raises(UserError, match="download failed"):
        load_cifar("cifar10", tmp_path)
    assert archive.read_bytes() == b"half"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_root_may_be_the_unpacked_folder_itself(name, tmp_path, monkeypatch, no_network):
    contents = write_official(name, tmp_path, monkeypatch)
    root = tmp_path / SOURCES[name].base_folder
    assert is_here(name, root) and not is_here(name, tmp_path / "elsewhere")
    assert_same(load_cifar(name, root), load_cifar(name, tmp_path))
    names = list(file_names(official_sets(name, root)["test"]))
    assert names == contents[SOURCES[name].test_list[0][0]]["filenames"]
    assert no_network == []


def test_a_job_waits_while_another_downloads_and_takes_its_files(tmp_path, monkeypatch, no_network):
    with ThreadPoolExecutor(1) as other:
        with open(tmp_path / LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            loading = other.submit(load_cifar, "cifar10", tmp_path)
            with pytest.raises(TimeoutError):
                loading.result(timeout=0.5)
            contents = write_official("cifar10", tmp_path, monkeypatch)
        images, _ = expected_of(contents, ["test_batch"])
        np.testing.assert_array_equal(loading.result(timeout=30).test.images, images)
    assert no_network == [] and not (tmp_path / LOCK).exists()


def test_a_job_that_stops_waiting_leaves_the_lock_of_the_other(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / LOCK).touch()
    monkeypatch.setattr(fcntl, "flock", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_cifar("cifar10", tmp_path)
    assert (tmp_path / LOCK).exists()


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path, monkeypatch, no_network):
    taken, flock = [], fcntl.flock

    def flock_behind_another(file, how):
        flock(file, how)
        taken.append(file)
        if len(taken) == 1:  # the job that had the lock ends
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", flock_behind_another)
    with pytest.raises(UserError, match="download failed"):
        load_cifar("cifar10", tmp_path)
    assert len(taken) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("was_there", [True, False], ids=["was there", "downloaded"])
def test_an_archive_that_cannot_be_unpacked_in_its_folder_is_kept_and_not_called_missing(
    was_there, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    root = tmp_path / "data"
    root.mkdir()
    archive = root / SOURCES["cifar10"].filename
    write_archive(archive, monkeypatch)
    content = archive.read_bytes()
    if not was_there:
        archive.unlink()
    monkeypatch.setattr(urllib.request, "urlopen", lambda request: Response(content))
    monkeypatch.setattr(tarfile.TarFile, "extractall", refuse)
    with pytest.raises(UserError, match=r"cannot be unpacked .*Permission denied.*tar -xf"):
        load_cifar("cifar10", root)
    assert archive.read_bytes() == content


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


def test_official_files_beyond_memory_are_no_failed_download(tmp_path, monkeypatch):
    def read(*_, **__):
        raise MemoryError

    monkeypatch.setattr("torchvision.datasets.CIFAR10.__init__", read)
    with pytest.raises(RunError, match=f"--data_root {tmp_path}: the images do not fit"):
        load_data(options("--dataset", "cifar10", "--data_root", tmp_path))


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


def test_the_container_changes_neither_subset_nor_fingerprint(tmp_path, monkeypatch):
    """The same images in the same order are official files once and PNG files once."""
    in_order = {f"data_batch_{b + 1}": [2 * b] * 5 + [2 * b + 1] * 5 for b in range(5)}
    in_order["test_batch"] = list(range(10))
    contents = write_official("cifar10", tmp_path / "official", monkeypatch, in_order)
    batches = {"train": list(in_order)[:5], "test": ["test_batch"]}
    for split, files in batches.items():
        images, labels = expected_of(contents, files)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "png" / "cifar10" / split / CLASSES[label] / f"{i:02}.png"
            save(path, np.ascontiguousarray(image.transpose(1, 2, 0)))

    def load(container, *flags):
        flags = ("--dataset", "cifar10", "--imb_factor", 0.2, *flags)
        return load_data(options(*flags, "--data_root", tmp_path / container))

    official, png = load("official"), load("png")
    assert official.fingerprint == png.fingerprint
    assert torch.equal(official.heldout.images, png.heldout.images)
    assert torch.equal(official.test.images, png.test.images)
    assert load("png", "--rand_number", 1).fingerprint != png.fingerprint


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
