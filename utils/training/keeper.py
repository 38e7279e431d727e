"""Which checkpoints a run keeps."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from utils.options.flags import Options
from utils.runs import checkpoint
from utils.runs.run_folder import RunFolder, best_by
from utils.runs.writer import BackgroundWriter


class Keeper:
    """Keeps the checkpoints of the last epoch and of those that protocols choose.

    A thread writes them while training goes on; `wait` and `close` return when they are written.

    Args:
        folder: where.
        options: the protocol and the stage, and after how many epochs files are written.
    """

    def __init__(self, folder: RunFolder, options: Options) -> None:
        self.folder, self.stage, self.select_on = folder, options.stage, options.select_on
        self.every = options.checkpoint_every
        self.writer = BackgroundWriter()
        self._unwritten: dict[Path, dict] = {}

    def keep(
        self,
        portable: dict[str, Any],
        chosen_by: Iterable[str],
        state: Callable[[], dict[str, Any]],
        is_due: bool,
    ) -> None:
        """Takes the checkpoints that protocols choose, and begins to write them and the last one
        every so many epochs or where it `is_due`: what is on the disk belongs to one epoch.

        Args:
            portable: an epoch's checkpoint, with what evaluation and the next stage need.
            chosen_by: the protocols that choose this epoch.
            state: gives `portable` and everything else that going on from this epoch needs.
            is_due: whether the files must be written now.

        Raises:
            OSError: a file of an epoch before could not be written; those before it are whole.
        """
        is_due = is_due or portable["epoch"] % self.every == 0
        paths = {path: protocol for protocol in chosen_by if (path := self._path(protocol))}
        if not (is_due or paths):
            return
        whole = checkpoint.on_host(state() if is_due else portable)
        content = {key: whole[key] for key in portable}
        for path, protocol in paths.items():
            self._unwritten[path] = content | {"selected_on": protocol}
        if is_due:
            self.writer.write(self._unwritten | {self.folder.last_checkpoint: whole})
            self._unwritten = {}

    def wait(self) -> None:
        """Returns when every file that was begun is on the disk.

        Raises:
            OSError: one could not be written; those before it are whole.
        """
        self.writer.wait()

    def close(self) -> None:
        """As `wait`, and ends the thread that writes."""
        self.writer.close()

    def _path(self, protocol: str) -> Path | None:
        """Returns the file of the protocol's best checkpoint, or None where the run has none.

        A stage 2 keeps that of its own protocol alone: another one's would be the best of a chain
        whose start and features this run's protocol has chosen.
        """
        if protocol == self.select_on:
            return self.folder.best_checkpoint
        if protocol == "last" or self.stage == 2:
            return None
        return self.folder.models / best_by(protocol)

    def best_features(self) -> tuple[dict[str, Any], Path]:
        """Returns the best checkpoint of the feature phase and its file.

        It has a file of its own: the classifier's first checkpoint replaces the best one, and a run
        that is killed then must find the same features when it goes on.
        """
        self.wait()
        path = self.folder.features_checkpoint
        if not path.exists():
            checkpoint.save(path, checkpoint.load(self.folder.best_checkpoint))
        return checkpoint.load(path), path

    def what_is_left(self) -> str:
        """Says which checkpoint a run that fails leaves."""
        self.wait()
        last = self.folder.last_checkpoint
        return f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet"
