"""One image file: whether it is an image, and how it becomes pixels."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps
from torchvision.transforms import functional

# A file with one of these endings that Pillow cannot open is a broken image. Any other file is
# opened to see whether it is one.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)

# From this side on images are treated as ImageNet's are, below it as CIFAR's.
LARGE_SIDE = 64
SHOWN_FAULTS = 3
LONGEST_SHAPE = 32  # of an image's sides, longer over shorter: what is beyond it is cut off


def listed(faults: Sequence[str]) -> str:
    """The first few faults, and how many more there are."""
    more = len(faults) - SHOWN_FAULTS
    return "; ".join(faults[:SHOWN_FAULTS]) + (f" and {more} more" if more > 0 else "")


def shown(path: str | os.PathLike) -> str:
    """The path as text that every stream can encode: bytes of a file name that are not UTF-8 are
    written as ``\\xNN``.

    Example:
        >>> print(shown("fl\\udce9ur.png"))
        fl\\xe9ur.png
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_image(path: str) -> bool:
    """Returns True if Pillow can open the file and decode its kind."""
    try:
        with Image.open(path) as image:
            return not (isinstance(image, ImageFile.StubImageFile) or image.format == "MPEG")
    except Exception:  # whatever the bytes made of the reader
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright by its EXIF orientation, in three channels of 8 bits: grey is repeated, of
    16 bits the upper 8 are taken, and what is transparent shows white.

    Raises:
        ValueError: 32-bit grey, which has no known range.
    """
    kind, image = image.format, _upright(image)
    # Pillow opens 16-bit PGM files in a mode of 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PPM", "PNG")):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[np.asarray(image) == clear] = 255
        image = Image.fromarray(grey)
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit grey has no known range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # what is wrong with the pixels is not passed over
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image


def fit(image: Image.Image, side: int) -> Image.Image:
    """The centre of the image as side × side pixels; an image of that size is taken as it is.

    The shorter side is first resized (bilinear, antialiased) to `side`, or, from 64 pixels on, to
    256/224 of it, as ImageNet's test images are. Of an image that is more than 32 times as long as
    wide only the centre is resized, so that a line of pixels does not become a huge image.
    """
    if image.size == (side, side):
        return image
    shorter = round(side * 256 / 224) if side >= LARGE_SIDE else side
    # torchvision's hints know tensors alone.
    resized: Any = functional.resize(_shortened(image), shorter)  # pyright: ignore[reportArgumentType]
    return functional.center_crop(resized, [side, side])  # pyright: ignore[reportReturnType]


def _shortened(image: Image.Image) -> Image.Image:
    """The centre of a very long image."""
    longest = LONGEST_SHAPE * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(length, longest + (length - longest) % 2) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def exactly(image: Image.Image, side: int) -> Image.Image:
    """The image as it is.

    Raises:
        ValueError: it has another size.
    """
    if image.size != (side, side):
        raise ValueError(f"{image.width}x{image.height} pixels instead of {side}x{side}")
    return image


def read_pixels(path: str, prepare: Callable[[Image.Image], Image.Image]) -> np.ndarray | str:
    """The prepared image, uint8 ``[H, W, 3]``, or what is wrong with the file."""
    try:
        with Image.open(path) as image:
            return np.asarray(prepare(to_rgb(image)))
    except Exception as error:  # whatever the bytes made of the reader
        return fault_of(path, error)


def fault_of(path: str, error: Exception) -> str:
    """What is wrong with a file that could not be read."""
    if isinstance(error, FileNotFoundError):
        is_link = os.path.islink(path)
        return f"{shown(path)}: {'a link to nothing' if is_link else 'no such file'}"
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(path)}: {error.strerror}"
    # Pillow's message for other bytes names the file a second time.
    if isinstance(error, Image.UnidentifiedImageError):
        return f"{shown(path)}: not an image that Pillow can read"
    return f"{shown(path)}: {error or type(error).__name__}"
