"""The folder of a run: its files, its lock, and what it records of the options."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.errors import RunError, UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks: two runs in one folder are not told apart there
    fcntl = None

LAST_CHECKPOINT = "ckpt.pth.tar"
BEST_CHECKPOINT = "ckpt.best.pth.tar"
LONGEST_NAME = 255
"""Bytes that most file systems allow in a name."""


def best_by(protocol: str) -> str:
    """File of the checkpoint that is best by a protocol other than the run's own."""
    return f"ckpt.best_{protocol}.pth.tar"


RECORD_FILES = (
    *("args.json", "log.csv", "log.jsonl", "summary.json", "report.png", "predictions.npz"),
    *("outputs_*.npz", "readings.*", "classifiers.pth", "events.out.tfevents.*", ".*.tmp"),
)


@dataclass(frozen=True)
class RunFolder:
    """The two folders of a run: checkpoints below `--root_model`, everything else below
    `--root_log`; one and the same by default."""

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
        """Stage 2's best features, from which its classifier phase starts."""
        return self.models / "ckpt.best_features.pth.tar"

    @property
    def arguments(self) -> Path:
        return self.records / "args.json"

    @property
    def summary(self) -> Path:
        return self.records / "summary.json"

    def own_files(self) -> list[Path]:
        """What a run has written here; never its sub-folders."""
        patterns = [
            *((self.models, name) for name in ("ckpt*.pth.tar", ".ckpt*.tmp")),
            *((self.records, name) for name in RECORD_FILES),
        ]
        found = (path for folder, pattern in patterns for path in folder.glob(pattern))
        return sorted({path for path in found if path.is_file()})

    def holds_a_run(self) -> bool:
        """Whether a run has begun here; an evaluation of a checkpoint from elsewhere is none."""
        begun = ("args.", "ckpt", "log.", "summary.")
        return any(path.name.startswith(begun) for path in self.own_files())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folders, and keeps a second run out while this one lasts.

        Raises:
            UserError: the folders cannot be made or another process is at work in them.
            RunError: while this one is at work, a file cannot be written.
        """
        try:
            self.models.mkdir(parents=True, exist_ok=True)
            self.records.mkdir(parents=True, exist_ok=True)
            lock = open(self.records / ".lock", "a")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"cannot write into {self.records}: {error.strerror}") from error
        with lock:
            try:
                # The kernel drops the lock with the process, however that ends.
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another run is at work in {self.records}") from None
            try:
                yield
            except BrokenPipeError:  # the reader of standard output has gone, no file is at fault
                raise
            except OSError as error:
                raise RunError(
                    f"cannot write {error.filename or f'into {self.records}'}: "
                    f"{error.strerror or error}; what was written before is intact"
                ) from error


def seed_folder(seed: int) -> str:
    """The sub-folder of one of several seeds."""
    return f"seed{seed}"


def is_seed_folder(name: str) -> bool:
    """Whether it is the name of such a sub-folder."""
    return name.startswith("seed") and name[4:].isdigit()


def recorded_options(folder: RunFolder) -> dict:
    """The content of the run's `args.json`.

    Raises:
        UserError: it cannot be read.
    """
    try:
        recorded = json.loads(folder.arguments.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder.models} holds checkpoints but no args.json: not a run that can be resumed"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.arguments}: unreadable ({error})") from error
    if not isinstance(recorded, dict) or not isinstance(recorded.get("seed"), int):
        raise UserError(f"{folder.arguments}: not a record of options with a seed")
    return recorded


def check_writable(path: Path) -> None:
    """Whether the folder is there, or can be made, and takes files.

    Raises:
        UserError: it does not.
    """
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if longest > LONGEST_NAME:
        raise UserError(f"cannot write into {path}: a name of {longest} bytes, over {LONGEST_NAME}")
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"cannot write into {path}: {nearest} is not a writable folder")
