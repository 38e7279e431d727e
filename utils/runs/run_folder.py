"""The folder of a run: its files, its lock, and its recorded options."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.errors import RunError, UserError, unwritable
from utils.files import made_folder

try:
    import fcntl
except ImportError:  # Windows has no such locks, so nothing keeps two runs out of one folder there
    fcntl = None

LAST_CHECKPOINT = "ckpt.pth.tar"
BEST_CHECKPOINT = "ckpt.best.pth.tar"


def best_by(protocol: str) -> str:
    """Returns the file name of the best checkpoint by a protocol that is not the run's own."""
    return f"ckpt.best_{protocol}.pth.tar"


EVALUATION_FILES = ("outputs_*.npz", "geometry.json", "readings.*", "classifiers.pth")
RECORD_FILES = (
    *("args.json", "log.csv", "log.jsonl", "summary.json", "report.png", "predictions.npz"),
    *EVALUATION_FILES,
    *("events.out.tfevents.*", ".*.tmp"),
)
EXPORTS = ("model.onnx", "model.pt2", "model.safetensors")
MODEL_FILES = ("ckpt*.pth.tar", ".*.tmp", *EXPORTS)


@dataclass(frozen=True)
class RunFolder:
    """The two folders of a run: `models` with checkpoints, below `--root_model`, and `records` with
    everything else, below `--root_log`. By default they are the same folder."""

    models: Path
    records: Path

    @property
    def last_checkpoint(self) -> Path:
        return self.models / LAST_CHECKPOINT

    @property
    def best_checkpoint(self) -> Path:
        return self.models / BEST_CHECKPOINT

    @property
    def features_checkpoint(self) -> Path:
        """The checkpoint of stage 2's best features, from which the classifier phase starts."""
        return self.models / "ckpt.best_features.pth.tar"

    @property
    def arguments(self) -> Path:
        return self.records / "args.json"

    @property
    def summary(self) -> Path:
        return self.records / "summary.json"

    def own_files(self) -> list[Path]:
        """Returns the files of a run here, its exports included, without those in sub-folders."""
        patterns = [
            *((self.models, name) for name in MODEL_FILES),
            *((self.records, name) for name in RECORD_FILES),
        ]
        found = (path for folder, pattern in patterns for path in folder.glob(pattern))
        return sorted({path for path in found if path.is_file()})

    def delete_parts(self) -> None:
        """Deletes what processes that were killed while they wrote a file have left of it."""
        for path in self.own_files():
            if path.suffix == ".tmp":
                path.unlink()

    def outdated_files(self) -> list[Path]:
        """Returns the files that an evaluation or an export has left here. They are outdated when
        the run goes on."""
        patterns = (*EVALUATION_FILES, *EXPORTS)
        return [path for path in self.own_files() if any(map(path.match, patterns))]

    def holds_a_run(self) -> bool:
        """Returns True if a run has begun here. Files of an evaluation alone do not count, because
        its checkpoint may be elsewhere."""
        begun = ("args.", "ckpt", "log.", "summary.")
        return any(path.name.startswith(begun) for path in self.own_files())

    def written(self) -> int | None:
        """Returns when the last checkpoint was written, in nanoseconds; None if there is none."""
        try:
            return self.last_checkpoint.stat().st_mtime_ns
        except OSError:
            return None

    def check_path_length(self) -> None:
        """Makes the folder of the checkpoints, and checks that a run can write the longest of its
        names there: Windows limits whole paths.

        Raises:
            UserError: it cannot.
            RunError: the disk is full.
        """
        # As long as the name of a file that a run writes, but none that it finds and deletes.
        probe = self.models / f".{self.features_checkpoint.name}.{'0' * 8}.try"
        try:
            with made_folder(self.models):
                probe.touch()
                probe.unlink(missing_ok=True)  # another job may try at the same time
        except OSError as error:
            length = len(str(probe.absolute()))
            message = f"cannot write {probe} (a path of {length} characters): {error.strerror}"
            raise unwritable(message, error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folders, and locks both until the `with` ends, if their file system has locks.

        Raises:
            UserError: the folders cannot be made, or another process has locked one of them.
            RunError: the disk is full, or a file cannot be written inside the `with`.
        """
        with ExitStack() as stack:
            # Another run can have one of the two. That comes first: a refused run writes nothing.
            folders = self.records, self.models
            first, second = sorted(folders, key=lambda folder: not (folder / ".lock").exists())
            stack.enter_context(_locked(first))
            if not second.exists() or not second.samefile(first):
                stack.enter_context(_locked(second))
            try:
                yield
            except BrokenPipeError:  # the reader of standard output has gone; the files are right
                raise
            except OSError as error:
                is_there = all(map(os.path.isdir, folders))
                rest = "what was written before is intact" if is_there else "its folder has gone"
                raise RunError(
                    f"cannot write {error.filename or f'into {self.records}'}: "
                    f"{error.strerror or error}; {rest}"
                ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes a folder and locks it, as `RunFolder.locked` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise unwritable(f"cannot write into {folder}: {error.strerror}", error) from error
    with lock:
        try:
            # The kernel releases the lock when the process ends, in whatever way.
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {folder}") from None
        except OSError:  # a file system without locks, such as some of clusters
            pass
        yield


def seed_folder(seed: int) -> str:
    """Returns the name of the sub-folder of one of several seeds."""
    return f"seed{seed}"


def is_seed_folder(name: str) -> bool:
    """Returns True if a folder's name is one of `seed_folder`."""
    return name.startswith("seed") and name[4:].isdigit()


def recorded_options(folder: RunFolder) -> dict:
    """Returns the content of the run's `args.json`.

    Raises:
        UserError: it is missing, unreadable or without a seed.
    """
    try:
        recorded = json.loads(folder.arguments.read_text())
    except FileNotFoundError:
        raise UserError(
            f"no args.json in {folder.records}, but checkpoints in {folder.models}: give the "
            "--root_log with which the run began; without its records it cannot be resumed"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder.arguments}: unreadable ({error})") from error
    if not isinstance(recorded, dict) or not isinstance(recorded.get("seed"), int):
        raise UserError(f"{folder.arguments}: not a record of options with a seed")
    return recorded
