"""The records of finished runs: filed by cell, and read into data frames."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.evaluation.shot_groups import GROUPS, balanced_accuracy
from utils.evaluation.statistics import deviation, mean
from utils.files import atomic_write
from utils.options.recipes import RECIPES
from utils.reproduce.plan import PROTOCOLS, Cell
from utils.reproduce.published import PUBLISHED
from utils.runs.records import MissingRecord, RecordedRun, accuracies_of, place_of, read_run
from utils.training.selection import chosen_epochs

Frame = Any
Line = Any
"""A pandas data frame, and a line or column of one: pandas' own annotations are unions too wide to
check by."""

KEPT = (
    "args.json",
    "log.jsonl",
    "predictions.npz",
    "summary.json",
    "readings.json",
    "geometry.json",
)
"""`summary.json` comes last: its presence says that a run is finished."""

LARGEST_FILE = 2**20

LINE = ["name", "ratio", "subset", "row", "length", "precision", "of_seeds"]
"""What the results of one line of the table share; those of its columns share `protocol` too."""
CELL = [*LINE, "protocol"]

CHAINS = "chains"
"""`of_seeds` where each seed is that of a whole chain; else `stage 2 from seed N`."""


def file_records(run: RecordedRun, target: Path) -> None:
    """Copies a finished run's small records, each file that is not there as it is. Of absolute
    paths only the last part is kept: where things lay on the machine is no part of the result."""
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        source, copy = run.folder / name, target / name
        if not source.is_file() or source.stat().st_size > LARGEST_FILE:
            continue
        content = source.read_bytes()
        if name == "args.json":
            place = {"folder": place_of(run.folder, run.stage).as_posix()}
            content = _without_absolute_paths(place | run.arguments)
        if not copy.is_file() or copy.read_bytes() != content:
            with atomic_write(copy) as file:
                file.write(content)


def _without_absolute_paths(arguments: dict) -> bytes:
    def shortened(value: object) -> object:
        return Path(value).name if isinstance(value, str) and value.startswith("/") else value

    kept = {name: shortened(value) for name, value in arguments.items()}
    machine = kept.get("machine")
    if isinstance(machine, dict) and isinstance(machine.get("command"), list):
        kept["machine"] = machine | {"command": [shortened(word) for word in machine["command"]]}
    return (json.dumps(kept, indent=2) + "\n").encode()


def read_records(folder: Path) -> dict[Cell, RecordedRun]:
    """Returns the finished runs whose records are below `folder`, by cell.

    Raises:
        UserError: damaged records.
    """
    found = {}
    for path in sorted(folder.glob("*/*/*/summary.json")):
        cell = Cell.of_record(path.parent.relative_to(folder))
        if cell is not None:
            found[cell] = read_run(path.parent)
    return found


def results(records: dict[Cell, RecordedRun]) -> Frame:
    """Returns a line for each run and protocol that it has a result of: the columns of `CELL`,
    seeds, chosen epoch, accuracies on the test set in percent, and under `cell` and `run` where
    they are from. A stage 2 whose stage 1 has another seed counts with those of the same start; one
    whose start has its own seed counts among the chains, and with those of the same start if there
    are others."""
    lines = []
    for cell, run in records.items():
        shared = {
            **{"name": cell.data.name, "ratio": cell.data.ratio, "subset": cell.data.subset},
            **{"row": cell.row, "length": cell.length, "precision": cell.precision},
            **{"seed": cell.seed, "start_seed": cell.start_seed, "cell": cell, "run": run},
            **_of_run(run),
        }
        for protocol in PROTOCOLS if cell.start is None else [cell.protocol]:
            found = _chosen(run, protocol)
            if found is not None:
                lines.append(shared | {"protocol": protocol} | found)
    frame: Frame = pd.DataFrame(lines, columns=None if lines else [*CELL, "seed", "start_seed"])
    return _with_seeds(frame)


def _of_run(run: RecordedRun) -> dict[str, Any]:
    assert run.summary is not None
    last = run.summary["test"]["last"]
    features = [r for r in run.epochs if r["phase"] == "features" and r["results"]["test"]["ncm"]]
    heldout = run.summary["heldout"]
    return {
        "final_epoch_top1": last["linear"]["top1"],
        "final_ncm": last["ncm"]["top1"] if last["ncm"] else None,
        "last_features_ncm": features[-1]["results"]["test"]["ncm"]["top1"] if features else None,
        "final_heldout": balanced_accuracy(heldout["last"]["linear"]) if heldout else None,
        "heldout_images": heldout["images"] if heldout else None,
        "seconds": run.seconds,
    }


def _chosen(run: RecordedRun, protocol: str) -> dict[str, Any] | None:
    """The accuracies of the epoch that a protocol chooses; None where the log of a run that another
    protocol chose from does not tell."""
    assert run.summary is not None
    if protocol == run.summary["selected_on"]:
        found = run.summary["test"]["selected"]
    elif protocol == "last":
        found = run.summary["test"]["last"]
    else:
        found = _best(run, protocol)
    if found is None:
        return None
    accuracies = accuracies_of({"test": found, "heldout": None})
    names = ("top1", "balanced", *GROUPS, "ncm")
    return {"epoch": found["epoch"]} | {name: accuracies[name] for name in names}


def _best(run: RecordedRun, protocol: str) -> dict | None:
    """What a protocol chooses from the log of a stage 1; None where the log is not whole or has no
    images of this kind."""
    if [r["epoch"] for r in run.epochs] != list(range(1, run.arguments["epochs"] + 1)):
        return None
    if any(not r["results"].get(protocol) for r in run.epochs):
        return None
    epoch = chosen_epochs(run.epochs, protocol)[-1]
    return {"epoch": epoch, **run.epochs[epoch - 1]["results"]["test"]}


def _with_seeds(frame: Frame) -> Frame:
    is_chain = frame["start_seed"].isna() | (frame["start_seed"] == frame["seed"])
    chains = frame[is_chain].assign(of_seeds=CHAINS)
    line = ["name", "ratio", "subset", "row", "length", "precision", "protocol", "start_seed"]
    of_one_start = []
    for key, group in frame[frame["start_seed"].notna()].groupby(line, sort=False):
        if len(group) > 1 or (group["seed"] != group["start_seed"]).any():
            of_one_start.append(group.assign(of_seeds=f"stage 2 from seed {int(key[-1])}"))
    return pd.concat([chains, *of_one_start], ignore_index=True)


def tabulate(frame: Frame) -> Frame:
    """Returns the table's cells, in the order of its rows: means over seeds, the sample deviation
    of `top1`, what is published."""
    if frame.empty:
        return pd.DataFrame(columns=[*CELL, "is_full_length", "seeds"])
    cells: Frame = pd.DataFrame([_entry(group) for _, group in frame.groupby(CELL, sort=False)])
    rows, order = list(RECIPES), ["cifar100", "cifar10"]
    keys = cells.assign(
        place=[order.index(name) if name in order else len(order) for name in cells["name"]],
        place_of_ratio=cells["ratio"].map({100: 0, 10: 1, 50: 2}).fillna(3),
        place_of_row=cells["row"].map(rows.index),
        epochs=[(-x.stage_1, -x.features, -x.classifier) for x in cells["length"]],
        rank=cells["protocol"].map(PROTOCOLS.index),
    ).sort_values(
        [
            *("place", "name", "place_of_ratio", "ratio", "place_of_row", "epochs", "precision"),
            *("subset", "of_seeds", "rank"),
        ]
    )
    return cells.loc[keys.index].reset_index(drop=True)


def _entry(group: Frame) -> dict[str, Any]:
    group = group.sort_values("seed")
    first = group.iloc[0]
    tops = [float(top1) for top1 in group["top1"]]
    top1 = sum(tops) / len(tops)
    published = None
    if first["of_seeds"] == CHAINS:
        published = PUBLISHED.get((first["name"], first["ratio"], first["row"]))
    means = [*GROUPS, "ncm", "balanced", "final_epoch_top1", "last_features_ncm"]
    return {
        **{name: first[name] for name in CELL},
        **{"top1_mean": top1, "top1_std": deviation(tops), "seeds": len(group)},
        **{name: mean(_known(group[name])) for name in means},
        "published": published,
        "difference": None if published is None else top1 - published,
        "is_full_length": first["length"].is_full(RECIPES[first["row"]]),
        "seed_list": group["seed"].tolist(),
        "epochs": group["epoch"].tolist(),
        "seconds": mean(group["seconds"].tolist()),
    }


def _known(values: Line) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]


def as_json(table: Frame) -> list[dict[str, Any]]:
    """Returns the table's cells as `table.json` has them."""

    def rounded(value: Any, digits: int = 4) -> float | None:
        return None if value is None or pd.isna(value) else round(float(value), digits)

    return [
        {
            **{"method": e["row"], "dataset": e["name"], "ratio": e["ratio"] or None},
            **{"protocol": e["protocol"], "top1_mean": rounded(e["top1_mean"])},
            **{"top1_std": rounded(e["top1_std"]), "seeds": e["seeds"]},
            **{name: rounded(e[name]) for name in (*GROUPS, "ncm", "balanced")},
            "published": rounded(e["published"]),
            "difference": rounded(e["difference"]),
            "length": str(e["length"]),
            "is_full_length": bool(e["is_full_length"]),
            "precision": e["precision"].replace("+", ", "),
            "subset": e["subset"] or None,
            "of_seeds": e["of_seeds"],
            "seed_list": e["seed_list"],
            "epochs": e["epochs"],
            "final_epoch_top1": rounded(e["final_epoch_top1"]),
            "last_features_ncm": rounded(e["last_features_ncm"]),
            "stage1_epochs": e["length"].stage_1,
            "seconds": rounded(e["seconds"], 1),
        }
        for e in table.to_dict("records")
    ]


def predictions(line: Line) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the labels of the test images ``[N]`` and which are predicted right ``[N]``, where
    the run recorded predictions and they are those of this result; else None."""
    try:
        arrays = line["run"].arrays("predictions.npz", ("labels", "preds"))
    except MissingRecord:
        return None
    correct = arrays["labels"] == arrays["preds"]
    if abs(100 * correct.mean() - line["top1"]) >= 0.005:
        return None
    return arrays["labels"], correct


def number_of_images(lines: Frame) -> int | None:
    """Returns how many test images there are, where a run recorded its predictions; else None."""
    for run in lines["run"]:
        try:
            return len(run.arrays("predictions.npz", ("labels",))["labels"])
        except MissingRecord:
            continue
    return None


def only(frame: Frame, columns: Sequence[str], like: Line) -> Frame:
    """Returns the lines that have the values of `like` in these columns."""
    mask = np.ones(len(frame), dtype=bool)
    for name in columns:
        mask &= (frame[name] == like[name]).to_numpy()
    return frame[mask]
