"""How the picture in a file becomes upright RGB of 8 bits."""

import time

import numpy as np
import pytest
from PIL import Image

from datasets.files.images import fit, is_image, read_pixels, to_rgb
from tests.support.pictures import noise
from utils.errors import RunError

WAYS = {  # by EXIF's number: how the stored picture comes from the upright one
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


WITHOUT_LOSS = {"webp": {"lossless": True}}


@pytest.mark.parametrize("orientation", WAYS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_pictures_are_upright_by_their_exif_orientation(tmp_path, orientation, suffix):
    upright = noise(6, 4, 3)
    tag = Image.Exif()
    tag[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(WAYS[orientation](upright)))
    stored.save(tmp_path / f"x.{suffix}", exif=tag, **WITHOUT_LOSS.get(suffix, {}))
    pixels = read_pixels(str(tmp_path / f"x.{suffix}"), lambda image: image)
    np.testing.assert_array_equal(pixels, upright)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_uncompressed_pictures_that_lie_on_their_side_are_upright_in_every_mode(tmp_path, mode):
    """Pillow reads these in another way than compressed ones."""
    pixels = noise(4, 6)
    if mode == "I;16":
        stored = Image.fromarray(pixels.astype(np.uint16) * 256)
    else:
        stored = Image.fromarray(pixels).convert(mode)
    tag = Image.Exif()
    tag[0x0112] = 6
    found = []
    for name, how in (("plain.tif", {}), ("packed.tif", {"compression": "tiff_lzw"})):
        stored.save(tmp_path / name, exif=tag, **how)
        found.append(read_pixels(str(tmp_path / name), lambda image: image))
    assert found[0].shape == (6, 4, 3)
    np.testing.assert_array_equal(*found)


def test_damaged_exif_leaves_the_picture_as_it_is(tmp_path):
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=b"Exif\x00\x00no tags at all")
    read = read_pixels(str(tmp_path / "x.png"), lambda image: image)
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
@pytest.mark.parametrize("step", ["to_rgb", "ImageOps.exif_transpose", "Image.open"])
def test_a_picture_beyond_memory_is_neither_damaged_nor_left_on_its_side_nor_out(
    step, error, tmp_path, monkeypatch
):
    def allocate(*_):
        raise error

    Image.fromarray(noise(4, 6, 3)).save(tmp_path / "x.png")
    monkeypatch.setattr(f"datasets.files.images.{step}", allocate)
    with pytest.raises(RunError, match=r"x\.png: out of memory while it was read"):
        read_pixels(str(tmp_path / "x.png"), lambda image: image)
    if step == "Image.open":
        with pytest.raises(RunError, match=r"x\.png: out of memory while it was read"):
            is_image(str(tmp_path / "x.png"))


def test_transparent_pixels_are_white(tmp_path):
    colour, alpha = noise(8, 8, 3), noise(8, 8, seed=1)
    alpha[:2], alpha[2:4] = 0, 255
    image = Image.fromarray(np.dstack([colour, alpha]))
    share = alpha[..., None].astype(np.float64) / 255
    expected = share * colour + (1 - share) * 255
    assert np.abs(np.asarray(to_rgb(image)) - expected).max() <= 1
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[:2], 255)
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[2:4], colour[2:4])
    grey = Image.fromarray(np.dstack([colour[..., 0], alpha]), "LA")
    np.testing.assert_array_equal(np.asarray(to_rgb(grey))[:2], 255)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_white(tmp_path, mode):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[2:] = 90
    image = Image.fromarray(pixels).convert(mode)
    clear = image.getpixel((0, 0))
    image.save(tmp_path / "x.png", transparency=clear)
    read = read_pixels(str(tmp_path / "x.png"), lambda image: image)
    assert (read[:2] == 255).all()
    np.testing.assert_array_equal(read[2:], np.asarray(image.convert("RGB"))[2:])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_the_upper_8_of_16_bits_are_kept(tmp_path, suffix):
    grey = noise(5, 7)
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(tmp_path / f"x.{suffix}")
    read = read_pixels(str(tmp_path / f"x.{suffix}"), lambda image: image)
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_the_first_of_several_frames_is_read(tmp_path, suffix):
    first, second = (Image.new("RGB", (5, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second])
    read = read_pixels(str(tmp_path / f"x.{suffix}"), lambda image: image)
    np.testing.assert_array_equal(read, np.asarray(first))


@pytest.mark.parametrize("size", [(1, 30000), (30000, 1), (3, 9001)])
def test_only_the_centre_of_a_very_long_image_is_enlarged(size):
    image = Image.new("RGB", size)
    length = max(size)
    rows = np.arange(length) // 8 % 2 * 200
    pixels = np.repeat(rows[:, None], min(size), axis=1).astype(np.uint8)
    image = Image.fromarray(pixels if size[1] == length else pixels.T).convert("RGB")
    start = time.process_time()
    small = np.asarray(fit(image, 16))
    assert small.shape == (16, 16, 3) and time.process_time() - start < 1
    # The same as the whole image enlarged, of which this box would be kept.
    short = min(size)
    left, top = ((side - short) / 2 for side in size)
    box = (left, top, left + short, top + short)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR, box=box))
    assert np.abs(small.astype(int) - expected).max() <= 1
