"""How one image file becomes pixels."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from utils.errors import RunError, UserError, is_out_of_memory
from utils.text import listed, shown

# A file with one of these endings that Pillow cannot open is a broken image. Any other file is
# opened to see whether it is one.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".heic", ".heif"),
)
HEIF_SUFFIXES = (".heic", ".heif")

# Images of this side (in pixels) and more are treated as ImageNet's, smaller ones as CIFAR's.
LARGE_SIDE = 64
SHOWN_FAULTS = 3
LONGEST_SHAPE = 32  # longer side over shorter side; a longer image is cut to it


# Pillow warns of images with more pixels than this, and refuses those with twice as many. A scan or
# a panorama may have more than its usual limit.
Image.MAX_IMAGE_PIXELS = 500_000_000
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


# Many phones save photographs as HEIC, which Pillow reads if the package pillow-heif is installed.
with suppress(ImportError):
    import_module("pillow_heif").register_heif_opener()


class DataFaults(UserError):
    """Something is wrong with image files, with how they lie, or with the table that lists them.

    Attributes:
        place: where, such as `--data_root photos`.
        faults: a message for each. The message of the error itself has the first three.
    """

    def __init__(self, place: str, faults: Sequence[str]) -> None:
        super().__init__(place, faults)  # another process makes the error again from these
        self.place, self.faults = place, faults

    def __str__(self) -> str:
        faults = self.faults
        number = f"{len(faults)} faults: " if len(faults) > 1 else ""
        hint = "; --check_images True lists them all" if len(faults) > SHOWN_FAULTS else ""
        return f"{self.place}: {number}{listed(faults, SHOWN_FAULTS, '; ')}{hint}"


def is_image(path: str) -> bool:
    """Returns True if Pillow can open the file and decode images of its format.

    Raises:
        RunError: memory ran out, so the file may be an image.
    """
    try:
        with Image.open(path) as image:
            return not (isinstance(image, ImageFile.StubImageFile) or image.format == "MPEG")
    except Exception as error:  # Pillow's readers raise errors of many types for broken files
        fault_of(path, error)  # raises if memory ran out
        return False


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """Gives the image in a file, whose pixels are to be read.

    Pillow maps some uncompressed files into memory if it opens them by their names. It then takes
    the size that a TIFF file has when it is upright, even if the stored picture lies on its side,
    and mixes up the pixels. It does not map files that are already open.
    """
    with open(path, "rb") as file, Image.open(file) as image:
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the image as RGB with 8 bits per channel, turned upright by its EXIF orientation.
    Grey is repeated in three channels, 16-bit values keep their upper 8 bits, and transparent
    pixels are shown on white.

    Raises:
        ValueError: the image is 32-bit or signed grey, which has no known range.
        OSError: the file is cut off or damaged (and whatever else Pillow raises).
    """
    check_range(image)
    image = _upright(image)
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[np.asarray(image) == clear] = 255
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def check_range(image: Image.Image) -> None:
    """Checks that the range of an opened image's values is known. No pixels are read.

    Raises:
        ValueError: the image is 32-bit or signed grey.
    """
    # Pillow opens 16-bit PGM and PNG files in a mode of 32 bits.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        raise ValueError(
            "32-bit or signed grey has no known range: save it with 8 or 16 bits, unsigned"
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # outside the try, so that damaged pixels raise
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF says nothing about the pixels
        if is_out_of_memory(error):
            raise
        return image


def usual_shorter_side(side: int) -> int:
    """Returns the shorter side that images are resized to before side × side pixels are cropped:
    `side`, or 256/224 of it if it is 64 or more, as is usual for ImageNet's test images."""
    return round(side * 256 / 224) if side >= LARGE_SIDE else side


def fit(image: Image.Image, side: int, shorter_side: int | None = None) -> Image.Image:
    """Returns the centre of the image as side × side pixels; an image of that size is unchanged.

    First the image is resized (bilinear, antialiased) so that its shorter side has as many pixels
    as `shorter_side` says, by default `usual_shorter_side`. An image that is more than 32 times as
    long as wide is cut to its centre before, so that a line of pixels does not become a huge image.
    """
    if image.size == (side, side):
        return image
    from torchvision.transforms import functional  # two seconds to import, so only where needed

    shorter = shorter_side or usual_shorter_side(side)
    # torchvision's type hints allow only tensors.
    resized: Any = functional.resize(_shortened(image), shorter)  # pyright: ignore[reportArgumentType]
    return functional.center_crop(resized, [side, side])  # pyright: ignore[reportReturnType]


def _shortened(image: Image.Image) -> Image.Image:
    """Returns the centre of a very long image; other images are unchanged."""
    longest = LONGEST_SHAPE * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(length, longest + (length - longest) % 2) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def exactly(image: Image.Image, side: int) -> Image.Image:
    """Returns the image unchanged.

    Raises:
        ValueError: the image is not side × side pixels large.
    """
    if image.size != (side, side):
        raise ValueError(f"{image.width}x{image.height} pixels instead of {side}x{side}")
    return image


def read_pixels(path: str, prepare: Callable[[Image.Image], Image.Image]) -> np.ndarray | str:
    """Returns the prepared image, uint8 ``[H, W, 3]``, or a message on what is wrong with it.

    Raises:
        RunError: memory ran out.
    """
    try:
        with opened(path) as image:
            return np.asarray(prepare(to_rgb(image)))
    except Exception as error:  # Pillow's readers raise errors of many types for broken files
        return fault_of(path, error)


def pixels_or_fault(path: str, prepare: Callable[[Image.Image], Image.Image]) -> np.ndarray | str:
    """Returns what `read_pixels` does, but a message also if memory ran out: one image may be huge,
    or say so where it is damaged, and the next one needs none of its memory."""
    try:
        return read_pixels(path, prepare)
    except RunError as error:
        return str(error)


def fault_of(path: str, error: Exception) -> str:
    """Returns a message on why a file could not be read.

    Raises:
        RunError: memory ran out, so the file may be sound.
    """
    if is_out_of_memory(error):
        raise RunError(f"{shown(path)}: out of memory while it was read") from error
    if isinstance(error, FileNotFoundError):
        is_link = os.path.islink(path)
        return f"{shown(path)}: {'a link to nothing' if is_link else 'no such file'}"
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(path)}: {error.strerror}"
    if isinstance(error, Image.DecompressionBombError):
        return f"{shown(path)}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels"
    # Pillow's own message would name the file a second time.
    if isinstance(error, Image.UnidentifiedImageError):
        is_heif = path.lower().endswith(HEIF_SUFFIXES)
        if is_heif and ".heic" not in Image.registered_extensions():
            return (
                f"{shown(path)}: needs the package pillow-heif: python -m pip install pillow-heif"
            )
        return f"{shown(path)}: not an image that Pillow can read"
    return f"{shown(path)}: {error or type(error).__name__}"
