"""AutoAugment's operations against Pillow and the released code's golden vectors."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from datasets.autoaugment import apply_operation  # the public name
from datasets.loading.operations import CHUNK_VALUES, OPERATIONS, SIGNED

WITHOUT_LEVEL = {"autocontrast", "equalize", "invert"}


def pillow_affine(image, coefficients, resample):
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=(128, 128, 128)
    )


def pillow_rotate(image, degrees):
    rotated = image.convert("RGBA").rotate(degrees)
    grey = Image.new("RGBA", rotated.size, (128,) * 4)
    return Image.composite(rotated, grey, rotated).convert("RGB")


def pillow_operation(image, op, level, sign):
    """One operation on one RGB image, as the released code calls Pillow."""
    level = level or 0
    width, height = image.size
    slope = np.linspace(0, 0.3, 10)[level] * sign
    fraction = np.linspace(0, 150 / 331, 10)[level] * sign
    factor = 1 + np.linspace(0, 0.9, 10)[level] * sign
    bicubic, nearest = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
    calls = {
        "shearX": lambda: pillow_affine(image, (1, slope, 0, 0, 1, 0), bicubic),
        "shearY": lambda: pillow_affine(image, (1, 0, 0, slope, 1, 0), bicubic),
        "translateX": lambda: pillow_affine(image, (1, 0, fraction * width, 0, 1, 0), nearest),
        "translateY": lambda: pillow_affine(image, (1, 0, 0, 0, 1, fraction * height), nearest),
        "rotate": lambda: pillow_rotate(image, np.linspace(0, 30, 10)[level]),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, int(np.round(8 - 4 * level / 9))),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - level / 9)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
    }
    return calls[op]()


def to_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pillow(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def pillow_batch(images, op, level, sign):
    return torch.stack(
        [from_pillow(pillow_operation(to_pillow(image), op, level, sign)) for image in images]
    )


def variants(op):
    levels = [None] if op in WITHOUT_LEVEL else range(10)
    signs = (-1, 1) if op in SIGNED else (1,)
    return [(level, sign) for level in levels for sign in signs]


def sample_images(height, width):
    """Random, smooth, constant, few-level, extreme and nearly constant images, [N, 3, H, W]."""
    rng = np.random.default_rng(height * 100 + width)
    shape = (3, height, width)
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.stack([255 * x / width, 255 * y / height, 127 * (x / width + y / height)])
    near_constant = np.full(shape, 77)
    near_constant[:, height // 2, width // 2] = 78
    images = [
        rng.integers(0, 256, shape),
        rng.integers(0, 256, shape),
        ramp,
        ramp[::-1] * 0.3 + 90,
        255 * np.exp(-((x - width / 2) ** 2 + (y - height / 2) ** 2) / 60) * np.ones(shape),
        *(np.full(shape, value) for value in (0, 1, 127, 128, 254, 255)),
        np.broadcast_to(np.array([13, 200, 91])[:, None, None], shape),
        rng.choice([10, 60, 61, 240], shape),
        rng.choice([0, 255], shape),
        rng.choice([100, 101], shape),
        rng.choice([0, 255], shape, p=[0.995, 0.005]),
        near_constant,
        rng.normal(128, 8, shape).clip(0, 255),
    ]
    return torch.from_numpy(np.stack(images).astype(np.uint8))


def test_results_equal_the_golden_vectors(golden, device):
    files = golden("autoaugment_ops").items()
    arrays = {key: torch.tensor(array).permute(0, 3, 1, 2) for key, array in files}
    images = arrays.pop("images").to(device)
    assert {key.split("/")[0] for key in arrays} == set(OPERATIONS)
    for key, expected in arrays.items():
        op, level, sign = key.split("/")
        result = apply_operation(images, op, int(level), int(sign)).cpu()
        assert torch.equal(result, expected), key


@pytest.mark.parametrize("size", [(32, 32), (28, 36), (5, 3), (2, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("op", OPERATIONS)
def test_results_equal_pillows(op, size, device):
    images = sample_images(*size)
    for level, sign in variants(op):
        result = apply_operation(images.to(device), op, level, sign).cpu()
        assert torch.equal(result, pillow_batch(images, op, level, sign)), (level, sign)


def test_enhancement_equals_pillow_for_every_pair_of_values():
    """A blend most easily rounds instead of truncating, so all pairs (value, mean grey) are
    tried."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(64, 3, 16, 16).clone()
    values[:, :, 8:] = torch.arange(0, 256, 4, dtype=torch.uint8).view(64, 1, 1, 1)
    for level, sign in variants("contrast"):
        result = apply_operation(values, "contrast", level, sign)
        assert torch.equal(result, pillow_batch(values, "contrast", level, sign)), (level, sign)


@pytest.mark.parametrize("op", ["autocontrast", "equalize"])
def test_every_range_of_a_channel(op):
    """All low and high ends 0..255 are tried, for the divisions of the look-up tables."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.integers(0, 256, (2, 400, 3, 1, 1)), axis=0)
    images = torch.from_numpy(rng.integers(low, high + 1, (400, 3, 24, 24)).astype(np.uint8))
    assert torch.equal(apply_operation(images, op, None, None), pillow_batch(images, op, 0, 1))


def test_smooth_filter_equals_pillow():
    """Sharpness never has factor 0, so its degenerate image is checked separately."""
    from datasets.loading.operations import _smooth

    images = sample_images(32, 32)
    expected = [from_pillow(to_pillow(i).filter(ImageFilter.SMOOTH)) for i in images]
    assert torch.equal(_smooth(images).byte(), torch.stack(expected))


@pytest.mark.parametrize("op", OPERATIONS)
def test_result_is_new_contiguous_and_independent_of_layout_and_chunks(op, monkeypatch):
    images = sample_images(28, 36)
    before = images.clone()
    result = apply_operation(images, op, 7, -1)
    assert result.is_contiguous() and result.data_ptr() != images.data_ptr()
    assert torch.equal(images, before)

    monkeypatch.setitem(CHUNK_VALUES, "cpu", 5 * images[0].numel())
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.equal(apply_operation(channels_last, op, 7, -1), result)
    assert apply_operation(images[:0], op, 7, -1).shape == (0, 3, 28, 36)


@pytest.mark.parametrize(
    ("op", "level", "sign", "message"),
    [
        ("blur", 3, 1, "op must be one of"),
        ("rotate", 10, 1, "level must be"),
        ("rotate", -1, 1, "level must be"),
        ("rotate", None, 1, "level must be"),
        ("rotate", 2.5, 1, "level must be"),
        ("rotate", 3.0, 1, "level must be"),
        ("shearX", 3, 0, "sign must be"),
        ("color", 3, None, "sign must be"),
    ],
)
def test_unknown_arguments_are_an_error(op, level, sign, message):
    with pytest.raises(ValueError, match=message):
        apply_operation(sample_images(8, 8), op, level, sign)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8).byte(), torch.zeros(2, 1, 8, 8).byte()],
    ids=["float", "one image", "one channel"],
)
def test_images_of_another_type_or_shape_are_an_error(images):
    with pytest.raises(ValueError, match="images must be uint8"):
        apply_operation(images, "invert", None, None)
