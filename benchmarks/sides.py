"""The two sides of a benchmark, each in a process of its own: neither's settings of torch reach the
other, and start-up and memory are those of a side alone."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.data import benchmark_data, scaled
from benchmarks.settings import Settings
from benchmarks.side import Side
from datasets import LongTailedData
from utils.errors import RunError

PLAIN = "plain float32"
SIZES = (1, 2, 4)
"""Multiples of the images that epochs are measured at."""


def side_names(precision: str) -> list[str]:
    """Returns the columns of a benchmark: the plain loop, this project in float32 and, if it is
    another, in the precision asked for. The last is compared with the first."""
    return list(dict.fromkeys([PLAIN, "ours float32", f"ours {precision}"]))


class SideProcess:
    """A process that does what one side does, on any part of the images; it begins with the first
    thing asked of it.

    Args:
        name: one of `side_names`.
        settings: of both sides.
        folder: for what runs leave.
    """

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        self.name, self._is_plain, self._folder = name, name == PLAIN, folder
        precision = "float32" if self._is_plain else name.split()[1]
        self.settings = settings.with_flags("--precision", precision)
        # Spawned, so that nothing comes from this process, whose memory and settings are others.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))

    def ask(self, function: Callable[[Side], Any], part: float = 1.0) -> Any:
        """Returns what the function, which is sent there, returns of this side on a part of the
        images.

        Raises:
            UserError, RunError: as the function, or the process has ended.
        """
        told = self._is_plain, self.settings, self._folder, part
        try:
            return self._pool.submit(_answer, told, function).result()
        except BrokenProcessPool:
            raise RunError(f"{self.name}: its process has ended") from None

    def start_up_seconds(self) -> float:
        """Returns the seconds from the start of the process, which has not begun, to the end of its
        first step."""
        began = time.time()
        return self.ask(_first_step) - began

    def with_persistent_workers(self) -> "SideProcess":
        """Returns the same process, with other loaders: the plain loop's workers persist."""
        same = copy(self)
        same.settings = replace(self.settings, persistent_workers=True)
        return same

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def both_sides(settings: Settings) -> Iterator[list[SideProcess]]:
    """Gives a process for each of the sides."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        names = side_names(settings.options.precision)
        sides = [SideProcess(name, settings, Path(folder)) for name in names]
        for side in sides:
            stack.callback(side.close)
        yield sides


def _answer(told: tuple[bool, Settings, Path, float], function: Callable[[Side], Any]) -> Any:
    return function(_side(*told))


# Few at once, so that workers of a part that is done with end.
@lru_cache(maxsize=len(SIZES) + 1)
def _side(is_plain: bool, settings: Settings, folder: Path, part: float) -> Side:
    """Returns a side, in its process. Each imports only what it needs itself."""
    data = _data(settings, part)
    if is_plain:
        from benchmarks.plain_loop import PlainLoop

        return PlainLoop(settings, data, folder)
    from benchmarks.our_side import OurSide

    return OurSide(settings, data, folder)


@cache
def _data(settings: Settings, part: float) -> LongTailedData:
    return benchmark_data(settings)[0] if part == 1 else scaled(_data(settings, 1.0), part)


def _first_step(side: Side) -> float:
    side.first_step()
    return time.time()


# Functions to ask a side for. They stand here, because a process that imported pandas with them
# would need more memory.


def process_of(side: Side) -> int:
    return os.getpid()


def device_memory(side: Side) -> int | None:
    """Returns the most bytes on the device since the process began; None on a CPU."""
    is_cuda = side.device.type == "cuda"
    return torch.cuda.max_memory_allocated(side.device) if is_cuda else None
