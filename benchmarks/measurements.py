"""The measured values, with their medians and quartiles."""

import numpy as np


class Measurements:
    """All measured values, by quantity, side and size. The size is the multiple of the images, or
    None for a quantity without one."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, int | None], list[float]] = {}

    def add(self, quantity: str, side: str, value: float, size: int | None = None) -> None:
        self._values.setdefault((quantity, side, size), []).append(value)

    def values(self, quantity: str, side: str, size: int | None = None) -> list[float]:
        return self._values[quantity, side, size]

    def median(self, quantity: str, side: str, size: int | None = None) -> float:
        return float(np.median(self.values(quantity, side, size)))

    def text(self, quantity: str, side: str, size: int | None = None) -> str:
        """Returns `median (lower to upper quartile)`, or the only value."""
        values = self.values(quantity, side, size)
        low, median, high = map(short, _quartiles(values))
        return median if len(values) == 1 else f"{median} ({low} to {high})"

    def without_size(self) -> list[str]:
        """Returns the quantities that have no size, in the order in which they were measured."""
        return list(dict.fromkeys(name for name, _, size in self._values if size is None))

    def summary(self) -> list[dict]:
        """Returns a record for each quantity, side and size: median, quartiles and values."""
        records = []
        for (quantity, side, size), values in self._values.items():
            low, median, high = _quartiles(values)
            record = {"quantity": quantity, "side": side, "size": size, "median": median}
            records.append(record | {"quartiles": [low, high], "values": values})
        return records


def _quartiles(values: list[float]) -> list[float]:
    return np.quantile(values, (0.25, 0.5, 0.75)).tolist()


def short(value: float) -> str:
    """Returns the number with three digits, or with all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line_through(images: list[float], seconds: list[float]) -> tuple[float, float]:
    """Returns `fixed` and `slope` of seconds = fixed + images · slope, by least squares with
    fixed ≥ 0."""
    slope, fixed = np.polyfit(images, seconds, 1)
    if fixed < 0:
        slope, fixed = np.dot(images, seconds) / np.dot(images, images), 0.0
    return float(fixed), float(slope)
