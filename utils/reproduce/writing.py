"""Writes the table: `RESULTS.md`, `table.json`, and figures, from the records beside them."""

from collections.abc import Mapping
from pathlib import Path

from utils.files import atomic_write, write_json
from utils.reproduce.document import document
from utils.reproduce.drawing import draw
from utils.reproduce.plan import Cell
from utils.reproduce.results import as_json, read_records, results, tabulate


def write_results(folder: Path, commands: Mapping[Cell, str]) -> Path:
    """Writes everything from the records in `folder/runs`; returns the path of `RESULTS.md`.

    Args:
        folder: where it goes.
        commands: of rows of other data than the paper's, the command that trains each anew.

    Raises:
        UserError: damaged records.
    """
    records = read_records(folder / "runs")
    frame = results(records)
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    figures = {
        data: [path.relative_to(folder) for path in paths]
        for data, paths in draw(frame, pictures).items()
    }
    write_json(folder / "table.json", as_json(tabulate(frame)))
    with atomic_write(folder / "RESULTS.md") as file:
        file.write(document(frame, records, figures, commands).encode())
    return folder / "RESULTS.md"
