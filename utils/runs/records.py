"""Reads runs from their record files. No checkpoint is opened."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError, is_out_of_memory, warn
from utils.evaluation.accuracy_records import balanced_accuracy
from utils.evaluation.shot_groups import GROUPS
from utils.options.flags import Options
from utils.runs.run_folder import is_seed_folder


def read_epochs(folder: Path) -> list[dict]:
    """Returns the epochs in a run's `log.jsonl`. They end before the first line that was cut off.

    Raises:
        UserError: the file is not a log of epochs.
    """
    path = folder / "log.jsonl"
    epochs = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
                raise UserError(f"{path}: not a log of epochs")
            epochs.append(record)
    return epochs


class MissingRecord(Exception):
    """A record file that a figure needs is missing or useless; the message says why."""


@dataclass(frozen=True)
class RecordedRun:
    """The records of a run.

    Args:
        folder: the folder of the records.
        arguments: the content of `args.json`.
        epochs: the entries of `log.jsonl`.
        summary: the content of `summary.json`; None for an unfinished run.
        parent: the stage 1 of a stage 2; None if the folders above have none.
    """

    folder: Path
    arguments: dict
    epochs: list[dict]
    summary: dict | None
    parent: "RecordedRun | None"

    @property
    def stage(self) -> int:
        return 2 if self.arguments.get("pretrained") else 1

    @property
    def seed(self) -> object:
        return self.arguments.get("seed")

    @property
    def options(self) -> Options:
        """The recorded options; a flag that the record lacks has its default."""
        return Options.from_record(self.arguments)

    @property
    def is_finished(self) -> bool:
        return self.summary is not None

    @property
    def command(self) -> str:
        """The command line that made the run; empty if it is not recorded."""
        machine = self.arguments.get("machine")
        command = machine.get("command") if isinstance(machine, dict) else None
        if not isinstance(command, list):
            return ""
        return "python " + shlex.join(map(str, command))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the training so far."""
        if self.summary is not None:
            return float(self.summary["seconds"])
        return sum(float(record["seconds"]) for record in self.epochs)

    def results(self, which: str) -> dict | None:
        """Returns the accuracies of the `selected` or the `last` epoch, or None if there is no such
        epoch: ``{"epoch", "test", "heldout"}``, where ``test`` and ``heldout`` are as in
        `summary.json` (None without held-out images). An unfinished run has only a last epoch."""
        if self.summary is not None:
            heldout = self.summary["heldout"]
            test = self.summary["test"][which]
            held = heldout[which] if heldout else None
            return {"epoch": test["epoch"], "test": test, "heldout": held}
        if which == "last" and self.epochs:
            last = self.epochs[-1]
            test, heldout = last["results"]["test"], last["results"].get("heldout")
            return {"epoch": last["epoch"], "test": test, "heldout": heldout}
        return None

    @property
    def shown(self) -> dict | None:
        """The `results` that figures show: of the selected epoch, or of the last epoch of an
        unfinished run."""
        return self.results("selected") or self.results("last")

    @property
    def margin_record(self) -> dict | None:
        """The entry of `log.jsonl` of the shown epoch; if it has no margins, the last entry that
        has; None if none has, or if no loss of the run reads margins, which earlier versions
        recorded all the same."""
        if not self.options.has_margins:
            return None
        having = [record for record in self.epochs if record["margins"]]
        epoch = self.shown["epoch"] if self.shown else None
        same = [record for record in having if record["epoch"] == epoch]
        return (same or having or [None])[-1]

    def arrays(self, name: str, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the named arrays of one of the run's npz files.

        Args:
            name: the file, such as `predictions.npz`.
            fields: the arrays, such as `labels` and `preds`.

        Raises:
            MissingRecord: the file or an array is missing, or an array cannot be what its name
                says.
        """
        path = self.folder / name
        if not path.is_file():
            raise MissingRecord(f"there is no {name}")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {field: file[field] for field in fields}
        except KeyError as error:
            raise MissingRecord(f"{name} has no array {error.args[0].split()[0]}") from error
        except Exception as error:  # whatever the bytes made of the reader
            if is_out_of_memory(error):
                raise
            raise MissingRecord(f"{name} cannot be read") from None
        if problem := _problem_of(arrays):
            raise MissingRecord(f"{name} {problem}")
        return arrays


def _problem_of(arrays: dict[str, np.ndarray]) -> str | None:
    """Returns what is wrong with arrays of an npz file; None if nothing is."""
    for field, array in arrays.items():
        if array.ndim != (2 if field == "feats" else 1) or not len(array):
            return f"has {field} of the wrong shape"
        is_whole = field.endswith(("labels", "preds"))
        if array.dtype.kind not in ("iu" if is_whole else "f"):
            return f"has {field} of the wrong type"
        if (is_whole and array.min() < 0) or not np.isfinite(array).all():
            return f"has {field} out of range"
    if len({len(array) for array in arrays.values()}) > 1:
        return "has arrays of different lengths"
    if "confs" in arrays and not ((arrays["confs"] >= 0) & (arrays["confs"] <= 1)).all():
        return "has confs out of range"
    return None


def read_run(folder: Path) -> RecordedRun:
    """Returns the records in a run's folder.

    Raises:
        UserError: the folder holds no run, or a file is not a record of a run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (folder / "args.json").is_file():
        raise UserError(f"{folder}: not the folder of a run (no args.json in it)")
    arguments = _read_object(folder / "args.json")
    summary = None
    if (folder / "summary.json").exists():
        summary = _read_object(folder / "summary.json")
    try:
        epochs = read_epochs(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'log.jsonl'}: unreadable ({error})") from error
    parent = None
    if arguments.get("pretrained"):
        parent = _parent_of(folder)
    run = RecordedRun(folder, arguments, epochs, summary, parent)
    _check(run)
    return run


def _parent_of(folder: Path) -> RecordedRun | None:
    """Returns the stage-1 run of a stage-2 folder, or None if it cannot be read.

    It is in the folder above. For one of several seeds it may also be the stage 1 of the same seed,
    or the one from which all seeds started.
    """
    above = folder.absolute().parent
    places = [above]
    if is_seed_folder(folder.name):
        places += [above.parent / folder.name, above.parent]
    for place in places:
        try:
            parent = read_run(place)
        except UserError:
            continue
        if parent.stage == 1:
            return parent
    return None


def place_of(folder: Path, stage: int) -> Path:
    """Returns the path of a run's folder below its root: ``STAGE1`` or ``STAGE1/STAGE2``, where
    either name may be followed by the folder of a seed, such as ``seed0``."""
    parts, depth, names = folder.absolute().parts, 0, 0
    while names < stage and depth < len(parts):
        depth += 1
        names += not is_seed_folder(parts[-depth])
    return Path(*parts[-depth:])


def records_of(path: Path, options: Options) -> list[Path]:
    """Returns the folders in which the records of a checkpoint's run may be: below `--root_log`,
    and beside the checkpoint, since an evaluation may have a `--root_log` of its own."""
    folders = [path.parent]
    with suppress(ValueError):  # not below --root_model
        folders.insert(0, Path(options.root_log, path.parent.relative_to(options.root_model)))
    return folders


def records_below(root_log: Path | None, folder: Path) -> list[Path]:
    """Returns the folders below a root in which the records of a run or its evaluation may be.

    Args:
        root_log: the root, if the run or the evaluation had a `--root_log` of its own; without it
            the list is empty.
        folder: the folder of the run's checkpoints.
    """
    if root_log is None:
        return []
    # A checkpoint does not say whether its run is one of stage 2, in the folder of its stage 1.
    records = [root_log / place_of(folder, stage) for stage in (2, 1)]
    return [place for place in records if place.is_dir()] or records[1:]


def warn_of_unfinished(path: Path, folders: Sequence[Path], program: str = "main.py") -> None:
    """Warns if a checkpoint is from a run that is not finished. Without records of that run there
    is no warning.

    Args:
        path: the checkpoint.
        folders: where the records of its run may be; the first with an `args.json` counts.
        program: the name of the program that warns.
    """
    try:
        run = read_run(next((f for f in folders if (f / "args.json").is_file()), folders[-1]))
    except UserError:
        return
    if path.name.startswith("ckpt") and not run.is_finished:
        done = run.epochs[-1]["epoch"] if run.epochs else 0
        wanted = run.arguments.get("epochs")
        warn(
            f"{path} is from a run that is not finished: {done} of {wanted} epochs are done",
            program,
        )


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: unreadable ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a record of a run")
    return content


@contextmanager
def wrong_types_as_user_errors(folder: Path) -> Iterator[None]:
    """Turns errors that come of values of a wrong type in the records of a run into a `UserError`
    that names its folder."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"not the records of a run ({type(error).__name__}: {error})"
        raise UserError(f"{folder}: {reason}") from error


def _check(run: RecordedRun) -> None:
    """Checks that the records have what the report page reads.

    Raises:
        UserError: they do not.
    """
    name = "summary.json" if run.is_finished else "log.jsonl"
    try:
        for which in ("selected", "last"):
            results = run.results(which)
            if results:
                accuracies_of(results)
        float(run.seconds)
        classes = set()
        if shown := run.shown:
            classes.add(len(np.array(shown["test"]["linear"]["per_class"], dtype=float)))
        if run.summary is not None:
            classes.add(len([int(count) for count in run.summary["class_counts"]]))
            _check_one(classes)
        if "class_counts" in run.arguments:  # earlier versions have them in the summary alone
            name = "args.json"
            classes.add(len([int(count) for count in run.arguments["class_counts"]]))
            _check_one(classes)
        name = "log.jsonl"
        for record in run.epochs:
            _check_epoch(record)
            classes.add(len(record["results"]["test"]["linear"]["per_class"]))
            classes |= {len(record["margins"])} if record["margins"] else set()
        _check_one(classes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{run.folder / name}: not a record of a run ({detail})") from error


def _check_one(numbers_of_classes: set[int]) -> None:
    if len(numbers_of_classes) > 1:
        raise ValueError("different numbers of classes")


def _check_epoch(record: dict) -> None:
    int(record["epoch"])
    str(record["phase"])
    float(record["seconds"])
    for value in (*record["losses"].values(), *(record["margins"] or [])):
        float(value)
    test = record["results"]["test"]
    float(test["linear"]["loss"])
    accuracies_of({"test": test, "heldout": None})


def accuracies_of(results: dict) -> dict[str, float | None]:
    """Returns the accuracies of an epoch, in percent, as the table has them.

    - ``top1``, ``balanced``, ``macro_f1``, ``many``, ``medium``, ``few``: the network's own
      classifier on the test images; earlier versions recorded no macro F1;
    - ``ncm``: top-1 of the nearest class mean on the test images;
    - ``heldout``: balanced accuracy of the network's own classifier on the held-out images.

    Args:
        results: what `RecordedRun.results` returned.
    """
    linear, ncm, heldout = results["test"]["linear"], results["test"]["ncm"], results["heldout"]
    found = {"top1": linear["top1"], "balanced": balanced_accuracy(linear)}
    found["macro_f1"] = linear.get("macro_f1")
    found |= {group: linear[group] for group in GROUPS}
    found["ncm"] = ncm["top1"] if ncm else None
    found["heldout"] = balanced_accuracy(heldout["linear"]) if heldout else None
    return {name: None if value is None else float(value) for name, value in found.items()}
