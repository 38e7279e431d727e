"""Writes the comparison page: one self-contained HTML file, with its figures also as PNG and PDF
files. Its layout is in `templates/page.html.jinja`."""

import base64
import io
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import matplotlib.figure

from utils.errors import UserError, unwritable
from utils.evaluation.shot_groups import FEW_BELOW, MANY_ABOVE
from utils.evaluation.statistics import deviation
from utils.files import atomic_write, check_writable
from utils.report.output_sections import confusion, feature_maps, reliability
from utils.report.run_groups import SettingsGroup, group_runs
from utils.report.sections import Figure, Section, accuracy_by_class, margins, training_curves
from utils.runs.records import RecordedRun, accuracies_of, read_run
from utils.runs.run_folder import is_seed_folder
from utils.templates import read_template

TEMPLATE = Path(__file__).parent / "templates" / "page.html.jinja"

TITLE = "<title>Comparison of "
"""Near the beginning of every page."""

COLUMNS = {
    "top1": "Top-1",
    "balanced": "Balanced",
    "macro_f1": "Macro F1",
    "many": "Many",
    "medium": "Medium",
    "few": "Few",
    "ncm": "NCM",
    "heldout": "Held-out",
}

# Readable at the width of a telephone, where one point of these sizes is about one pixel.
FIGURE_STYLE: dict[Any, Any] = {
    **{"font.size": 11.5, "axes.titlesize": 12, "legend.fontsize": 10.5},
    "pdf.fonttype": 42,  # TrueType; publishers refuse type 3
}
FIGURE_SIZE = (5.0, 4.2)
FIGURE_DPI = 170
FORMATS: dict[str, dict] = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""The formats of the files of figures, and their metadata: equal figures are equal files."""
FIGURE_FILE = re.compile(
    r"(linear|ncm|test_loss|train_loss_\d+"
    r"|[A-Z]+_(accuracy_by_size|margins_\w+|reliability|confusion|features_\w+))\.(png|pdf)"
)
"""Names of the files of figures of any page."""


def write_page(folders: Sequence[Path], output: Path) -> Path:
    """Compares runs on one HTML page, with the figures also in `<output>_figures/`, and returns the
    page's path. Figures of an earlier page that this one does not have are removed from there.

    Args:
        folders: folders of the runs' records, or of several seeds; a run that is given twice counts
            once.
        output: the page's path, ending in `.html`.

    Raises:
        UserError: a folder holds no run, or a path cannot be written.
        RunError: the disk is full.
    """
    pictures = output.with_name(f"{output.stem}_figures")
    _check_output(output, pictures)
    of_runs = [folder for given in folders for folder in _of_seeds(given)]
    runs = [read_run(folder) for folder in {os.path.realpath(f): f for f in of_runs}.values()]
    groups = group_runs(runs)
    sections = [
        training_curves(groups),
        accuracy_by_class(groups),
        margins(groups),
        reliability(groups),
        confusion(groups),
        feature_maps(groups),
    ]
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        page = _page(groups, sections, pictures)
        with atomic_write(output) as file:
            file.write(page.encode("utf-8", "replace"))
        # Those of an earlier page would look like figures of this one.
        drawn = {figure.name for section in sections for figure in section.figures}
        for path in pictures.iterdir():
            if FIGURE_FILE.fullmatch(path.name) and path.stem not in drawn:
                path.unlink()
    except OSError as error:
        raise unwritable(f"cannot write {output}: {error.strerror or error}", error) from error
    return output


def _of_seeds(folder: Path) -> list[Path]:
    """Returns the folders of the runs in the folder of several seeds; else the folder itself."""
    if (folder / "args.json").exists():
        return [folder]
    seeds = [path.parent for path in folder.glob("seed*/args.json")]
    found = [path for path in seeds if is_seed_folder(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name)) or [folder]


def _check_output(output: Path, pictures: Path) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: the name of the page must end in .html")
    if output.is_dir():
        raise UserError(f"cannot write {output}: it is a folder")
    if output.is_file() and output.stat().st_size and not _is_comparison(output):
        raise UserError(
            f"cannot write {output}: it is there already, and no page of a comparison; give a new "
            "name"
        )
    check_writable(output.parent)
    check_writable(pictures)


def _is_comparison(page: Path) -> bool:
    with open(page, "rb") as file:
        return TITLE.encode() in file.read(1000)


def _page(groups: Sequence[SettingsGroup], sections: Sequence[Section], pictures: Path) -> str:
    count = sum(len(group.runs) for group in groups)
    return read_template(TEMPLATE).render(
        title=f"{TITLE.removeprefix('<title>')}{count} long-tail {'run' if count == 1 else 'runs'}",
        groups=groups,
        sections=sections,
        table=_table(groups),
        columns=[*COLUMNS.values(), "Seconds"],
        picture=partial(_picture, pictures=pictures),
        size=[round(inches * FIGURE_DPI) for inches in FIGURE_SIZE],
        few_below=FEW_BELOW,
        many_above=MANY_ABOVE,
    )


def _table(groups: Sequence[SettingsGroup]) -> list[dict]:
    """Returns the parts of the table, each with a heading about a group's runs and a row for each
    epoch that is shown. The finished runs of a group share a part, with the selected and the last
    epoch. Each unfinished run has its own part, because a mean over runs of different lengths would
    mean nothing."""
    bodies = []
    for group in groups:
        if group.finished:
            bodies.append(_of_finished(group))
        bodies += [_of_unfinished(group, run) for run in group.unfinished]
    return bodies


def _of_finished(group: SettingsGroup) -> dict:
    runs = group.finished
    seeds = ", ".join(str(run.seed) for run in runs)
    count = f"1 run, seed {seeds}" if len(runs) == 1 else f"{len(runs)} runs, seeds {seeds}"
    seconds = _statistic([run.seconds for run in runs], 1)
    selected_on = (runs[0].summary or {}).get("selected_on", "?")
    titles = {"selected": f"selected on {selected_on}", "last": _last_epoch(runs[0])}
    rows = [
        _row(which, runs, f"{title} ({_epochs(runs, which)})", seconds)
        for which, title in titles.items()
    ]
    return {"group": group, "head": count, "rows": rows, "is_unfinished": False}


def _epochs(runs: Sequence[RecordedRun], which: str) -> str:
    epochs = [str(found["epoch"]) for run in runs if (found := run.results(which))]
    return epochs[0] if len(set(epochs)) == 1 else ", ".join(epochs)


def _last_epoch(run: RecordedRun) -> str:
    """Returns what the last epoch is called. That of a classifier phase depends on the test or
    held-out images if they chose the features."""
    has_both = {"features", "classifier"} <= {record["phase"] for record in run.epochs}
    is_of_chosen = has_both and run.options.select_on != "last"
    return "last epoch of chosen features" if is_of_chosen else "last epoch"


def _of_unfinished(group: SettingsGroup, run: RecordedRun) -> dict:
    planned = run.arguments.get("epochs", "?")
    done = run.epochs[-1]["epoch"] if run.epochs else 0
    head = f"1 run, seed {run.seed}, after epoch {done} of {planned}"
    rows = [
        _row("last", [run], f"{_last_epoch(run)} so far ({done})", _statistic([run.seconds], 1))
    ]
    return {"group": group, "head": head, "rows": rows, "is_unfinished": True}


def _row(which: str, runs: Sequence[RecordedRun], title: str, seconds: str) -> dict:
    found = [accuracies_of(results) for run in runs if (results := run.results(which))]
    cells = [
        (column, _statistic([record[name] for record in found], 2))
        for name, column in COLUMNS.items()
    ]
    return {"title": title, "cells": [*cells, ("Seconds", seconds)]}


def _statistic(values: Sequence[float | None], decimals: int) -> str:
    """Returns mean ± sample standard deviation as text; only the mean for one value, n/a for
    none."""
    known = [value for value in values if value is not None]
    if not known:
        return "n/a"
    spread = deviation(known)
    text = f"{fmean(known):.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")
    return text if len(known) == len(values) else f"{text} (of {len(known)})"


def _picture(figure: Figure, pictures: Path) -> str:
    """Draws a figure, writes its files, and returns it as a `data:` address."""
    contents = {}
    with matplotlib.rc_context(FIGURE_STYLE):
        canvas = matplotlib.figure.Figure(figsize=FIGURE_SIZE, layout="constrained")
        figure.draw(canvas.subplots())
        for suffix, metadata in FORMATS.items():
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=suffix, dpi=FIGURE_DPI, metadata=metadata)
            contents[suffix] = buffer.getvalue()
    for suffix, content in contents.items():
        with atomic_write(pictures / f"{figure.name}.{suffix}") as file:
            file.write(content)
    return "data:image/png;base64," + base64.b64encode(contents["png"]).decode("ascii")
