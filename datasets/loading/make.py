"""The loader of a split, resident or streamed."""

from typing import Any

from datasets.loading.loader import Loader, Normalise
from datasets.loading.resident import ResidentLoader
from datasets.loading.streamed import StreamedLoader
from datasets.splits import AnySplit, StreamedSplit


def make_loader(split: AnySplit, normalise: Normalise, batch_size: int, **settings: Any) -> Loader:
    """Returns the loader of a split, on the device of `normalise`; images held in memory move
    there.

    Args:
        split: the images.
        normalise: makes the images floats, on its device.
        batch_size: B.
        settings: further arguments of `Loader`.
    """
    if isinstance(split, StreamedSplit):
        return StreamedLoader(split, normalise, batch_size, **settings)
    return ResidentLoader(split.to(normalise.mean.device), normalise, batch_size, **settings)
