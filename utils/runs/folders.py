"""Where runs live: names, look-up, and who may write there."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from utils.errors import RunError, UserError
from utils.options.flags import OWN_DATASETS, PRECISIONS, Options
from utils.options.run_names import stage_1_name, stage_2_name

LAST_CHECKPOINT = "ckpt.pth.tar"
BEST_CHECKPOINT = "ckpt.best.pth.tar"
CHECKPOINT_SUFFIX = ".pth.tar"
LONGEST_NAME = 255
PRETRAINED = Path("pretrained")
"""Where checkpoints come with the code, below the names of their runs' folders."""


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
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another run is at work in {self.records}") from None
            try:
                yield
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


def run_folder(options: Options) -> RunFolder:
    """The folder of the run that the options name; of the runs with `--seeds`, the one above
    theirs, or that of one of them if the options have its seed."""
    if options.stage == 1:
        parts = [stage_1_name(options)]
    else:
        parts = [_place_of_pretrained(Path(options.pretrained)), stage_2_name(options)]
    if options.seeds is not None and options.seed is not None:
        parts.append(seed_folder(options.seed))
    models = Path(options.root_model, *parts)
    return RunFolder(models, Path(options.root_log, *parts))


def find_evaluated(options: Options) -> Path:
    """The checkpoint file that `--evaluation` reads: the run's best one (of a stage 1 by
    `--select_on`), or where this machine has not made the run, the one that comes with the code; or
    else one of the same run in another precision of training, as weights have none.

    Raises:
        UserError: there is none; it names the runs that there are in the same folders.
    """
    precisions = dict.fromkeys([options.precision, *PRECISIONS])
    runs = [run_folder(replace(options, precision=precision)).models for precision in precisions]
    folders = [f for run in runs for f in (run, PRETRAINED / run.relative_to(options.root_model))]
    names = [BEST_CHECKPOINT] if options.stage == 2 else _chosen_by(options.select_on)
    candidates = (folder / name for folder in folders for name in names)
    found = next((path for path in candidates if _exists(path)), None)
    if found is None:
        above = [folder.parent for folder in folders[:2] if _exists(folder.parent)]
        runs = [path.parent for folder in above for path in folder.glob(f"*/{BEST_CHECKPOINT}")]
        there = f"; the runs there are {', '.join(map(str, sorted(runs)))}" if runs else ""
        raise UserError(f"no checkpoint {folders[0] / BEST_CHECKPOINT}{there}")
    return found


def _chosen_by(protocol: str) -> list[str]:
    """Names of a stage 1's checkpoint that is best by the protocol, the likeliest first."""
    chosen = LAST_CHECKPOINT if protocol == "last" else best_by(protocol)
    return [chosen, BEST_CHECKPOINT]


def _place_of_pretrained(path: Path) -> Path:
    """The stage-1 folder's name, below that of its run where it is one of several seeds: of the
    folder, or of the folder that the file is in; a file that is not named as a run names its
    checkpoints goes by its own name."""
    folder = path.resolve()
    if path.name.endswith(CHECKPOINT_SUFFIX):
        if not path.name.startswith("ckpt"):
            return Path(path.name.removesuffix(CHECKPOINT_SUFFIX))
        folder = folder.parent
    return Path(*folder.parts[-2 if is_seed_folder(folder.name) else -1 :])


def find_pretrained(options: Options) -> Path:
    """The stage-1 checkpoint file that `--pretrained` names, best by `--select_on`.

    Raises:
        UserError: nothing by that name, or no checkpoint in the folder.
    """
    name = options.pretrained
    places = [Path(name), Path(options.root_model, name), Path(".", name), PRETRAINED / name]
    place = next((p for p in places if _exists(p)), None)
    if place is None:
        tried = ", ".join(str(p) for p in dict.fromkeys(places))
        raise UserError(f"--pretrained {name}: no such folder or file (looked for {tried})")
    if place.is_file():
        return place
    if options.seeds is not None and _exists(place / seed_folder(options.seed)):
        place = place / seed_folder(options.seed)
    candidates = [place / name for name in _chosen_by(options.select_on)]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        raise UserError(f"--pretrained {name}: no {BEST_CHECKPOINT} in {place}")
    return found


def _exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except OSError:  # such as a name that is too long for the file system
        return False


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


def check_same_options(options: Options, recorded: dict, folder: RunFolder) -> None:
    """Whether the options continue the recorded run. A flag that the record lacks did not exist
    when the run was made, which counts as its default.

    Raises:
        UserError: any option that changes the result differs; it names them all.
    """
    # Own data are known by their place alone; a flag that a run did not know was at its default.
    names = options.decisive() + (("data_root",) if options.dataset in OWN_DATASETS else ())
    before = {name: recorded.get(name, options.default_here(name)) for name in names}
    # The seed and the size of the images are those of the record where they are not given.
    from_record = {n for n in ("seed", "image_size") if getattr(options, n) is None}
    differing = [
        f"--{name} {getattr(options, name)} (recorded: {before[name]})"
        for name in names
        if name not in from_record and before[name] != getattr(options, name)
    ]
    if differing:
        raise UserError(
            f"--resume True: the run in {folder.records} was made with other options: "
            + ", ".join(differing)
        )


def prepare(options: Options, folder: RunFolder) -> str:
    """What to do with the run's folder: `start`, `continue`, `finished` or `replace`.

    Raises:
        UserError: it cannot be written into, or holds a run that is neither to be resumed nor to
            be overwritten, or one with other options.
    """
    check_writable(folder.models)
    check_writable(folder.records)
    if not folder.holds_a_run():
        return "start"
    if options.overwrite:
        return "replace"
    if not options.resume:
        raise UserError(
            f"{folder.records} already holds a run: --resume True continues it, "
            "--overwrite True replaces it"
        )
    check_same_options(options, recorded_options(folder), folder)
    return "finished" if folder.summary.exists() else "continue"


def check_holds_no_run(folder: RunFolder) -> None:
    """Whether the folder is free for the sub-folders of several seeds.

    Raises:
        UserError: it is that of a single run.
    """
    if folder.arguments.exists() or folder.last_checkpoint.exists():
        raise UserError(f"--seeds: {folder.records} holds a run of a single seed")


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
