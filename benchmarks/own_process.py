"""Measurements in processes of their own, which may fail, hang or crash there."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection

from utils.errors import RunError, UserError

Take = Callable[[dict], None]
Measure = Callable[[Take], None]
"""A measurement. It hands over its record whenever the record has grown, so that what it has
measured outlives it."""

HAS_GROUPS = hasattr(os, "killpg")
"""True if processes form groups; on Windows they do not."""


def in_own_process(measure: Measure, seconds: float, take: Take) -> None:
    """Calls `measure(take)`, where `measure` runs in a new process and `take` in this one. An error
    of CUDA, such as a capture that fails, breaks the process in which it happens.

    At the end the new process is killed, with all processes that it started if there are groups.

    Args:
        measure: the measurement. Tensors in it would take room in /dev/shm, which may be small.
        seconds: how long it may take, with the start of its process.
        take: is called with each record.

    Raises:
        UserError: the measurement raised it.
        RunError: it raised another error, it took too long, or its process ended.
    """
    context, deadline = get_context("spawn"), time.monotonic() + seconds
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(measure, sender))
    process.start()
    assert process.pid is not None
    sender.close()  # so that the end of the process is the end of what can be received
    try:
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            message = receiver.recv()
            if message is None:
                return
            if isinstance(message, Exception):
                raise message
            take(message)
        raise RunError(f"not within {seconds:.0f} s")
    except EOFError:
        process.join(5)
        raise RunError(f"its process ended with status {process.exitcode}") from None
    finally:
        if HAS_GROUPS:
            with suppress(ProcessLookupError):  # it has not yet made its group
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join(5)
        receiver.close()


def _run(measure: Measure, sender: Connection) -> None:
    """Runs a measurement; sends its records, then None or the error."""
    if HAS_GROUPS:
        os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        measure(sender.send)
        sender.send(None)
    except UserError as error:
        sender.send(error)
    except Exception as error:  # CUDA, the profiler and the program raise errors of many types
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        sender.send(RunError(f"{type(error).__name__}: {text}"))


def _end_with_parent() -> None:
    """Ends this process, and its group, when the process that started it has ended."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    if HAS_GROUPS:
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
