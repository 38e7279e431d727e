"""The small record files of finished runs, kept where the table can be made again from them."""

from collections.abc import Iterable
from pathlib import Path

from utils.files import atomic_write
from utils.report.records import RecordedRun
from utils.reproduce.chains import place_of

KEPT = ("args.json", "log.csv", "log.jsonl", "predictions.npz", "readings.json", "summary.json")
"""`summary.json` comes last: its presence says that a run is finished."""

LARGEST_FILE = 2**20


def keep_records(runs: Iterable[RecordedRun], folder: Path) -> None:
    """Copies the runs' records below the folder, each file that is not there as it is."""
    for run in runs:
        target = folder / place_of(run.folder, run.stage)
        if target.resolve() == run.folder.resolve():
            continue
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            source, copy = run.folder / name, target / name
            if source.is_file() and source.stat().st_size <= LARGEST_FILE:
                content = source.read_bytes()
                if not copy.is_file() or copy.read_bytes() != content:
                    with atomic_write(copy) as file:
                        file.write(content)
