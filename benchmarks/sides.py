"""The two sides of a benchmark behind one face."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.measure import PHASES, EpochTime, clock, process_settings_kept
from benchmarks.plain_loop import PlainLoop, favour
from benchmarks.settings import Settings
from datasets import LongTailedData
from utils.machine.device import choose_machine

if TYPE_CHECKING:
    from benchmarks.our_side import OurSide, PreparedSide

PLAIN = "plain float32"


def side_names(precision: str) -> list[str]:
    """The columns of a benchmark: the plain loop, this project in float32 and, if it is another,
    in the precision asked for. The last is compared with the first."""
    return list(dict.fromkeys([PLAIN, "ours float32", f"ours {precision}"]))


Rate = Callable[[], float]


class Sides:
    """Visits either side on data of a size, each with torch's settings as the side sets them.

    Args:
        settings: of both.
        folder: for what runs leave.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        with process_settings_kept():
            self.device = choose_machine(settings.gpu, "float32").device
        self.plain_loops: dict[int, PlainLoop] = {}
        # On a GPU an epoch is short, and its first one captures or compiles the step.
        self.is_warmed_up = self.device.type == "cuda" or settings.step == "compile"

    def ours(self, name: str, data: LongTailedData) -> "OurSide":
        # Imported where it is used: the plain loop's start-up must not pay for it.
        from benchmarks.our_side import OurSide

        settings = replace(self.settings, precision=_precision(name))
        repetitions = (3, 1) if self.is_warmed_up else (1, 0)
        return OurSide(settings, data, self.folder, *repetitions)

    def plain(self, data: LongTailedData) -> PlainLoop:
        """The plain loop on these data; the same one each time, as its workers may persist."""
        if id(data) not in self.plain_loops:
            s = self.settings
            workers = s.workers, s.persistent_workers
            loop = PlainLoop(data, s.arch, self.device, self.folder, s.batch_size, *workers)
            self.plain_loops[id(data)] = loop
        return self.plain_loops[id(data)]

    def plain_epoch(self, phase: str, data: LongTailedData) -> EpochTime:
        with self._process_of(PLAIN):
            return self.plain(data).epoch(phase)

    def visit(self, name: str, data: LongTailedData) -> dict[str, list[EpochTime]]:
        """Epochs of each phase."""
        if name == PLAIN:
            return {phase: [self.plain_epoch(phase, data)] for phase in PHASES}
        with self._process_of(name):
            return self.ours(name, data).visit()

    def first_step(self, name: str, data: LongTailedData) -> None:
        """Trains until the first step of stage 1 is done."""
        with self._process_of(name):
            side = self.plain(data) if name == PLAIN else self.ours(name, data)
            side.first_step()
            clock(self.device)

    @contextmanager
    def _process_of(self, name: str) -> Iterator[None]:
        """Inside, torch's settings are those of the side."""
        with process_settings_kept():
            if name == PLAIN:
                favour(self.device)
            else:
                choose_machine(self.settings.gpu, _precision(name))
            yield

    @contextmanager
    def passes(self, data: LongTailedData) -> Iterator[dict[str, dict[str, Rate]]]:
        """By side, functions that measure images a second of training in `pretraining` and
        `features`, of `evaluation` and of `augmentation`. The plain loop's workers persist here:
        their start is no part of any."""
        s = self.settings
        loop = PlainLoop(data, s.arch, self.device, self.folder, s.batch_size, s.workers, True)
        with contextlib.closing(loop):
            sides: dict[str, PlainLoop | PreparedSide] = {PLAIN: loop}
            for name in side_names(s.precision)[1:]:
                with self._process_of(name):
                    sides[name] = self.ours(name, data).prepared()
            yield {name: self._rates(name, side) for name, side in sides.items()}

    def _rates(self, name: str, side: "PlainLoop | PreparedSide") -> dict[str, Rate]:
        def of(measure: Rate) -> Rate:
            def rate() -> float:
                with self._process_of(name):
                    return measure()

            return rate

        return {
            "pretraining": of(lambda: side.training_rate("pretraining")),
            "features": of(lambda: side.training_rate("features")),
            "evaluation": of(side.evaluation_rate),
            "augmentation": of(side.augmentation_rate),
        }

    def close(self) -> None:
        for loop in self.plain_loops.values():
            loop.close()


def _precision(name: str) -> str:
    """Of a side of ours, by its name."""
    return name.split()[1]


def peak_device_memory(device: torch.device) -> int | None:
    """Bytes, since the process began; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
