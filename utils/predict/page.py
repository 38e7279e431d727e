"""The page of predictions: pictures with their likeliest classes, the least certain first."""

import base64
import heapq
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datasets.files.images import opened, to_rgb
from utils.predict.predictions import Prediction
from utils.predict.targets import written
from utils.templates import read_template

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 200
THUMBNAIL = 160  # pixels of the longer side
LARGEST_ENLARGEMENT = 4


@dataclass(frozen=True)
class Card:
    """An image on the page: the name of its file, its picture as a data URI (empty if the file is
    gone), and the likeliest classes with their confidences in percent."""

    file: str
    picture: str
    classes: list[tuple[str, str]]


class LeastCertain:
    """Keeps the `number` predictions with the lowest confidence, and counts all predictions."""

    def __init__(self, number: int = SHOWN) -> None:
        self.number = number
        self.count = 0
        self._heap: list[tuple[float, int, Prediction]] = []

    def add(self, prediction: Prediction) -> None:
        """Adds a prediction, and drops the most certain one if there are too many."""
        self.count += 1
        # The smallest entry is the most certain one; of equally certain ones the latest.
        heapq.heappush(self._heap, (-prediction.confidences[0], -self.count, prediction))
        if len(self._heap) > self.number:
            heapq.heappop(self._heap)

    def predictions(self) -> list[Prediction]:
        """Returns the kept predictions, the least certain first."""
        return [prediction for _, _, prediction in sorted(self._heap, reverse=True)]


def write_page(path: Path, kept: LeastCertain, skipped: int, title: str) -> None:
    """Writes the page as one self-contained file without scripts.

    Args:
        path: the file.
        kept: the predictions to show.
        skipped: the number of files that could not be read.
        title: the heading, with the network and the classifier.

    Raises:
        OSError: the page cannot be written.
    """
    cards = [_card(prediction) for prediction in kept.predictions()]
    text = read_template(TEMPLATE).render(
        title=title, cards=cards, count=kept.count, skipped=skipped
    )
    with written(path) as file:
        file.write(text.encode())


def _card(prediction: Prediction) -> Card:
    shares = [f"{100 * confidence:.1f}" for confidence in prediction.confidences]
    return Card(
        # In names that are not UTF-8, some bytes stand for no character.
        file=prediction.file.encode(errors="surrogateescape").decode(errors="replace"),
        picture=thumbnail(prediction.file),
        classes=list(zip(prediction.classes, shares, strict=True)),
    )


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
