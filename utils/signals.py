"""SIGINT and SIGTERM: the step in hand is finished, then the run stops where it can go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, the signals are only noted; `check` acts on them.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    _received.clear()
    try:
        before = {number: signal.signal(number, _remember) for number in _SIGNALS}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raises `Interrupted` if a signal has come since."""
    if _received:
        raise Interrupted(_received[0])
