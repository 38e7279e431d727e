"""The page of predictions: pictures with their likeliest classes, the least certain first."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datasets.files.images import opened, to_rgb
from utils.predict.predictions import Prediction
from utils.predict.targets import written
from utils.templates import read_template

TEMPLATE = Path(__file__).with_name("page.html")
THUMBNAIL = 160  # pixels of the longer side
LARGEST_ENLARGEMENT = 4


def write_page(
    path: Path,
    kept: Sequence[Prediction],
    count: int,
    skipped: int,
    title: str,
    note: str = "",
) -> None:
    """Writes the page as one self-contained file without scripts.

    Args:
        path: the file.
        kept: the predictions to show, the least certain first.
        count: the number of all predictions.
        skipped: the number of files that could not be read.
        title: the heading, with the network and the classifier.
        note: why the confidences are none; then no prediction is marked as doubtful.

    Raises:
        OSError: the page cannot be written.
    """
    cards = [
        {
            # In names that are not UTF-8, some bytes stand for no character.
            "file": shown.file.encode(errors="surrogateescape").decode(errors="replace"),
            "picture": thumbnail(shown.file),
            "classes": [
                (name, f"{100 * confidence:.1f}")
                for name, confidence in zip(shown.classes, shown.confidences, strict=True)
            ],
        }
        for shown in kept
    ]
    counts = {"count": count, "skipped": skipped}
    text = read_template(TEMPLATE).render(title=title, note=note, cards=cards, **counts)
    with written(path) as file:
        file.write(text.encode())


def thumbnail(file: str) -> str:
    """Returns the picture as a data URI, upright and within 160 × 160 pixels; empty if the file
    cannot be read any more."""
    try:
        with opened(file) as image:
            small = to_rgb(image)
    except Exception:  # the file may have changed since it was classified
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    times = min(LARGEST_ENLARGEMENT, THUMBNAIL // max(small.size))
    if times > 1:  # few pixels can be seen better as squares than blurred
        size = (times * small.width, times * small.height)
        small = small.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    small.save(buffer, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
