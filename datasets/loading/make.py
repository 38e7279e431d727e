"""The loader of a split, resident or streamed."""

from typing import Any

from datasets.loading.loader import Loader, Normalise
from datasets.loading.resident import ResidentLoader
from datasets.loading.streamed import StreamedLoader
from datasets.splits import AnySplit, StreamedSplit
from utils.errors import RunError, is_out_of_memory


def make_loader(split: AnySplit, normalise: Normalise, batch_size: int, **settings: Any) -> Loader:
    """Returns the loader of a split, on the device of `normalise`; images held in memory move
    there.

    Args:
        split: the images.
        normalise: makes the images floats, on its device.
        batch_size: B.
        settings: further arguments of `Loader`.

    Raises:
        RunError: the images do not fit into the memory of the device.
    """
    if isinstance(split, StreamedSplit):
        return StreamedLoader(split, normalise, batch_size, **settings)
    device = normalise.device
    try:
        split = split.to(device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"{len(split)} images of {split.images.nbytes / 2**30:.1f} GiB do not fit into the "
            f"memory of {device}: --stream True reads images of your own from their files"
        ) from error
    return ResidentLoader(split, normalise, batch_size, **settings)
