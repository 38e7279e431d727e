"""Images that stay in their files: what their batches are, and what they do not depend on."""

import gc
import os
import signal
import sys
from mmap import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from datasets.files.images import fit
from datasets.files.trees import FileList
from datasets.loading.augmentation import cut_squares, draw_squares
from datasets.loading.loader import Normalise
from datasets.loading.make import make_loader
from datasets.loading.reader import ImageReader, augmented, check_shared_memory, to_tensor
from datasets.loading.streamed import StreamedLoader
from datasets.normalisation import Normalisation
from datasets.samplers import ClassAwareOrder, ShuffledOrder
from datasets.sources.from_files import streams
from datasets.splits import Split, StreamedSplit
from tests.support.helpers import call
from tests.support.streamed_sets import write_imagenet_lt, write_jpeg
from utils.errors import Interrupted, RunError, UserError
from utils.machine.processes import ALONE, VARIABLES, World
from utils.machine.signals import DEFERRED, deferred
from utils.options.parse import parse_options

LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i, label in enumerate(LABELS):
        write_jpeg(root / f"{i}.jpg", label, seed=i)
    return root


@pytest.fixture(scope="module")
def two_workers():
    return ImageReader(2)


def split_of(folder, side=64, reader=None):
    names = [f"{i}.jpg" for i in range(len(LABELS))]
    return StreamedSplit(FileList(folder, names, LABELS), side, reader or ImageReader(0))


def generator_of(seed=5):
    return torch.Generator().manual_seed(seed)


def unchanged(device="cpu"):
    """Returns a normalisation that keeps the values 0 to 255."""
    return Normalise(Normalisation((0.0,) * 3, (1 / 255,) * 3), torch.device(device))


def epoch_of(loader):
    return [(images.clone(), targets) for images, targets in loader]


def loader_of(split, augment="none", order=None, seed=5):
    generator = generator_of(seed)
    order = None if order is None else order(generator)
    return StreamedLoader(split, unchanged(), 4, order, augment, generator)


def assert_same_batches(one, other):
    for (images, targets), (expected, expected_targets) in zip(one, other, strict=True):
        assert torch.equal(images, expected) and torch.equal(targets, expected_targets)


@pytest.mark.parametrize("side", [32, 64])
def test_without_augmentation_batches_are_the_fitted_images_in_order(folder, side):
    loader = loader_of(split_of(folder, side))
    batches = epoch_of(loader)
    assert [len(targets) for _, targets in batches] == [4, 4, 3] and len(loader) == 3
    assert torch.cat([targets for _, targets in batches]).tolist() == LABELS
    images = torch.cat([images for images, _ in batches])
    for i, image in enumerate(images):
        with Image.open(folder / f"{i}.jpg") as original:
            expected = torch.from_numpy(np.array(fit(original, side))).permute(2, 0, 1)
        torch.testing.assert_close(image, expected.float(), rtol=1e-6, atol=1e-4)


def test_batches_are_normalised_float32_channels_last_on_the_device(folder, device):
    split = split_of(folder)
    normalise = Normalise(Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), device)
    for images, targets in make_loader(split, normalise, 4):
        assert images.dtype == torch.float32 and targets.dtype == torch.int64
        assert images.device.type == targets.device.type == device.type
        assert images.is_contiguous(memory_format=torch.channels_last)
    pixels = next(iter(split.read([torch.tensor([10])])))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(images[-1].cpu(), (pixels[0] / 255 - mean) / std)


@pytest.mark.parametrize("task_images", [1, 3, 4])
def test_how_a_batch_is_shared_among_the_workers_changes_nothing(folder, monkeypatch, task_images):
    expected = epoch_of(loader_of(split_of(folder), "crop_flip"))
    monkeypatch.setattr("datasets.loading.streamed.TASK_IMAGES", task_images)
    assert_same_batches(epoch_of(loader_of(split_of(folder), "crop_flip")), expected)


def test_batches_of_another_size_hold_the_same_epoch(folder):
    images = [
        torch.cat([batch for batch, _ in loader_of(split_of(folder), "crop_flip").batches(size)])
        for size in (3, 100)
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("augment", ["none", "crop_flip", "autoaugment"])
def test_the_number_of_workers_changes_nothing(folder, two_workers, augment, side):
    def order(generator):
        return ShuffledOrder(len(LABELS), generator)

    here = loader_of(split_of(folder, side), augment, order)
    there = loader_of(split_of(folder, side, two_workers), augment, order)
    for _ in range(2):
        assert_same_batches(epoch_of(here), epoch_of(there))


def test_several_processes_read_the_images_of_one(folder):
    split = split_of(folder, 32)

    def epoch(world):
        generator = generator_of()
        order = ShuffledOrder(len(LABELS), generator)
        return epoch_of(StreamedLoader(split, unchanged(), 4, order, "crop_flip", generator, world))

    others = [epoch(World(rank, 3)) for rank in range(3)]
    shared = [
        (torch.cat([images for images, _ in parts]), parts[-1][1])
        for parts in zip(*others, strict=True)
    ]
    assert_same_batches(shared, epoch(ALONE))


def test_streamed_images_that_are_too_few_for_a_batch_join_the_one_before(folder):
    loader = make_loader(split_of(folder), unchanged(), 5, smallest_batch=2)
    batches = epoch_of(loader)
    assert [(len(images), len(targets)) for images, targets in batches] == [(5, 5), (6, 6)]
    assert (len(loader), loader.batch_sizes) == (2, [5, 6])
    assert torch.cat([targets for _, targets in batches]).tolist() == LABELS


def test_leaving_an_epoch_early_does_not_change_the_next(folder, two_workers):
    split = split_of(folder, reader=two_workers)
    for _ in loader_of(split):
        break
    assert_same_batches(epoch_of(loader_of(split)), epoch_of(loader_of(split_of(folder))))


def test_augmentation_differs_by_image_and_epoch_and_not_by_run(folder):
    listing = FileList(folder, ["0.jpg"] * 4, [0] * 4)
    split = StreamedSplit(listing, 64, ImageReader(0))
    loader = loader_of(split, "crop_flip")
    (first, _), (second, _) = next(iter(loader)), next(iter(loader))
    distinct = {image.numpy().tobytes() for images in (first, second) for image in images}
    assert len(distinct) == 8
    assert torch.equal(next(iter(loader_of(split, "crop_flip")))[0], first)
    assert not torch.equal(next(iter(loader_of(split, "crop_flip", seed=6)))[0], first)


def test_torchs_global_generator_is_left_alone(folder, two_workers):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for reader in (ImageReader(0), two_workers):
        epoch_of(loader_of(split_of(folder, reader=reader), "autoaugment"))
    assert torch.equal(torch.rand(4), expected)


def test_the_states_of_order_and_generator_continue_an_interrupted_run(folder):
    split = split_of(folder)
    order = ClassAwareOrder(split.labels, 2, generator_of())
    loader = StreamedLoader(split, unchanged(), 4, order, "crop_flip", order.classes.generator)
    epoch_of(loader)
    orders, state = order.state_dict(), order.classes.generator.get_state()
    expected = epoch_of(loader)
    resumed_order = ClassAwareOrder(split.labels, 2, generator_of(99))
    generator = resumed_order.classes.generator
    resumed = StreamedLoader(split, unchanged(), 4, resumed_order, "crop_flip", generator)
    resumed_order.load_state_dict(orders)
    generator.set_state(state)
    assert_same_batches(epoch_of(resumed), expected)


def test_class_aware_batches_are_those_of_a_resident_set(folder):
    split = split_of(folder, 32)
    resident = Split(torch.cat(list(split.pixels())), split.labels)
    epochs = []
    for each in (split, resident):
        order = ClassAwareOrder(split.labels, 2, generator_of())
        epochs.append(epoch_of(make_loader(each, unchanged(), 4, order=order)))
    assert_same_batches(*epochs)
    counts = torch.bincount(torch.cat([targets for _, targets in epochs[0]]))
    assert counts.sum() == 15 and counts.max() - counts.min() <= 2


def picture(seed=0, size=(90, 70)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def seeded(transform, image, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.from_numpy(np.array(transform(image))).permute(2, 0, 1)


@pytest.mark.parametrize("augment", ["crop_flip", "autoaugment"])
def test_large_images_are_augmented_by_the_recipe_of_imagenet_lt(augment):
    last = {
        "crop_flip": transforms.ColorJitter(0.4, 0.4, 0.4),
        "autoaugment": transforms.AutoAugment(transforms.AutoAugmentPolicy.IMAGENET),
    }
    recipe = transforms.Compose(
        [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), last[augment]]
    )
    for seed in range(10):
        expected = seeded(recipe, picture(seed), seed)
        assert torch.equal(augmented(picture(seed), 64, augment, seed), expected)


def test_small_images_are_padded_by_4_cropped_and_flipped():
    image = picture(size=(32, 32))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    crops = {}
    for flip in (0, 1):
        for y in range(9):
            for x in range(9):
                crop = padded[:, y : y + 32, x : x + 32]
                crops[(crop.flip(-1) if flip else crop).numpy().tobytes()] = flip, y, x
    drawn = [
        crops[augmented(image, 32, "crop_flip", seed).numpy().tobytes()] for seed in range(300)
    ]
    flips, rows, columns = zip(*drawn, strict=True)
    assert 100 < sum(flips) < 200
    assert set(rows) == set(columns) == set(range(9))


def test_small_images_have_the_policy_of_cifar_with_grey_and_then_a_square_is_cut_out():
    def cut_out(image):
        pixels = to_tensor(image)
        cut_squares(pixels.unsqueeze(0), draw_squares(1, 32, 32, torch.default_generator))
        return pixels.permute(1, 2, 0).numpy()

    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[128] * 3)
    crop_flip = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    recipe = transforms.Compose([*crop_flip, policy, cut_out])
    for seed in range(40):
        image = picture(seed, size=(32, 32))
        expected = seeded(recipe, image, seed)
        assert torch.equal(augmented(image, 32, "autoaugment", seed), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_cannot_be_read_are_named(folder, tmp_path, workers):
    for i in range(6):
        whole = (folder / f"{i}.jpg").read_bytes()
        (tmp_path / f"{i}.jpg").write_bytes(whole[:300] if i < 5 else whole)
    names = [f"{i}.jpg" for i in range(6)]
    split = StreamedSplit(FileList(tmp_path, names, [0] * 6), 64, ImageReader(workers))
    with pytest.raises(UserError) as raised:
        epoch_of(StreamedLoader(split, unchanged(), 6))
    message = str(raised.value)
    assert message.startswith("unreadable images: ") and message.endswith("and 2 more")
    assert all(f"{tmp_path}/{i}.jpg: " in message for i in range(3))
    assert not raised.value.is_shared  # so that each of several processes reports its own


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "allocate",
    [lambda _: bytearray(2**62), lambda _: np.empty(2**62, np.uint8), lambda _: mmap(-1, 2**62)],
)
def test_images_beyond_memory_are_not_called_unreadable(folder, workers, allocate, monkeypatch):
    monkeypatch.setattr("datasets.loading.reader.to_rgb", allocate)
    said = "out of memory while images were read" + workers * r": use fewer workers \(-j\)"
    with pytest.raises(RunError, match=f"^{said}$"):
        epoch_of(loader_of(split_of(folder, reader=ImageReader(workers))))


def workers_of(reader):
    return reader._loaders[0]._iterator._workers


def killing_a_worker(folder):
    reader = ImageReader(2)
    batches = iter(loader_of(split_of(folder, reader=reader)))
    next(batches)
    for worker in workers_of(reader):
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    list(batches)
    epoch_of(loader_of(split_of(folder, reader=reader)))


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_have_what_this_process_imported(two_workers):
    assert {worker._start_method for worker in workers_of(two_workers)} == {"fork"}


def test_a_worker_that_dies_fails_the_run(folder):
    with pytest.raises(RunError, match="workers that read images failed"):
        killing_a_worker(folder)


def test_a_signal_that_ended_the_workers_too_interrupts_the_run(folder, monkeypatch):
    monkeypatch.setattr("utils.machine.signals._received", [signal.SIGTERM])
    with pytest.raises(Interrupted):
        killing_a_worker(folder)


def test_a_worker_that_dies_in_one_process_makes_it_ask_the_others_nothing(folder):
    """They are in their step, and would never answer."""

    def ask(number):
        raise AssertionError

    with deferred(ask), pytest.raises(RunError, match="workers that read images failed"):
        killing_a_worker(folder)


def test_workers_outlive_the_signals_that_the_run_defers(folder):
    reader = ImageReader(1)
    split = split_of(folder, reader=reader)
    expected = epoch_of(loader_of(split))
    [worker] = workers_of(reader)
    for number in DEFERRED:
        os.kill(worker.pid, number)
    assert_same_batches(epoch_of(loader_of(split)), expected)
    assert workers_of(reader) == [worker]


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_workers_end_at_once_with_their_reader(folder, in_a_cycle):
    reader = ImageReader(2)
    epoch_of(loader_of(split_of(folder, reader=reader)))
    workers = workers_of(reader)
    assert all(worker.is_alive() for worker in workers)
    if in_a_cycle:
        reader.itself = reader
    del reader
    gc.collect()
    # A worker that does not hear the end would still be there, or be killed.
    assert {worker.exitcode for worker in workers} == {0}


def test_no_more_workers_start_than_there_are_cores(monkeypatch):
    monkeypatch.setattr("datasets.loading.reader.usable_cores", lambda: 2)
    assert [ImageReader(workers).workers for workers in (1, 1000)] == [1, 2]


def test_the_processes_of_a_run_on_one_machine_share_its_cores_and_its_memory(monkeypatch):
    variables = dict(zip(VARIABLES, ("1", "8", "1", "here", "29500"), strict=True))
    for name, text in (variables | {"LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=2048, f_frsize=4096))
    for cores, workers in ((2, 1), (8, 2)):
        monkeypatch.setattr("datasets.loading.reader.usable_cores", lambda cores=cores: cores)
        assert [ImageReader(flag).workers for flag in (0, 20)] == [0, workers]
    # 4 processes with 2 workers each, 2 tasks each, 64 images of 3 x 64 x 64 bytes.
    with pytest.raises(RunError, match=r"8\.0 MiB free, and 8 workers .* need 12\.0 MiB"):
        check_shared_memory(20, 64)


@pytest.mark.parametrize(
    ("flags", "images", "expected"),
    [
        (("--image_size", "64"), 1, True),
        (("--image_size", "63"), 1, False),
        (("--image_size", "224", "--stream", "False"), 1, False),
        (("--image_size", "32", "--stream", "True"), 1, True),
        (("--image_size", "32"), 81, False),
        (("--image_size", "32"), 82, True),
        (("--arch", "resnet10"), 1, True),
    ],
)
def test_large_images_stream_and_small_ones_beyond_a_quarter_of_the_memory(
    monkeypatch, flags, images, expected
):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=1_000_000))
    assert streams(parse_options(["--dataset", "folder", *flags]), images) is expected


def test_too_little_shared_memory_is_told_before_training(tmp_path, monkeypatch):
    class Small:
        f_bavail, f_frsize = 2048, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Small)
    monkeypatch.setattr("datasets.loading.reader.usable_cores", lambda: 4)
    check_shared_memory(0, 1024)
    check_shared_memory(20, 32)
    # 4 workers, 2 tasks each, 64 images of 3 x 224 x 224 bytes.
    with pytest.raises(RunError, match=r"8\.0 MiB free.* need 73\.5 MiB"):
        check_shared_memory(20, 224)
    data, root = write_imagenet_lt(tmp_path / "own", classes=2), tmp_path / "root"
    argv = ["--dataset", "imagenet_lt", "--data_root", data, "--stream", "True", "-j", 20]
    argv += ["--image_size", 224, "--epochs", 0, "--root_log", root, "--root_model", root]
    outcome = call(argv)
    assert outcome.status == 1 and len(outcome.errors) == 1 and "need 73.5 MiB" in outcome.err
    assert not root.exists()


def test_a_system_without_statvfs_has_enough_shared_memory(monkeypatch):
    """Windows has none."""
    monkeypatch.delattr(os, "statvfs")
    check_shared_memory(20, 224)
