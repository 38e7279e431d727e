"""How images reach the network: normalised, in batches."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchvision import transforms

import datasets.loading.resident
from datasets.loading.loader import Normalise
from datasets.loading.make import make_loader
from datasets.loading.resident import ResidentLoader
from datasets.normalisation import CIFAR, Normalisation
from datasets.samplers import ClassAwareOrder, EffectiveNumberOrder, Order, ShuffledOrder
from datasets.splits import Split
from tests.support.helpers import noise, seeded
from utils.errors import RunError
from utils.machine.device import Machine

CPU = Machine(torch.device("cpu"), "float32")


def test_normalising_equals_torchvision_to_the_last_bit(device):
    reference = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(CIFAR.mean, CIFAR.std)]
    )
    # Every grey level in every channel, and noise.
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 8, 32).expand(1, 3, 8, 32)
    images = torch.cat([noise(4)[:, :, :8], levels])
    result = Normalise(CIFAR, device)(images.to(device))
    expected = torch.stack([reference(image.permute(1, 2, 0).numpy()) for image in images])
    if device.type == "cpu":
        assert torch.equal(result, expected)
    else:
        assert_close(result.cpu(), expected, rtol=0, atol=1e-6)


def test_normalised_images_are_channels_last_floats_and_the_source_is_untouched(device):
    images = noise(4).to(device)
    before = images.clone()
    result = Normalise(CIFAR, device)(images)
    assert result.dtype == torch.float32 and result.shape == images.shape
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def numbered_split(n, device="cpu"):
    """Returns images of which image i has grey level i and the label i mod 5."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 8, 8).contiguous()
    return Split(images.to(device), (torch.arange(n) % 5).to(device))


def loader_of(split, batch_size, order=None, augment="none", generator=None):
    unchanged = Normalise(Normalisation((0.0,) * 3, (1 / 255,) * 3), split.images.device)
    return ResidentLoader(split, unchanged, batch_size, order, augment, generator)


def numbers(images):
    return images[:, 0, 0, 0].round().long()


def epoch_of(batches):
    """Returns images and targets of an epoch, without the division into batches."""
    images, targets = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(targets)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (9, 4, [4, 4, 1]), (5, 1, [1] * 5)],
)
def test_an_epoch_has_every_image_in_order_and_keeps_the_tail_batch(n, batch_size, sizes, device):
    loader = loader_of(numbered_split(n, device), batch_size)
    batches = list(loader)
    assert [len(images) for images, _ in batches] == sizes
    assert len(loader) == len(sizes)
    for images, targets in batches:
        assert images.device.type == targets.device.type == device.type
        assert images.dtype == torch.float32 and images.shape[1:] == (3, 8, 8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert targets.dtype == torch.int64
        assert torch.equal(targets, numbers(images) % 5)
    assert numbers(epoch_of(batches)[0]).tolist() == list(range(n))


def orders(labels, generator):
    return {
        "sequential": Order(len(labels)),
        "shuffled": ShuffledOrder(len(labels), generator),
        "effective number": EffectiveNumberOrder(labels, generator),
        "class-aware": ClassAwareOrder(labels, 3, generator),
    }


KINDS = ["sequential", "shuffled", "effective number", "class-aware"]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_follow_the_drawn_order_and_targets_match_images(kind, device):
    split = numbered_split(47, device)
    loader = loader_of(split, 7, orders(split.labels.cpu(), seeded(1))[kind])
    images, targets = epoch_of(loader)
    expected = orders(split.labels.cpu(), seeded(1))[kind].draw()
    assert numbers(images).tolist() == expected.tolist()
    assert torch.equal(targets, numbers(images) % 5)
    assert len(images) == len(loader.order) and len(loader) == -(-len(loader.order) // 7)


def test_the_length_is_that_of_the_order_not_of_the_set():
    labels = torch.tensor([0] * 9 + [1])
    split = Split(noise(10, side=4), labels)
    loader = loader_of(split, 4, ClassAwareOrder(labels, 2, seeded()))
    assert len(loader) == 5  # 9 images of the largest class, times 2 classes, in batches of 4
    assert sum(len(targets) for _, targets in loader) == 18


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_batches", [1, 2, 3])
def test_blocks_smaller_than_an_epoch_give_the_same_batches(kind, block_batches, monkeypatch):
    split = numbered_split(47)

    def batches():
        return list(loader_of(split, 7, orders(split.labels, seeded(1))[kind]))

    whole = batches()
    image_bytes = split.images[0].numel()
    monkeypatch.setattr(datasets.loading.resident, "BLOCK_BYTES", block_batches * 7 * image_bytes)
    assert loader_of(split, 7).block_size == block_batches * 7
    for (images, targets), (others, other_targets) in zip(batches(), whole, strict=True):
        assert torch.equal(images, others) and torch.equal(targets, other_targets)


def test_a_block_holds_at_least_one_batch(monkeypatch):
    monkeypatch.setattr(datasets.loading.resident, "BLOCK_BYTES", 1)
    loader = loader_of(numbered_split(10), 4)
    assert [len(images) for images, _ in loader] == [4, 4, 2]


@pytest.mark.parametrize("batch_size", [1, 5, 47, 500])
def test_batches_of_another_size_hold_the_same_epoch(batch_size, monkeypatch):
    split = numbered_split(47)

    def loader():
        return loader_of(split, 7, ShuffledOrder(47, seeded(1)), "crop_flip", seeded(2))

    images, targets = epoch_of(loader())
    sizes = [len(batch) for batch, _ in loader().batches(batch_size)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == 47
    others, other_targets = epoch_of(loader().batches(batch_size))
    assert torch.equal(images, others) and torch.equal(targets, other_targets)
    # In several blocks, too, whose ends cut batches of another size short.
    monkeypatch.setattr(datasets.loading.resident, "BLOCK_BYTES", 14 * split.images[0].numel())
    images, targets = epoch_of(loader())
    batches = list(loader().batches(batch_size))
    assert max(len(batch) for batch, _ in batches) <= batch_size
    others, other_targets = epoch_of(batches)
    assert torch.equal(images, others) and torch.equal(targets, other_targets)


def augmented_loader(augment, seed, n=24):
    generator = seeded(seed)
    split = Split(noise(n), torch.arange(n) % 5)
    order = ShuffledOrder(n, generator)
    return loader_of(split, 7, order, augment, generator), generator


@pytest.mark.parametrize("augment", ["none", "crop_flip", "autoaugment"])
def test_a_seed_gives_the_same_epochs_and_every_epoch_differs(augment):
    first, second, other = (augmented_loader(augment, seed)[0] for seed in (0, 0, 1))
    epochs = [epoch_of(first) for _ in range(2)]
    for images, targets in epochs:
        again, again_targets = epoch_of(second)
        assert torch.equal(images, again) and torch.equal(targets, again_targets)
    assert not torch.equal(epochs[0][0], epochs[1][0])
    assert not torch.equal(epochs[0][0], epoch_of(other)[0])


@pytest.mark.parametrize("augment", ["none", "crop_flip", "autoaugment"])
def test_the_generators_state_restores_the_epoch_after_it(augment):
    loader, generator = augmented_loader(augment, 0)
    epoch_of(loader)
    state = generator.get_state()
    images, targets = epoch_of(loader)
    later, other_generator = augmented_loader(augment, 5)
    other_generator.set_state(state)
    again, again_targets = epoch_of(later)
    assert torch.equal(images, again) and torch.equal(targets, again_targets)


def test_augmented_batches_do_not_depend_on_the_device(cuda):
    split = Split(noise(24), torch.arange(24) % 5)
    on_device = Split(split.images.to(cuda), split.labels.to(cuda))

    def epoch(split):
        generator = seeded(1)
        order = ShuffledOrder(24, generator)
        return epoch_of(loader_of(split, 7, order, "autoaugment", generator))

    (images, targets), (others, other_targets) = epoch(split), epoch(on_device)
    assert_close(others.cpu(), images, rtol=0, atol=1e-4)
    assert torch.equal(targets, other_targets.cpu())


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    loader, _ = augmented_loader("autoaugment", 0)
    epoch_of(loader)
    after = torch.rand(1), np.random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    assert after == (torch.rand(1), np.random.random())


def test_views_are_the_same_images_augmented_anew():
    images = noise(10)
    split = Split(images, torch.arange(10))
    normalise = Normalise(CIFAR, torch.device("cpu"))

    def loader(augment):
        settings = {"order": ShuffledOrder(10, seeded(1)), "generator": seeded(2), "views": 3}
        return ResidentLoader(split, normalise, 4, augment=augment, **settings)

    for pixels, targets in loader("none").pixels():
        assert torch.equal(pixels, images[targets.repeat(3)])
    batches = list(loader("crop_flip").pixels())
    assert [len(targets) for _, targets in batches] == [4, 4, 2]
    for pixels, targets in batches:
        first, second, third = pixels.split(len(targets))
        assert not torch.equal(first, second) and not torch.equal(second, third)


@pytest.mark.parametrize("says", ["CUDA out of memory. Tried to allocate", "an illegal access"])
def test_images_that_do_not_fit_into_the_devices_memory_may_be_streamed(says, monkeypatch):
    def no_room(split, device):
        raise RuntimeError(says)

    monkeypatch.setattr(Split, "to", no_room)
    expected = (RunError, "4 images of 0.0 GiB .* memory of cpu: --stream True")
    kind, message = expected if "memory" in says else (RuntimeError, says)
    with pytest.raises(kind, match=message):
        make_loader(Split(noise(4), torch.zeros(4).long()), Normalise(CIFAR, CPU.device), 2)
