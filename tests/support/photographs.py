"""A folder of made-up photographs as a person would have one: ten classes of uneven size, mixed
formats, some turned by EXIF, some transparent, and what else lies in such folders."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COUNTS = (120, 80, 54, 36, 24, 16, 12, 9, 6, 4)
SUFFIXES = (".jpg", ".JPG", ".png", ".webp", ".bmp", ".gif", ".tiff", ".jpeg")
EXIF_ORIENTATION = 0x0112
TURNED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores an upright picture with this entry."""

Draw = Callable[[ImageDraw.ImageDraw, float, float, float, tuple[int, ...]], None]


def _polygon(corners: int, inner: float = 1.0) -> Draw:
    def draw(canvas, x, y, r, colour):
        lengths = [r, r * inner] if inner != 1 else [r]
        steps = corners * len(lengths)
        angles = [2 * math.pi * i / steps - math.pi / 2 for i in range(steps)]
        points = [
            (
                x + lengths[i % len(lengths)] * math.cos(a),
                y + lengths[i % len(lengths)] * math.sin(a),
            )
            for i, a in enumerate(angles)
        ]
        canvas.polygon(points, fill=colour)

    return draw


def _disc(canvas, x, y, r, colour):
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _ring(canvas, x, y, r, colour):
    canvas.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(3, int(r / 3)))


def _cross(canvas, x, y, r, colour):
    canvas.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=colour)
    canvas.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=colour)


def _bars(is_upright: bool) -> Draw:
    def draw(canvas, x, y, r, colour):
        for i in (-2, 0, 2):
            at = (y if not is_upright else x) + i * r / 2.5
            low, high = at - r / 5, at + r / 5
            box = (low, y - r, high, y + r) if is_upright else (x - r, low, x + r, high)
            canvas.rectangle(box, fill=colour)

    return draw


def _dots(canvas, x, y, r, colour):
    for dx, dy in ((-1, -1), (1, -1), (-1, 1), (1, 1), (0, 0)):
        _disc(canvas, x + dx * r / 1.6, y + dy * r / 1.6, r / 4, colour)


SHAPES: dict[str, Draw] = {
    "disc": _disc,
    "square": lambda canvas, x, y, r, colour: canvas.rectangle(
        (x - r, y - r, x + r, y + r), colour
    ),
    "triangle": _polygon(3),
    "ring": _ring,
    "star": _polygon(5, inner=0.4),
    "cross": _cross,
    "fence": _bars(is_upright=True),
    "ladder": _bars(is_upright=False),
    "dice": _dots,
    "diamond": _polygon(4),
}
"""How each class is drawn, at a place and in a size, the frequent ones first."""


def picture(shape: str, generator: np.random.Generator, is_transparent: bool) -> Image.Image:
    """A shape on a coloured ground, with noise; on none if it is transparent."""
    width, height = (int(n) for n in generator.integers(120, 320, 2))
    ground, colour = (
        tuple(int(c) for c in generator.integers(*span, 3)) for span in ((140, 256), (0, 110))
    )
    mode, alpha = ("RGBA", (0,)) if is_transparent else ("RGB", ())
    image = Image.new(mode, (width, height), (*ground, *alpha))
    radius = min(width, height) * generator.uniform(0.3, 0.42)
    x, y = (n / 2 + generator.uniform(-0.06, 0.06) * n for n in (width, height))
    SHAPES[shape](ImageDraw.Draw(image), x, y, radius, (*colour, *([255] if alpha else [])))
    if is_transparent:
        return image
    noise = generator.normal(0, 12, (height, width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.7)
    )


def write_photographs(
    root: Path, counts: Sequence[int] = COUNTS, seed: int = 0, is_flat: bool = False
) -> Path:
    """Writes a folder for each class, or all files into one.

    Args:
        root: of the folders.
        counts: photographs of each class.
        seed: of what is on them.
        is_flat: whether the classes lie in one folder, their names in those of the files.
    """
    generator = np.random.default_rng(seed)
    for shape, count in zip(SHAPES, counts, strict=True):
        folder = root if is_flat else root / shape
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            suffix = SUFFIXES[i % len(SUFFIXES)]
            image = picture(shape, generator, is_transparent=suffix == ".png" and i % 3 == 0)
            settings = {}
            if suffix.lower() in (".jpg", ".jpeg") and i % 2:
                orientation = list(TURNED)[i % len(TURNED)]
                exif = Image.Exif()
                exif[EXIF_ORIENTATION] = orientation
                image, settings = image.transpose(TURNED[orientation]), {"exif": exif}
            name = f"{shape}_{i:03}" if is_flat else f"IMG_{i:04}"
            image.save(folder / f"{name}{suffix}", **settings)
    return root
