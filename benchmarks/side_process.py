"""The sides of a benchmark, each in a process of its own. So they share no settings of torch, and
start-up and memory are those of one side."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.data import benchmark_data, scaled
from benchmarks.settings import Settings
from benchmarks.side import Side
from datasets import LongTailedData
from utils.errors import RunError

PLAIN = "plain float32"
SIZES = (1, 2, 4)
"""Epochs are measured on these multiples of the same images."""


def side_names(precision: str) -> list[str]:
    """Returns the names of the sides: the plain loop, this project in float32 and, if it is
    another, in the given precision. A benchmark compares the last with the first."""
    return list(dict.fromkeys([PLAIN, "ours float32", f"ours {precision}"]))


class SideProcess:
    """The process of one side. It starts with the first call of `ask`.

    Args:
        name: one of `side_names`.
        settings: the settings of the benchmark.
        folder: the folder for the files of runs.
    """

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.settings = settings.with_flags("--precision", name.split()[1])
        # A spawned process takes over no memory and no settings of torch from this one.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))

    def ask(self, method: str, *arguments: Any, part: float = 1.0, **changes: Any) -> Any:
        """Calls a method of the side in its process, and returns the result.

        Args:
            method: the name of the method.
            arguments: the arguments of the method.
            part: the part of the images that the side has.
            changes: fields of the settings that have another value in this call.

        Raises:
            UserError, RunError: the method raised it, or the process has ended.
        """
        settings = replace(self.settings, **changes)
        side = (self.name == PLAIN, settings, self.folder, part)
        try:
            return self._pool.submit(_call, side, method, arguments).result()
        except BrokenProcessPool:
            raise RunError(f"{self.name}: its process has ended") from None

    def start_up_seconds(self) -> float:
        """Starts the process; returns the seconds until its first training step is done."""
        began = time.perf_counter()
        self.ask("first_step")
        return time.perf_counter() - began

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def both_sides(settings: Settings) -> Iterator[list[SideProcess]]:
    """Gives the process of each side."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        names = side_names(settings.options.precision)
        sides = [SideProcess(name, settings, Path(folder)) for name in names]
        yield [stack.enter_context(closing(side)) for side in sides]


def _call(side: tuple[bool, Settings, Path, float], method: str, arguments: tuple) -> Any:
    return getattr(_side(*side), method)(*arguments)


# A side that is forgotten ends its workers, so a process keeps only a few sides.
@lru_cache(maxsize=len(SIZES) + 1)
def _side(is_plain: bool, settings: Settings, folder: Path, part: float) -> Side:
    """Returns a side. Its process imports only what this side needs."""
    data = _data(settings, part)
    if is_plain:
        from benchmarks.plain_loop import PlainLoop

        return PlainLoop(settings, data, folder)
    from benchmarks.our_side import OurSide

    return OurSide(settings, data, folder)


@cache
def _data(settings: Settings, part: float) -> LongTailedData:
    return benchmark_data(settings)[0] if part == 1 else scaled(_data(settings, 1.0), part)
