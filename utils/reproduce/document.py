"""Writes `RESULTS.md`, `table.json`, the forest plots and, for own data, `page.html`, from the
records of the runs."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt

from utils.evaluation.statistics import Difference
from utils.files import atomic_write, write_json
from utils.options.recipes import RECIPES
from utils.reproduce.comparisons import against_published, comparisons, rankings
from utils.reproduce.drawing import forest
from utils.reproduce.filing import read_records
from utils.reproduce.margins import margin_courses
from utils.reproduce.plan import FULL_LENGTH, PROTOCOLS, Cell
from utils.reproduce.results import CHAINS, LINE, Frame, as_frame, as_json, tabulate
from utils.reproduce.rows import ROWS
from utils.runs.records import RecordedRun
from utils.templates import read_template

TEMPLATES = Path(__file__).parent / "templates"
WANTED_SEEDS = 3
ANSWERS = (
    *("the robust loss", "the robust loss, normalised distances", "all of stage 2"),
    "balanced softmax and its recipe over cross-entropy",
    "the robust loss in one stage, balanced softmax",
)
"""The comparisons at the top of the page."""


def write_results(folder: Path, commands: Mapping[Cell, str]) -> Path:
    """Writes the files of the table.

    Args:
        folder: where they go; the records are in its folder `runs`.
        commands: for rows on own data, the command that trains each.

    Returns:
        The path of `RESULTS.md`, or of `page.html` if there is one.

    Raises:
        UserError: records are damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = read_records(folder / "runs")
    frame = as_frame(records)
    entries = tabulate(frame)
    write_json(folder / "table.json", as_json(entries))
    sets = [_data_set(of_set, commands, folder) for _, of_set in frame.groupby("title", sort=False)]
    text = read_template(TEMPLATES / "RESULTS.md.jinja", FILTERS).render(
        sets=sets,
        recipes=RECIPES,
        protocols=PROTOCOLS,
        not_run=_not_run(entries),
        wanted=WANTED_SEEDS,
        full_length=FULL_LENGTH,
        machines=Counter(_machine(run) for run in records.values()),
        runs=sorted(records.items()),
    )
    files = {"RESULTS.md": text}
    if any(not of_set["is_papers"] for of_set in sets):
        body = MarkdownIt("commonmark").enable("table").render(text)
        files["page.html"] = read_template(TEMPLATES / "page.html.jinja").render(body=body)
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content.encode(errors="replace"))  # of names that are not UTF-8
    return folder / list(files)[-1]


def _data_set(frame: Frame, commands: Mapping[Cell, str], folder: Path) -> dict[str, Any]:
    """Returns what the templates need to know about a data set."""
    entries, compared, published = tabulate(frame), comparisons(frame), against_published(frame)
    shown, data = _without_parts(entries), frame["data"].iloc[0]
    runs = shown.assign(
        runs_by=[e["protocol"] if RECIPES[e["row"]].start else "any" for e in _dicts(shown)]
    )
    return {
        "title": data.title,
        "is_papers": bool(data.ratio),
        "has_subsets": frame["data"].nunique() > 1,
        "lines": [
            {entry["protocol"]: entry for entry in _dicts(line)}
            for _, line in shown.groupby(LINE, sort=False)
        ],
        "entries": _dicts(entries),
        "gaps": _dicts(_with_gaps(runs.drop_duplicates([*LINE, "runs_by"]))),
        "comparisons": _dicts(compared),
        "answers": _answers(compared),
        "published": _dicts(published),
        "reached": [
            c for c in _dicts(published) if c["protocol"] == "test" and c["is_full_length"]
        ],
        "margins": _dicts(margin_courses(frame)),
        "rankings": _rankings(frame, commands),
        "figure": forest(compared, data, folder / "figures"),
    }


def _rankings(frame: Frame, commands: Mapping[Cell, str]) -> list[dict[str, Any]]:
    """Returns the rankings, each with a run and the command of its first row. Those that have a
    command, of the comparison that is made now, come first."""
    runs = dict(zip(frame["cell"], frame["run"], strict=True))
    found = []
    for ranked in rankings(frame):
        first = ranked.iloc[0]["cell"]
        found.append({"lines": _dicts(ranked), "run": runs[first], "command": commands.get(first)})
    return sorted(found, key=lambda ranking: ranking["command"] is None)


def _dicts(frame: Frame) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def _answers(compared: Frame) -> list[dict[str, Any]]:
    """Returns the comparisons in `ANSWERS` by the protocol `test`. For each length and precision it
    is the one with the most seeds."""
    found: dict[tuple, dict[str, Any]] = {}
    for line in _dicts(compared):
        if line["what"] in ANSWERS and line["protocol"] == "test":
            key = line["what"], line["length"], line["precision"], line["data"]
            if key not in found or len(line["seeds"]) > len(found[key]["seeds"]):
                found[key] = line
    return list(found.values())


def _with_gaps(runs: Frame) -> Frame:
    """Returns the lines in which the choice of the epoch changes a number that is shown."""
    return runs[(runs.filter(regex="^gap_").abs() >= 0.005).any(axis=1)]


def _without_parts(entries: Frame) -> Frame:
    """Returns the entries without those of a chain whose seeds are also among the seeds of stage 2
    in another line."""
    groups = [group for _, group in entries.groupby(LINE, sort=False)]
    parts = [ours.index for ours in groups if any(_is_part(ours, theirs) for theirs in groups)]
    return entries.drop([place for part in parts for place in part])


def _is_part(ours: Frame, theirs: Frame) -> bool:
    one, other = ours.iloc[0], theirs.iloc[0]
    return (
        one["of_seeds"] == CHAINS != other["of_seeds"]
        and all(one[name] == other[name] for name in LINE if name != "of_seeds")
        and set(one["seed_list"]) < set(other["seed_list"])
        and set(ours["protocol"]) <= set(theirs["protocol"])
    )


def _not_run(entries: Frame) -> list[dict[str, Any]]:
    """Returns the rows of the paper's table that have too few seeds at full length, by data set."""
    full = entries[entries["is_full_length"].astype(bool) & (entries["of_seeds"] == CHAINS)]
    lines = []
    for data, rows in ROWS.items():
        missing = []
        for row in rows:
            mine = full[(full["title"] == data.title) & (full["row"] == row)]
            counts = mine.groupby("protocol")["seeds"].max()
            if min(counts.get(protocol, 0) for protocol in PROTOCOLS) < WANTED_SEEDS:
                there = ", ".join(f"{p}: {counts[p]}" for p in PROTOCOLS if p in counts)
                missing.append(f"`{row}`" + (f" (seeds by {there})" if there else ""))
        if missing:
            lines.append({"title": data.title, "rows": missing})
    return lines


def _machine(run: RecordedRun) -> str:
    machine = run.arguments.get("machine") or {}
    known = [str(machine[name]) for name in ("processor", "device") if machine.get(name)]
    versions = [f"{name} {machine[name]}" for name in ("python", "torch") if machine.get(name)]
    return ", ".join(known + versions) or "a machine that is not recorded"


def _number(value: float | None, form: str = ".2f") -> str:
    return "n/a" if value is None or pd.isna(value) else format(value, form)


def _spread(values: Mapping[str, Any] | None, name: str, form: str = ".2f") -> str:
    """Returns the mean of a value over seeds, with the sample deviation if there are several."""
    if not values:
        return "not run"
    spread = values[f"{name}_std"]
    mean = values.get(name, values.get(f"{name}_mean"))
    return _number(mean, form) + ("" if pd.isna(spread) else f" ± {spread:.2f}")


def _interval(difference: Difference | None) -> str:
    """Returns a difference and its 95 % interval."""
    if not isinstance(difference, Difference):  # None, or the NaN that pandas turns it into
        return ""
    return f"{difference.points:+.2f} {_bounds(difference.interval)}".rstrip()


def _bounds(interval: tuple[float, float] | None, form: str = "+.2f") -> str:
    return "" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def _seeds(of_seeds: str, seeds: list[int]) -> str:
    return f"{len(seeds)}" if of_seeds == CHAINS else f"{len(seeds)} of {of_seeds}"


def _count(value: float) -> str:
    """Returns a number, in millions if it is large."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if value < 1e5 else f"{value / 1e6:.2f} M"


def _duration(seconds: float) -> str:
    if pd.isna(seconds):
        return ""
    minutes = round(seconds / 60)
    if not minutes:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


FILTERS = {
    "number": _number,
    "interval": _interval,
    "bounds": _bounds,
    "spread": _spread,
    "seeds": _seeds,
    "duration": _duration,
    "count": _count,
}
"""The filters of `RESULTS.md.jinja`."""
