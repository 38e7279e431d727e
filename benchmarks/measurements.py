"""What was measured: values, medians and spread."""

from typing import Any

import numpy as np
import pandas as pd

QUARTILES = (0.25, 0.5, 0.75)


class Measurements:
    """Every value that was measured: of which quantity, of which side, and at which multiple of the
    training set (0 where it has none)."""

    def __init__(self) -> None:
        self._samples: list[tuple[str, str, int, float]] = []

    def add(self, quantity: str, side: str, value: float, size: int = 0) -> None:
        self._samples.append((quantity, side, size, value))

    def values(self, quantity: str, side: str, size: int = 0) -> list[float]:
        return [value for *key, value in self._samples if key == [quantity, side, size]]

    def median(self, quantity: str, side: str, size: int = 0) -> float:
        return float(np.median(self.values(quantity, side, size)))

    def medians(self) -> pd.DataFrame:
        """Returns the median of each quantity and size (rows), and side (columns)."""
        return self._by_side("median")

    def texts(self) -> pd.DataFrame:
        """Returns the same as `median (lower to upper quartile)`."""
        return self._by_side(_text)

    def _by_side(self, statistic: Any) -> pd.DataFrame:
        columns = ["quantity", "side", "size", "value"]
        frame = pd.DataFrame(self._samples, columns=columns)
        return frame.pivot_table("value", ["quantity", "size"], "side", statistic)

    def summary(self) -> list[dict]:
        """Returns a record for each quantity, side and size: median, quartiles and the values."""
        records = []
        for quantity, side, size in dict.fromkeys(sample[:3] for sample in self._samples):
            values = self.values(quantity, side, size)
            low, median, high = np.quantile(values, QUARTILES).tolist()
            record = {"quantity": quantity, "side": side, "size": size or None}
            records.append(record | {"median": median, "quartiles": [low, high], "values": values})
        return records


def _text(values: pd.Series) -> str:
    low, median, high = map(short, values.quantile(QUARTILES))
    return median if len(values) == 1 else f"{median} ({low} to {high})"


def short(value: float) -> str:
    """Returns three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line_through(images: list[float], seconds: list[float]) -> tuple[float, float]:
    """Returns the least squares of seconds = fixed + images · slope, with fixed ≥ 0."""
    slope, fixed = np.polyfit(images, seconds, 1)
    if fixed < 0:
        slope, fixed = np.dot(images, seconds) / np.dot(images, images), 0.0
    return float(fixed), float(slope)
