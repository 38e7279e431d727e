"""SIGINT, SIGTERM and SIGHUP: the step in hand is finished, then the run stops where it can go
on."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import Interrupted

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows: no SIGHUP
_received: list[int] = []


def _alone(number: int) -> int:
    return number


_agree: Callable[[int], int] = _alone


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once


@contextmanager
def deferred(agree: Callable[[int], int] = _alone) -> Iterator[None]:
    """Inside, the signals are only noted; `check` acts on them.

    Outside the main thread, where Python allows no handlers, nothing changes.

    Args:
        agree: from the number of the signal that this process has received, or 0, to that which
            all processes of the run act on.
    """
    global _agree
    _received.clear()
    _agree = agree
    try:
        # A signal that is ignored already stays so: nohup makes a run outlive its terminal.
        heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, _remember) for number in heard}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        _agree = _alone
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raises `Interrupted` if a signal has come since; of several processes, in all at once."""
    number = _agree(_received[0] if _received else 0)
    if number:
        raise Interrupted(number)
