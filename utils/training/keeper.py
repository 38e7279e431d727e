"""Which checkpoints a run keeps."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from utils.options.flags import Options
from utils.runs import checkpoint
from utils.runs.host_copy import on_host
from utils.runs.run_folder import RunFolder, best_by


class Keeper:
    """Keeps the checkpoints of the last epoch and of the epochs that protocols choose.

    A thread writes them while training goes on. `wait` and `close` return when they are written. If
    a file cannot be written, the next call raises the error, once.

    Args:
        folder: the run folder.
        options: `stage`, `select_on` and `checkpoint_every` are used.
    """

    def __init__(self, folder: RunFolder, options: Options) -> None:
        self.folder, self.stage, self.select_on = folder, options.stage, options.select_on
        self.every = options.checkpoint_every
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._unwritten: dict[Path, dict] = {}

    def keep(
        self,
        portable: dict[str, Any],
        chosen_by: Iterable[str],
        state: dict[str, Any],
        is_due: bool,
    ) -> None:
        """Copies the epoch's checkpoint if a protocol chooses it. After every `--checkpoint_every`
        epochs, or if `is_due`, all files are written together, so that the files on the disk belong
        to the same epoch.

        Args:
            portable: the epoch's checkpoint with what evaluation and the next stage need.
            chosen_by: the protocols that choose this epoch.
            state: `portable` and everything else that a resumed run needs.
            is_due: True if the files must be written now.

        Raises:
            OSError: the files of an earlier epoch could not be written; those before it are whole.
        """
        is_due = is_due or portable["epoch"] % self.every == 0
        paths = {path: protocol for protocol in chosen_by if (path := self._path(protocol))}
        if not (is_due or paths):
            return
        whole = on_host(state if is_due else portable)
        content = {key: whole[key] for key in portable}
        for path, protocol in paths.items():
            self._unwritten[path] = content | {"selected_on": protocol}
        if is_due:
            self.wait()
            files = self._unwritten | {self.folder.last_checkpoint: whole}
            self._writing = self._pool.submit(checkpoint.save_all, files)
            self._unwritten = {}

    def wait(self) -> None:
        """Waits until all files are on the disk.

        Raises:
            OSError: the files could not be written; those of the epoch before are whole.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits as `wait` does, then ends the thread that writes."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _path(self, protocol: str) -> Path | None:
        """Returns the file of the protocol's best checkpoint, or None if the run keeps none.

        Stage 2 keeps only the best checkpoint of its own protocol. Another protocol's would belong
        to a chain whose beginning this run's protocol has chosen.
        """
        if protocol == self.select_on:
            return self.folder.best_checkpoint
        if protocol == "last" or self.stage == 2:
            return None
        return self.folder.models / best_by(protocol)

    def best_features(self) -> tuple[dict[str, Any], Path]:
        """Returns the best checkpoint of the feature phase and its file.

        It is copied to its own file, because the classifier phase replaces the best checkpoint. A
        run that is killed after that must find the same features when it is resumed.
        """
        self.wait()
        path = self.folder.features_checkpoint
        if not path.exists():
            checkpoint.save(path, checkpoint.load(self.folder.best_checkpoint))
        return checkpoint.load(path), path

    def what_is_left(self) -> str:
        """Returns the part of an error message that names the checkpoint which a failed run
        leaves."""
        self.wait()
        last = self.folder.last_checkpoint
        return f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet"
