"""TensorBoard events through tensorboardX, written when they are added.

tensorboardX's `SummaryWriter` writes from a thread of its own, which dies on a full disk; closing
it then waits for ever. Here such an error is raised where it happens.
"""

import time
from pathlib import Path
from types import TracebackType

import matplotlib.pyplot as plt
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """A new file of events in a folder.

    Args:
        folder: it exists.
        suffix: of the file's name; what keeps apart files made within one second.
        purge_step: TensorBoard hides earlier files' events from this step on, those of epochs that
            an interrupted run goes through again.
    """

    def __init__(self, folder: Path, suffix: str, purge_step: int | None = None) -> None:
        self.writer = EventsWriter(str(folder / "events"), suffix)
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self.writer.write_event(Event(step=purge_step, session_log=start))

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.writer.close()

    def _add(self, content: Summary, step: int) -> None:
        self.writer.write_event(Event(wall_time=time.time(), step=step, summary=content))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._add(summary.scalar(name, value), step)

    def add_histogram(self, name: str, values: list[float], step: int) -> None:
        self._add(summary.histogram(name, np.asarray(values), bins=30), step)

    def add_figure(self, name: str, path: Path, step: int) -> None:
        """A PNG file as an image."""
        pixels = (255 * plt.imread(path)[:, :, :3]).astype("uint8")
        self._add(summary.image(name, pixels, dataformats="HWC"), step)

    def add_hyperparameters(self, options: dict, metrics: dict[str, float], step: int) -> None:
        """Options, and the accuracies that they led to."""
        plain = {
            name: float(value) if type(value) in (int, float) else str(value)
            for name, value in options.items()
        }
        for content in summary.hparams(plain, metrics):
            self._add(content, step)
        for name, value in metrics.items():
            self.add_scalar(name, value, step)
