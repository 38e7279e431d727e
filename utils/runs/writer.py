"""Checkpoints written while training goes on."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from utils.runs import checkpoint


class BackgroundWriter:
    """Writes checkpoints in a thread, one set of files after another.

    An error of the thread is raised by the next call of any method.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None

    def write(self, files: Mapping[Path, dict[str, Any]]) -> None:
        """Begins to write the files, in this order, when those before them are written. Their
        content must not change any more (`checkpoint.on_host`).

        Raises:
            OSError: one of the files before them could not be written.
        """
        self.wait()
        self._writing = self._pool.submit(_write, dict(files))

    def wait(self) -> None:
        """Returns when every file is on the disk.

        Raises:
            OSError: one could not be written; those before it are whole.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """As `wait`, and ends the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _write(files: Mapping[Path, dict[str, Any]]) -> None:
    for path, content in files.items():
        checkpoint.save(path, content)
