"""SIGINT, SIGTERM and SIGHUP: the run finishes its step and then stops, so that it can be
resumed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import Interrupted

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
DEFERRED = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows: no SIGHUP
_received: list[int] = []


def _alone(number: int) -> int:
    return number


_agree: Callable[[int], int] = _alone


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once


@contextmanager
def deferred(agree: Callable[[int], int] = _alone) -> Iterator[None]:
    """Inside, signals are only remembered, and `check` acts on them. In other threads than the main
    one, Python allows no handlers, so nothing changes.

    Args:
        agree: takes the number of the signal that this process has received, or 0, and returns the
            number that all processes of the run act on.
    """
    global _agree
    _received.clear()
    _agree = agree
    try:
        # nohup ignores SIGHUP so that a run outlives its terminal; such a signal stays ignored.
        heard = [n for n in DEFERRED if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, _remember) for number in heard}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        _agree = _alone
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int:
    """Returns the number of the signal that came inside the last `deferred`, or 0."""
    return _received[0] if _received else 0


def check() -> None:
    """Raises `Interrupted` if a signal has come. With several processes, all raise it at the same
    step."""
    number = _agree(received())
    if number:
        raise Interrupted(number)
