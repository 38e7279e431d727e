"""The comparison page: one HTML file with everything in it, and its figures as PNGs beside it."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt

from utils.errors import UserError
from utils.evaluation.shot_groups import FEW_BELOW, MANY_ABOVE
from utils.files import atomic_write
from utils.report.output_sections import confusion, feature_maps, reliability
from utils.report.run_groups import SettingsGroup, group_runs, mean_and_deviation
from utils.report.sections import Figure, Section, accuracy_by_class, margins, training_curves
from utils.runs.records import RecordedRun, accuracies_of, read_run
from utils.runs.run_folder import check_writable

COLUMNS = {
    "top1": "Top-1",
    "many": "Many",
    "medium": "Medium",
    "few": "Few",
    "ncm": "NCM",
    "heldout": "Held-out",
}

# Readable at the width of a telephone, where a point of these figures is about a pixel.
FIGURE_STYLE = {"font.size": 11.5, "axes.titlesize": 12, "legend.fontsize": 10.5}
FIGURE_SIZE = (5.0, 4.2)
FIGURE_DPI = 170

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<h1>$title</h1>
<nav aria-label="Sections"><ul>$contents</ul></nav>
<main>
$body
</main>
</body>
</html>
""")

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: #fff; color: #111;
  font: 16px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
.intro { margin: 0 0 1rem; max-width: 60rem; }
h2 { font-size: 1.25rem; margin: 2rem 0 .75rem; border-bottom: 1px solid #bbb; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: 0;
  list-style: none; }
a { color: #0b4f8a; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .75rem; color: #333; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 2px solid #555; }
th:first-child { text-align: left; font-weight: normal; }
thead th:first-child, tbody th.group { font-weight: bold; }
tbody th.group { white-space: normal; overflow-wrap: anywhere; padding-top: .8rem;
  border-top: 1px solid #bbb; }
th.group span { font-weight: normal; color: #333; }
.mark { border: 1px solid #8a4b00; color: #8a4b00; border-radius: .2rem; padding: 0 .3rem;
  font-weight: bold; white-space: nowrap; }
.figures { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill,
  minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; }
figcaption, .missing, dd { font-size: .92rem; color: #333; overflow-wrap: anywhere; }
.missing { padding-left: 1.2rem; }
dt { font-weight: bold; margin-top: 1rem; overflow-wrap: anywhere; }
dd { margin: .2rem 0 .2rem 1rem; overflow-wrap: anywhere; }
code { font-size: .85rem; overflow-wrap: anywhere; }
@media (max-width: 52rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, caption, tbody, tr, th, td { display: block; width: 100%; }
  tbody th { text-align: left; }
  th[scope=row] { font-style: italic; padding-top: .6rem; }
  td { display: flex; justify-content: space-between; padding-block: .1rem; }
  td::before { content: attr(data-label); color: #333; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
  tbody { break-inside: avoid; }
}
""".strip()


def write_page(folders: Sequence[Path], output: Path) -> Path:
    """Compares runs on one HTML page, with the figures in `<output>_figures/` too.

    Args:
        folders: of the runs' records; one that is named twice counts once.
        output: the page's path, ending in `.html`.

    Returns:
        The page's path.

    Raises:
        UserError: a folder that holds no run, or a path that cannot be written.
    """
    pictures = output.with_name(f"{output.stem}_figures")
    _check_output(output, pictures)
    runs = [read_run(folder) for folder in {f.resolve(): f for f in folders}.values()]
    groups = group_runs(runs)
    sections = [
        training_curves(groups),
        accuracy_by_class(groups, runs),
        margins(groups, runs),
        reliability(groups),
        confusion(groups, runs),
        feature_maps(groups, runs),
    ]
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        shown = [_section(section, pictures) for section in sections]
        body = [_table(groups), *shown, _listing(groups)]
        with atomic_write(output) as file:
            file.write(_page(len(runs), sections, body).encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error
    return output


def _check_output(output: Path, pictures: Path) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: the name of the page has to end in .html")
    if output.is_dir():
        raise UserError(f"cannot write {output}: it is a folder")
    check_writable(output.parent)
    check_writable(pictures)


def _page(count: int, sections: Sequence[Section], body: Sequence[str]) -> str:
    title = f"Comparison of {count} long-tail {'run' if count == 1 else 'runs'}"
    entries = [("runs", "Results"), *((s.identifier, s.title) for s in sections)]
    entries.append(("listing", "Runs"))
    contents = "".join(f'<li><a href="#{i}">{escape(text)}</a></li>' for i, text in entries)
    return PAGE.substitute(title=title, style=STYLE, contents=contents, body="\n".join(body))


def _table(groups: Sequence[SettingsGroup]) -> str:
    """Rows are groups: the selected and the last epoch of finished runs, each unfinished run by
    itself, because a mean over runs that are differently far says nothing."""
    head = "".join(f'<th scope="col">{title}</th>' for title in (*COLUMNS.values(), "Seconds"))
    rows = []
    for group in groups:
        if group.finished:
            rows.append(_finished_rows(group))
        rows += [_unfinished_row(group, run) for run in group.unfinished]
    caption = (
        "Accuracies in percent: mean ± sample standard deviation over the runs of the same "
        "settings. Top-1, many, medium and few: the network's own classifier on the test set, by "
        f"training images of a class (many: over {MANY_ABOVE}, medium: {FEW_BELOW} to "
        f"{MANY_ABOVE}, few: under {FEW_BELOW}). NCM: nearest class mean on the test set. "
        "Held-out: mean over classes on held-out images, where there are any."
    )
    return (
        '<section id="runs">\n<h2>Results</h2>\n<table>\n'
        f"<caption>{caption}</caption>\n"
        f'<thead><tr><th scope="col">Epoch</th>{head}</tr></thead>\n'
        + "\n".join(rows)
        + "\n</table>\n</section>"
    )


def _finished_rows(group: SettingsGroup) -> str:
    runs = group.finished
    seeds = ", ".join(str(run.seed) for run in runs)
    count = f"1 run, seed {seeds}" if len(runs) == 1 else f"{len(runs)} runs, seeds {seeds}"
    seconds = _statistic([run.seconds for run in runs], 1)
    rows = [
        _row(which, runs, f"{title} ({_epochs(runs, which)})", seconds)
        for which, title in (("selected", _selected_on(runs)), ("last", "last epoch"))
    ]
    return _body(group, count, rows)


def _selected_on(runs: Sequence[RecordedRun]) -> str:
    return f"selected on {runs[0].summary.get('selected_on', '?')}"


def _epochs(runs: Sequence[RecordedRun], which: str) -> str:
    epochs = [str(run.results(which)["epoch"]) for run in runs]
    return epochs[0] if len(set(epochs)) == 1 else ", ".join(epochs)


def _unfinished_row(group: SettingsGroup, run: RecordedRun) -> str:
    planned = run.arguments.get("epochs", "?")
    done = run.epochs[-1]["epoch"] if run.epochs else 0
    head = f"1 run, seed {run.seed}, after epoch {done} of {planned}"
    rows = [_row("last", [run], f"last epoch so far ({done})", _statistic([run.seconds], 1))]
    return _body(group, head, rows, is_unfinished=True)


def _body(group: SettingsGroup, head: str, rows: Sequence[str], is_unfinished: bool = False) -> str:
    mark = ' <b class="mark">unfinished</b>' if is_unfinished else ""
    return (
        f'<tbody>\n<tr><th class="group" colspan="{len(COLUMNS) + 2}" scope="rowgroup">'
        f"{group.letter}: {escape(group.description)} <span>— {escape(head)}</span>{mark}"
        "</th></tr>\n" + "\n".join(rows) + "\n</tbody>"
    )


def _row(which: str, runs: Sequence[RecordedRun], title: str, seconds: str) -> str:
    found = [accuracies_of(results) for run in runs if (results := run.results(which))]
    cells = {
        title: _statistic([record[name] for record in found], 2) for name, title in COLUMNS.items()
    }
    cells["Seconds"] = seconds
    return (
        f'<tr><th scope="row">{escape(title)}</th>'
        + "".join(f'<td data-label="{name}">{text}</td>' for name, text in cells.items())
        + "</tr>"
    )


def _statistic(values: Sequence[float | None], decimals: int) -> str:
    """Mean ± sample standard deviation, the mean alone of a single run, n/a of none."""
    found = mean_and_deviation(values)
    if found is None:
        return "n/a"
    mean, deviation = found
    known = sum(value is not None for value in values)
    text = f"{mean:.{decimals}f}"
    if known > 1:
        text += f" ± {deviation:.{decimals}f}"
    return text if known == len(values) else f"{text} (of {known})"


def _section(section: Section, pictures: Path) -> str:
    shown = "\n".join(_figure(figure, pictures) for figure in section.figures)
    parts = [f'<section id="{section.identifier}">', f"<h2>{escape(section.title)}</h2>"]
    if shown:
        parts.append(f'<p class="intro">{escape(section.intro)}</p>')
        parts.append(f'<div class="figures">\n{shown}\n</div>')
    if section.missing:
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in section.missing)
        parts.append(f'<ul class="missing">{sentences}</ul>')
    return "\n".join([*parts, "</section>"])


def _figure(figure: Figure, pictures: Path) -> str:
    """Draws the figure, writes its PNG, and embeds it."""
    with plt.rc_context(FIGURE_STYLE):
        canvas, axes = plt.subplots(figsize=FIGURE_SIZE, layout="constrained")
        try:
            figure.draw(axes)
            buffer = io.BytesIO()
            canvas.savefig(buffer, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
        finally:
            plt.close(canvas)
    with atomic_write(pictures / f"{figure.name}.png") as file:
        file.write(buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(inches * FIGURE_DPI) for inches in FIGURE_SIZE)
    return (
        f'<figure id="{figure.name}"><img src="data:image/png;base64,{data}" width="{width}" '
        f'height="{height}" alt="{escape(figure.alt)}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _listing(groups: Sequence[SettingsGroup]) -> str:
    """Where the runs are, how they were made, and all settings."""
    entries = []
    for group in groups:
        entries.append(f"<dt>{group.letter}: {escape(group.description)}</dt>")
        settings = ", ".join(f"{k} {v}" for k, v in group.runs[0].settings().items())
        entries.append(f"<dd>Settings: {escape(settings)}</dd>")
        for run in group.runs:
            state = "" if run.is_finished else ", unfinished"
            entries.append(
                f"<dd>Seed {escape(str(run.seed))}{state}: <code>{escape(str(run.folder))}</code>"
                f"<br>Command: <code>{escape(run.command or 'not recorded')}</code></dd>"
            )
    return '<section id="listing">\n<h2>Runs</h2>\n<dl>' + "\n".join(entries) + "</dl>\n</section>"
