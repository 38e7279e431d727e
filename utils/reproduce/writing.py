"""Writes the table: `RESULTS.md`, `table.json`, figures, and the records they come from."""

from pathlib import Path

from utils.files import atomic_write, write_json
from utils.reproduce.archive import keep_records
from utils.reproduce.chains import Collection, collect, tabulate
from utils.reproduce.document import by_set, document
from utils.reproduce.drawing import draw
from utils.reproduce.entries import entry


def write_results(collection: Collection, folder: Path) -> Path:
    """Keeps the records of the collection's runs in `folder/runs` and writes everything from what
    is there; the path of `RESULTS.md`."""
    kept, pictures = folder / "runs", folder / "figures"
    for needed in (kept, pictures):
        needed.mkdir(parents=True, exist_ok=True)
    keep_records(collection.chains, kept)
    collection = collect([kept])
    table = tabulate(collection.chains)
    sets = by_set(table)
    figures = {
        key: [path.relative_to(folder) for path in draw(table, cells, pictures)]
        for key, cells in sets.items()
    }
    cells = [cell for found in sets.values() for cell in found]
    write_json(folder / "table.json", [entry(cell, table[cell]) for cell in cells])
    comments = folder / "COMMENTS.md"
    text = document(table, collection, figures, comments.read_text() if comments.is_file() else "")
    with atomic_write(folder / "RESULTS.md") as file:
        file.write(text.encode())
    return folder / "RESULTS.md"
