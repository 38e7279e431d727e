"""`RESULTS.md`: the answer, a table for each data set, what is compared with what, and how it was
made. Everything in it is a table of numbers or fixed text."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from utils.evaluation.statistics import Difference
from utils.options.recipes import RECIPES
from utils.reproduce.comparisons import against_published, comparisons, rankings
from utils.reproduce.margins import margin_courses
from utils.reproduce.plan import FULL_LENGTH, PROTOCOLS, Cell, DataSet
from utils.reproduce.results import CHAINS, LINE, Frame, tabulate
from utils.reproduce.rows import ROWS
from utils.runs.records import RecordedRun

WANTED_SEEDS = 3
ANSWERS = ("the robust loss", "the robust loss, normalised distances", "all of stage 2")
"""The comparisons that stand at the top of the page."""


def document(
    frame: Frame,
    records: dict[Cell, RecordedRun],
    figures: dict[DataSet, list[Path]],
    commands: Mapping[Cell, str],
) -> str:
    """Returns the page, in Markdown.

    Args:
        frame: the results, as `results.results` gives them.
        records: the runs that they come from.
        figures: paths by data set (without its subset), from the page's folder.
        commands: of rows of other data than the paper's, the command that trains each anew.
    """
    table = tabulate(frame)
    sets = []
    for (name, ratio), cells in table.groupby(["name", "ratio"], sort=False):
        data = DataSet(str(name), int(ratio))
        of_set = frame[(frame["name"] == name) & (frame["ratio"] == ratio)]
        compared, published = comparisons(of_set), against_published(of_set)
        sets.append(
            {
                "title": data.title,
                "is_papers": bool(ratio),
                "lines": _lines(cells),
                "cells": cells.to_dict("records"),
                "has_subsets": cells["subset"].nunique() > 1,
                "comparisons": compared.to_dict("records"),
                "answers": _answers(compared),
                "published": published.to_dict("records"),
                "reached": _longest(published),
                "margins": margin_courses(of_set).to_dict("records"),
                "rankings": [_ranking(ranking, commands) for ranking in rankings(of_set)],
                "figures": figures.get(data, []),
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"points": _points, "interval": _interval, "accuracy": _accuracy}
    environment.filters |= {"seeds": _seeds, "top1": _top1, "duration": _duration}
    return environment.get_template("RESULTS.md.jinja").render(
        sets=sets,
        recipes=RECIPES,
        protocols=PROTOCOLS,
        not_run=_not_run(table),
        wanted=WANTED_SEEDS,
        full_length=FULL_LENGTH,
        machines=Counter(_machine(run) for run in records.values()),
        runs=[_made(cell, run) for cell, run in sorted(records.items())],
    )


def _answers(compared: Frame) -> list[dict[str, Any]]:
    """Of the comparisons by test those that answer what the paper is asked: of each length and
    precision that with the most seeds."""
    found: dict[tuple, dict[str, Any]] = {}
    for line in compared.to_dict("records"):
        if line["what"] in ANSWERS and line["protocol"] == "test":
            key = line["what"], line["length"], line["precision"], line["subset"]
            if key not in found or len(line["seeds"]) > len(found[key]["seeds"]):
                found[key] = line
    return list(found.values())


def _longest(published: Frame) -> list[dict[str, Any]]:
    """Of what is held against published numbers by test the longest runs of each row."""
    found: dict[str, dict[str, Any]] = {}
    for line in published.to_dict("records"):
        is_longer = line["row"] not in found or found[line["row"]]["length"] < line["length"]
        if line["protocol"] == "test" and is_longer:
            found[line["row"]] = line
    return list(found.values())


def _lines(cells: Frame) -> list[dict[str, Any]]:
    """The table's lines, each with its cells by protocol. A single seed of a chain is left out
    where several seeds of stage 2 from that start have a line of their own."""
    lines = []
    for _, group in cells.groupby(LINE, sort=False):
        by_protocol = {cell["protocol"]: cell for cell in group.to_dict("records")}
        first = next(iter(by_protocol.values()))
        lines.append(first | {"by": by_protocol})

    def is_part_of_another(line: dict[str, Any]) -> bool:
        same = [name for name in LINE if name != "of_seeds"]
        return line["of_seeds"] == CHAINS and any(
            other["of_seeds"] != CHAINS
            and all(other[name] == line[name] for name in same)
            and set(line["seed_list"]) < set(other["seed_list"])
            and other["by"].keys() >= line["by"].keys()
            for other in lines
        )

    return [line for line in lines if not is_part_of_another(line)]


def _ranking(ranking: Frame, commands: Mapping[Cell, str]) -> dict[str, Any]:
    lines = ranking.to_dict("records")
    return {"lines": lines, "first": lines[0], "command": commands.get(lines[0]["cell"])}


def _points(value: float | None) -> str:
    return "n/a" if value is None or pd.isna(value) else f"{value:+.2f}"


def _accuracy(value: float | None) -> str:
    return "n/a" if value is None or pd.isna(value) else f"{value:.2f}"


def _interval(difference: Difference | None) -> str:
    """The difference with its 95 % interval."""
    if not isinstance(difference, Difference):  # None, or what pandas makes of it
        return ""
    if difference.interval is None:
        return f"{difference.points:+.2f}"
    low, high = difference.interval
    return f"{difference.points:+.2f} [{low:+.2f}, {high:+.2f}]"


def _top1(cell: dict[str, Any] | None) -> str:
    """The mean, and with several seeds the sample deviation over them."""
    if cell is None:
        return "not run"
    spread = cell["top1_std"]
    return f"{cell['top1_mean']:.2f}" + ("" if pd.isna(spread) else f" ± {spread:.2f}")


def _seeds(of_seeds: str, seeds: Iterable[int]) -> str:
    number = len(list(seeds))
    if of_seeds == CHAINS:
        return str(number)
    return f"{number} of {of_seeds}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _not_run(table: Frame) -> list[dict[str, Any]]:
    """Rows of the paper's table with fewer full-length chains than wanted, by data set."""
    full = table[table["is_full_length"] & (table["of_seeds"] == CHAINS)] if len(table) else table
    lines = []
    for data, rows in ROWS.items():
        missing = []
        for row in rows:
            mine = full[(full["name"] == data.name) & (full["ratio"] == data.ratio)]
            counts = mine[mine["row"] == row].groupby("protocol")["seeds"].max()
            if min(counts.get(protocol, 0) for protocol in PROTOCOLS) < WANTED_SEEDS:
                there = ", ".join(f"{p}: {counts[p]}" for p in PROTOCOLS if p in counts)
                missing.append(f"`{row}`" + (f" (seeds by {there})" if there else ""))
        if missing:
            lines.append({"title": data.title, "rows": missing})
    return lines


def _made(cell: Cell, run: RecordedRun) -> dict[str, Any]:
    machine = run.arguments.get("machine") or {}
    return {
        "record": cell.record.as_posix(),
        "commit": machine.get("commit") or "not recorded",
        "command": run.command.replace("|", "\\|") or "not recorded",
    }


def _machine(run: RecordedRun) -> str:
    machine = run.arguments.get("machine") or {}
    known = [str(machine[name]) for name in ("processor", "device") if machine.get(name)]
    versions = [f"{name} {machine[name]}" for name in ("python", "torch") if machine.get(name)]
    return ", ".join(known + versions) or "a machine that is not recorded"
