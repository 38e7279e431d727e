"""Writes checkpoints in a thread while training goes on."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from utils.runs import checkpoint


class BackgroundWriter:
    """Writes checkpoints in a thread, one set of files after another. If that fails, the next call
    of any method raises the error."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None

    def write(self, files: Mapping[Path, dict[str, Any]]) -> None:
        """Waits until earlier files are written, then begins to write these, in their order.

        Args:
            files: content of each file; it must not change any more (`on_host`).

        Raises:
            OSError: an earlier file could not be written.
        """
        self.wait()
        self._writing = self._pool.submit(_write, dict(files))

    def wait(self) -> None:
        """Waits until all files are on the disk.

        Raises:
            OSError: a file could not be written; the files before it are whole.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits as `wait` does, then ends the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _write(files: Mapping[Path, dict[str, Any]]) -> None:
    for path, content in files.items():
        checkpoint.save(path, content)
