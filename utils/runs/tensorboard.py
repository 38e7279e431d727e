"""TensorBoard events through tensorboardX. Each event is written when it is added.

tensorboardX's `SummaryWriter` writes in a thread. On a full disk the thread ends, and closing the
writer waits for ever. Here the error is raised where it happens.

tensorboardX is imported when the first file is opened. Without it, training prints one warning and
writes no events.
"""

import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.errors import warn
from utils.text import shown


@cache
def _has_tensorboard() -> bool:
    """Returns True if tensorboardX is installed; if not, prints a warning, once."""
    try:
        import_module("tensorboardX")
    except ImportError as error:
        warn(
            f"no TensorBoard events are written ({error}); to have them, install tensorboardX: "
            "python -m pip install tensorboardX"
        )
        return False
    return True


class EventFile:
    """A new file of events in a folder. Without tensorboardX all methods do nothing.

    Args:
        folder: an existing folder.
        suffix: end of the file's name; files made within one second need different ones.
        purge_step: TensorBoard ignores events of earlier files from this step on. A resumed run
            repeats these epochs.
    """

    def __init__(self, folder: Path, suffix: str, purge_step: int | None = None) -> None:
        self.writer: Any = None
        if not _has_tensorboard():
            return
        from tensorboardX.event_file_writer import EventsWriter

        self._summary: Any = import_module("tensorboardX.summary")
        self._events: Any = import_module("tensorboardX.proto.event_pb2")
        self.writer = EventsWriter(str(folder / "events"), suffix)
        if purge_step is not None:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self.writer.write_event(self._events.Event(step=purge_step, session_log=start))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _add(self, kind: str, step: int, *arguments: Any, **settings: Any) -> None:
        """Writes the event that the function `kind` of `tensorboardX.summary` returns."""
        if self.writer is None:
            return
        made = getattr(self._summary, kind)(*arguments, **settings)
        for content in made if isinstance(made, tuple) else (made,):
            event = self._events.Event(wall_time=time.time(), step=step, summary=content)
            self.writer.write_event(event)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number."""
        self._add("scalar", step, name, value)

    def add_histogram(self, name: str, values: list[float], step: int) -> None:
        """Adds a histogram of numbers, with 30 bins."""
        self._add("histogram", step, name, np.asarray(values), bins=30)

    def add_figure(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG file as an image."""
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        self._add("image", step, name, pixels, dataformats="HWC")

    def add_hyperparameters(self, options: dict, metrics: dict[str, float], step: int) -> None:
        """Adds options, and the accuracies of the run with these options."""
        plain = {
            name: float(value) if type(value) in (int, float) else shown(str(value))
            for name, value in options.items()
        }
        self._add("hparams", step, plain, metrics)
        for name, value in metrics.items():
            self.add_scalar(name, value, step)
