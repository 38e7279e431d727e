"""CIFAR of a few pixels, on which a whole run takes a fifth of the time. A process of its own is
started so:

    python -m tests.support.small_images main FLAGS...
    python -m tests.support.small_images utils.reproduce FLAGS...
"""

import contextlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from PIL import Image

SIDE = 8


@contextlib.contextmanager
def images_of_any_side() -> Iterator[None]:
    """Inside, all images of a PNG tree of CIFAR must have the side of the first, not CIFAR's."""
    from datasets.sources import cifar

    load = cifar._load_tree

    def load_tree(name: str, tree: Path):
        first = min(tree.glob("train/*/*.png"), default=None)
        side = cifar.SIDE if first is None else Image.open(first).width
        with patch.object(cifar, "SIDE", side):
            return load(name, tree)

    with patch.object(cifar, "_load_tree", load_tree):
        yield


if __name__ == "__main__":
    del sys.argv[0]
    with images_of_any_side():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
