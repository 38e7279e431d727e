"""Whole-epoch augmentation: crop, flip and Cutout against per-image references, and their
distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import functional as F

from datasets.loading.augmentation import (
    AUGMENTATIONS,
    crop_flip,
    cut_squares,
    draw_crops,
    draw_squares,
)
from datasets.loading.autoaugment import POLICIES, draw_policies
from datasets.loading.operations import CHUNK_VALUES
from tests.datasets.loading.test_autoaugment import SIGNIFICANCE
from tests.datasets.loading.test_operations import (
    from_pillow,
    pillow_operation,
    to_pillow,
)
from tests.support.helpers import augmented


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(n, height=32, width=32, seed=0):
    return torch.randint(
        0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator(seed)
    )


def reference_crop_flip(image, row, column, flip):
    """Pads by 4, crops and then flips, as the released code. The column that is drawn for a flipped
    image counts from the right."""
    padded = F.pad(image, [4] * 4)
    left = 8 - int(column) if flip else int(column)
    crop = F.crop(padded, int(row), left, *image.shape[1:])
    return F.hflip(crop) if flip else crop


def reference_cutout(image, y, x):
    """The released Cutout of 16 pixels: a mask of ones with one hole, clipped at the border."""
    height, width = image.shape[1:]
    mask = np.ones((height, width), np.uint8)
    y1, y2 = np.clip([y - 8, y + 8], 0, height)
    x1, x2 = np.clip([x - 8, x + 8], 0, width)
    mask[y1:y2, x1:x2] = 0
    return image * torch.from_numpy(mask)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 36), (6, 3)])
def test_crop_flip_equals_torchvision(height, width, device):
    images = random_images(50, height, width)
    indices = torch.randint(50, (400,), generator=generator(1))
    draws = draw_crops(400, generator(2))
    result = crop_flip(images.to(device), indices, draws).cpu()
    assert result.shape == (400, 3, height, width) and result.is_contiguous()
    for index, *crop, output in zip(indices, *draws, result, strict=True):
        assert torch.equal(output, reference_crop_flip(images[index], *crop))


def test_crops_and_flips_have_their_distribution():
    """Offsets are uniform over 0..8 in each direction, flips have probability 1/2, all
    independent."""
    rows, columns, flips = draw_crops(50_000, generator())
    assert rows.min() == columns.min() == 0 and rows.max() == columns.max() == 8
    cells = (2 * (9 * rows + columns) + flips).bincount(minlength=162)
    assert stats.chisquare(cells).pvalue > SIGNIFICANCE


def test_crop_flip_keeps_its_sources_and_ignores_layout_and_chunks(monkeypatch):
    images, indices = random_images(30), torch.randperm(30, generator=generator(1)).repeat(3)
    before, draws = images.clone(), draw_crops(90, generator())
    expected = crop_flip(images, indices, draws)
    assert torch.equal(images, before)
    monkeypatch.setitem(CHUNK_VALUES, "cpu", 7 * images[0].numel())
    images = images.to(memory_format=torch.channels_last)
    assert torch.equal(crop_flip(images, indices, draws), expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 36), (20, 17)])
def test_cutout_equals_the_released_mask(height, width, device):
    images = random_images(300, height, width)
    centres = draw_squares(300, height, width, generator(4))
    augmented = images.to(device, copy=True)
    assert cut_squares(augmented, centres) is augmented
    for image, y, x, output in zip(images, *centres, augmented.cpu(), strict=True):
        assert torch.equal(output, reference_cutout(image, int(y), int(x)))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 12), (16, 20)])
def test_cutout_leaves_most_of_an_image_that_is_smaller_than_its_square(height, width):
    white = torch.full((200, 3, height, width), 255, dtype=torch.uint8)
    kept = cut_squares(white, draw_squares(200, height, width, generator())) > 0
    shares = kept.float().mean(dim=(1, 2, 3))
    hole = (2 * (min(height, width) // 4)) ** 2
    assert shares.min().item() == pytest.approx(1 - hole / (height * width)) and shares.max() < 1


def test_cutout_has_its_distribution():
    """Centres are uniform over all pixels, also at the border."""
    y, x = draw_squares(60_000, 20, 24, generator())
    cells = (24 * y + x).flatten().bincount(minlength=20 * 24)
    assert stats.chisquare(cells).pvalue > SIGNIFICANCE


def test_cutout_ignores_layout_and_chunks(monkeypatch):
    images, centres = random_images(30), draw_squares(30, 32, 32, generator())
    expected = cut_squares(images.clone(), centres)
    monkeypatch.setitem(CHUNK_VALUES, "cpu", 7 * images[0].numel())
    channels_last = images.clone(memory_format=torch.channels_last)
    assert torch.equal(cut_squares(channels_last, centres), expected)


def test_whole_chain_equals_the_per_image_pipeline(device):
    n = 400
    images, indices = random_images(60), torch.randint(60, (n,), generator=generator(1))
    result = augmented("autoaugment", images.to(device), indices, generator(5)).cpu()

    rng = generator(5)
    crops = zip(*draw_crops(n, rng), strict=True)
    policies = zip(*draw_policies(n, rng), strict=True)
    centres = zip(*draw_squares(n, 32, 32, rng), strict=True)
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
    assert torch.equal(augmented("none", images, indices, rng), images[indices])
    assert torch.equal(rng.get_state(), state)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_depend_on_the_generator_alone(name):
    images, indices = random_images(20), torch.arange(20).repeat(5)
    before, global_state = images.clone(), torch.get_rng_state()
    rng = generator(7)
    first, second = (augmented(name, images, indices, rng) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(images, before)
    assert torch.equal(augmented(name, images, indices, generator(7)), first)
    assert torch.equal(first, second) == (name == "none")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_indices_give_no_images(name):
    empty = torch.zeros(0, dtype=torch.int64)
    assert augmented(name, random_images(2), empty, generator()).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_augmentation_waits_for_the_device(name, cuda):
    images, indices = random_images(500).to(cuda), torch.arange(500).repeat(4)
    augmented(name, images, indices, generator())  # fills the caches of the position tables
    torch.cuda.set_sync_debug_mode("error")
    try:
        augmented(name, images, indices, generator(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
