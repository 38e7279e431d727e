"""Whole-epoch augmentation: crop, flip and Cutout against per-image references, and their
distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import functional as F

from datasets.loading.augmentation import AUGMENTATIONS, cutout, random_crop_flip
from datasets.loading.autoaugment import POLICIES, draw_policies
from datasets.loading.operations import CHUNK_VALUES
from tests.datasets.loading.test_autoaugment import SIGNIFICANCE
from tests.datasets.loading.test_operations import (
    DEVICES,
    from_pillow,
    pillow_operation,
    to_pillow,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(n, height=32, width=32, seed=0):
    return torch.randint(
        0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator(seed)
    )


def crop_draws(n, height, width, rng, padding=4):
    """Returns the offsets and flips that random_crop_flip draws, read from an image of coordinates.
    The draws do not depend on the content of the images."""
    y, x = torch.meshgrid(torch.arange(height) + 1, torch.arange(width) + 1, indexing="ij")
    coordinates = torch.stack([y, x, 0 * y]).byte()[None]
    crops = random_crop_flip(coordinates, torch.zeros(n, dtype=torch.int64), rng, padding).long()
    # A pixel that every crop holds, and its right neighbour.
    row, column = height // 2, width // 2
    rows = crops[:, 0, row, column] - 1 - row + padding
    flips = crops[:, 1, row, column + 1] < crops[:, 1, row, column]
    source_column = torch.where(flips, width - 1 - column, column)
    columns = crops[:, 1, row, column] - 1 - source_column + padding
    return rows, columns, flips


def cutout_centres(n, height, width, rng, size=16):
    """Returns the centres that cutout draws, read from white images; needs height and width >=
    size."""
    zeros = cutout(torch.full((n, 3, height, width), 255, dtype=torch.uint8), rng, size) == 0

    def centre(inside, length):
        inside = inside.byte()
        low = inside.argmax(1)
        high = low + inside.sum(1)
        return torch.where(high < length, high - size // 2, low + size // 2)

    return centre(zeros[:, 0].any(2), height), centre(zeros[:, 0].any(1), width)


def reference_crop_flip(image, row, column, flip, padding=4):
    padded = F.pad(image, [padding] * 4)
    crop = F.crop(padded, int(row), int(column), *image.shape[1:])
    return F.hflip(crop) if flip else crop


def reference_cutout(image, y, x, size=16):
    """The released Cutout: a mask of ones with one hole, clipped at the border."""
    height, width = image.shape[1:]
    mask = np.ones((height, width), np.uint8)
    y1, y2 = np.clip([y - size // 2, y + size // 2], 0, height)
    x1, x2 = np.clip([x - size // 2, x + size // 2], 0, width)
    mask[y1:y2, x1:x2] = 0
    return image * torch.from_numpy(mask)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (28, 36, 3), (16, 16, 0)])
def test_crop_flip_equals_torchvision(height, width, padding, device):
    images = random_images(50, height, width)
    indices = torch.randint(50, (400,), generator=generator(1))
    rows, columns, flips = crop_draws(400, height, width, generator(2), padding)
    result = random_crop_flip(images.to(device), indices, generator(2), padding).cpu()
    assert result.shape == (400, 3, height, width) and result.is_contiguous()
    for index, row, column, flip, output in zip(indices, rows, columns, flips, result, strict=True):
        expected = reference_crop_flip(images[index], row, column, flip, padding)
        assert torch.equal(output, expected)


def test_crops_and_flips_have_their_distribution():
    """Offsets are uniform over 0..8 in each direction, flips have probability 1/2, all
    independent."""
    rows, columns, flips = crop_draws(50_000, 16, 16, generator())
    assert rows.min() == columns.min() == 0 and rows.max() == columns.max() == 8
    cells = (2 * (9 * rows + columns) + flips).bincount(minlength=162)
    assert stats.chisquare(cells).pvalue > SIGNIFICANCE


def test_crop_flip_keeps_its_sources_and_ignores_layout_and_chunks(monkeypatch):
    images, indices = random_images(30), torch.randperm(30, generator=generator(1)).repeat(3)
    before = images.clone()
    expected = random_crop_flip(images, indices, generator())
    assert torch.equal(images, before)
    monkeypatch.setitem(CHUNK_VALUES, "cpu", 7 * images[0].numel())
    images = images.to(memory_format=torch.channels_last)
    assert torch.equal(random_crop_flip(images, indices, generator()), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 16), (28, 36, 16), (20, 20, 5)])
def test_cutout_equals_the_released_mask(height, width, size, device):
    images = random_images(300, height, width)
    centres = cutout_centres(300, height, width, generator(4), size - size % 2)
    augmented = images.to(device)
    if device == "cpu":
        augmented = images.clone()
    assert cutout(augmented, generator(4), size) is augmented
    for image, y, x, output in zip(images, *centres, augmented.cpu(), strict=True):
        assert torch.equal(output, reference_cutout(image, int(y), int(x), size))


def test_cutout_has_its_distribution():
    """Centres are uniform over all pixels, also at the border."""
    y, x = cutout_centres(60_000, 20, 24, generator())
    assert stats.chisquare((24 * y + x).bincount(minlength=20 * 24)).pvalue > SIGNIFICANCE


def test_cutout_ignores_layout_and_chunks(monkeypatch):
    images = random_images(30)
    expected = cutout(images.clone(), generator())
    monkeypatch.setitem(CHUNK_VALUES, "cpu", 7 * images[0].numel())
    channels_last = images.clone(memory_format=torch.channels_last)
    assert torch.equal(cutout(channels_last, generator()), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_whole_chain_equals_the_per_image_pipeline(device):
    n = 400
    images, indices = random_images(60), torch.randint(60, (n,), generator=generator(1))
    result = AUGMENTATIONS["autoaugment"](images.to(device), indices, generator(5)).cpu()

    rng = generator(5)
    crops = zip(*crop_draws(n, 32, 32, rng), strict=True)
    policies = zip(*draw_policies(n, rng), strict=True)
    centres = zip(*cutout_centres(n, 32, 32, rng), strict=True)
    draws = zip(indices, crops, policies, centres, result, strict=True)
    for index, crop, (policy, applied, signs), (y, x), output in draws:
        image = to_pillow(reference_crop_flip(images[index], *crop))
        for k, (op, _, level) in enumerate(POLICIES[policy]):
            if applied[k]:
                image = pillow_operation(image, op, level, int(signs[k]))
        assert torch.equal(output, reference_cutout(from_pillow(image), int(y), int(x)))


def test_none_only_gathers():
    images, indices = random_images(20), torch.tensor([3, 3, 19, 0])
    rng = generator()
    state = rng.get_state()
    assert torch.equal(AUGMENTATIONS["none"](images, indices, rng), images[indices])
    assert torch.equal(rng.get_state(), state)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_depend_on_the_generator_alone(name):
    images, indices = random_images(20), torch.arange(20).repeat(5)
    before, global_state = images.clone(), torch.get_rng_state()
    rng = generator(7)
    first, second = (AUGMENTATIONS[name](images, indices, rng) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(images, before)
    assert torch.equal(AUGMENTATIONS[name](images, indices, generator(7)), first)
    assert torch.equal(first, second) == (name == "none")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_indices(name):
    empty = torch.zeros(0, dtype=torch.int64)
    assert AUGMENTATIONS[name](random_images(2), empty, generator()).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8).byte()])
def test_wrong_images(name, images):
    with pytest.raises(ValueError, match="images must be uint8"):
        AUGMENTATIONS[name](images, torch.zeros(1, dtype=torch.int64), generator())
    with pytest.raises(ValueError, match="images must be uint8"):
        cutout(images, generator())


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_host_synchronisation(name, device):
    images, indices = random_images(500).to(device), torch.arange(500).repeat(4)
    AUGMENTATIONS[name](images, indices, generator())  # fills the caches of the position tables
    torch.cuda.set_sync_debug_mode("error")
    try:
        AUGMENTATIONS[name](images, indices, generator(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
