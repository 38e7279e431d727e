"""The small record files of finished runs, kept where the table can be made again from them."""

import json
from collections.abc import Iterable
from pathlib import Path

from utils.files import atomic_write
from utils.reproduce.chains import Chain, is_same_run, place_of
from utils.runs.records import RecordedRun, read_run

KEPT = ("args.json", "log.csv", "log.jsonl", "predictions.npz", "readings.json", "summary.json")
"""`summary.json` comes last: its presence says that a run is finished."""

LARGEST_FILE = 2**20


def keep_records(chains: Iterable[Chain], folder: Path) -> None:
    """Copies the records of the chains' runs below the folder, each file that is not there as it
    is. A run that has another one's name goes, with its stage 1, into a numbered folder."""
    for chain in chains:
        runs = [chain.start, chain.run] if chain.start else [chain.run]
        number = 1
        while not all(_has_room(_target(run, folder, number), run) for run in runs):
            number += 1
        for run in runs:
            _copy(run, _target(run, folder, number))


def _target(run: RecordedRun, folder: Path, number: int) -> Path:
    base = folder if number == 1 else folder / str(number)
    return base / place_of(run.folder, run.stage)


def _has_room(target: Path, run: RecordedRun) -> bool:
    """Whether nothing or the same run is there."""
    if not (target / "summary.json").is_file():
        return True
    return is_same_run(read_run(target), run)


def _copy(run: RecordedRun, target: Path) -> None:
    if target.resolve() == run.folder.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        source, copy = run.folder / name, target / name
        if not source.is_file() or source.stat().st_size > LARGEST_FILE:
            continue
        content = source.read_bytes()
        if name == "args.json":
            content = _without_absolute_paths(run.arguments)
        if not copy.is_file() or copy.read_bytes() != content:
            with atomic_write(copy) as file:
                file.write(content)


def _without_absolute_paths(arguments: dict) -> bytes:
    """The options as recorded, of absolute paths the last part only: where things lay on the
    machine is no part of the result."""

    def shortened(value: object) -> object:
        is_path = isinstance(value, str) and value.startswith("/")
        return Path(value).name if is_path else value

    kept = {name: shortened(value) for name, value in arguments.items()}
    machine = kept.get("machine")
    if isinstance(machine, dict) and isinstance(machine.get("command"), list):
        kept["machine"] = machine | {"command": [shortened(word) for word in machine["command"]]}
    return (json.dumps(kept, indent=2) + "\n").encode()
