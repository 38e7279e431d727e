"""The results of finished runs as a pandas frame, and the table's entries: means over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from utils.evaluation.accuracy_records import balanced_accuracy
from utils.evaluation.shot_groups import GROUPS
from utils.options.recipes import RECIPES
from utils.reproduce.plan import PROTOCOLS, Cell
from utils.reproduce.published import PUBLISHED
from utils.reproduce.rows import GRID
from utils.runs.records import MissingRecord, RecordedRun, accuracies_of
from utils.training.selection import chosen_epochs

Frame = Any
"""A pandas data frame, or a row or column of one. The types that pandas declares are too wide for a
type checker."""

LINE = ["data", "row", "length", "precision", "of_seeds"]
"""What all results in one line of the table share."""
ENTRY = [*LINE, "protocol"]
"""What the results share whose mean is one entry of the table."""

CHAINS = "chains"
"""`of_seeds` if each seed is that of both stages. Otherwise it is `stage 2 from seed N`."""

ACCURACIES = ["top1", "balanced", *GROUPS, "ncm"]
OF_RUN = [
    *("by_test", "by_heldout", "final_epoch_top1", "final_few", "final_ncm", "last_features_ncm"),
    *("final_heldout", "heldout_images", "seconds", "images_seen", "parameters"),
    *("chain_seconds", "chain_images"),
]
"""What the records of a run say, the same for all protocols."""


def as_frame(records: Mapping[Cell, RecordedRun]) -> Frame:
    """Returns a line for each run and each protocol that it has a result for, in the order of the
    table.

    The columns are those of `ENTRY` and `OF_RUN`, the seed, the selected epoch, its accuracies on
    the test set in percent, and the `cell` and the `run`. A run can have two lines: one among whole
    chains, and one among the seeds of stage 2 that start from the same stage 1.
    """
    of_runs = {cell: _of_run(run) for cell, run in records.items()}
    lines = [
        {
            "data": cell.data,
            "row": cell.row,
            "length": cell.length,
            "precision": cell.precision,
            "of_seeds": of_seeds,
            "protocol": protocol,
            "title": cell.data.title,
            "seed": cell.seed,
            "cell": cell,
            "run": run,
            "published": PUBLISHED.get((cell.data.name, cell.data.ratio, cell.row)),
            "is_full_length": cell.length.is_full(cell.recipe),
            **of_runs[cell],
            **_of_chain(cell, of_runs),
            **chosen,
        }
        for cell, run in records.items()
        for of_seeds in _kinds_of_seeds(cell, records)
        for protocol in (PROTOCOLS if cell.start is None else [cell.protocol])
        if (chosen := _chosen(run, protocol)) is not None
    ]
    lines.sort(key=_place)
    numbers = ["published", *OF_RUN, *ACCURACIES]
    columns = [*ENTRY, "title", "seed", "cell", "run", "is_full_length", "epoch", *numbers]
    frame: Frame = pd.DataFrame(lines, columns=columns)
    return frame.astype(dict.fromkeys(numbers, float))


def _place(line: dict[str, Any]) -> tuple:
    """Returns a sorting key: the paper's data sets first, rows as in RECIPES, long runs before
    short ones."""
    data, length = line["data"], line["length"]
    papers = [(of_paper.name, of_paper.ratio) for of_paper in GRID]
    key = data.name, data.ratio
    return (
        *(papers.index(key) if key in papers else len(papers), key, [*RECIPES].index(line["row"])),
        *(-length.stage_1, -length.features, -length.classifier, line["precision"], data.subset),
        *(line["of_seeds"], PROTOCOLS.index(line["protocol"]), line["seed"]),
    )


def _kinds_of_seeds(cell: Cell, records: Mapping[Cell, RecordedRun]) -> Iterator[str]:
    """Yields the values of `of_seeds` for a run. A stage 2 belongs to a chain if both stages have
    the same seed. It is a seed of stage 2 if the seeds differ, or if others have the same start."""
    if cell.start is None or cell.start_seed == cell.seed:
        yield CHAINS
    if cell.start is not None:
        siblings = [other for other in records if replace(cell, seed=other.seed) == other]
        if len(siblings) > 1 or cell.start_seed != cell.seed:
            yield f"stage 2 from seed {cell.start_seed}"


def _of_run(run: RecordedRun) -> dict[str, float | None]:
    summary = run.summary
    assert summary is not None
    last, heldout = summary["test"]["last"], summary["heldout"]
    features = [r for r in run.epochs if r["phase"] == "features" and r["results"]["test"]["ncm"]]
    return {
        **{f"by_{protocol}": _top1(_best(run, protocol)) for protocol in ("test", "heldout")},
        "final_epoch_top1": _top1(last),
        "final_few": last["linear"]["few"],
        "final_ncm": last["ncm"]["top1"] if last["ncm"] else None,
        "last_features_ncm": features[-1]["results"]["test"]["ncm"]["top1"] if features else None,
        "final_heldout": balanced_accuracy(heldout["last"]["linear"]) if heldout else None,
        "heldout_images": heldout["images"] if heldout else None,
        "seconds": run.seconds,
        "images_seen": summary.get("images_seen", _images_seen(run)),
        "parameters": summary.get("parameters"),
    }


def _images_seen(run: RecordedRun) -> int:
    """Returns the number of images in all training steps, for a run whose summary lacks it. A
    class-aware epoch draws as many images as if all classes were as large as the largest."""
    options = run.options
    counts = [int(count) for count in (run.summary or {})["class_counts"]]
    shuffled, balanced = sum(counts), max(counts) * len(counts)
    if options.stage == 1:
        return options.epochs * shuffled
    phases = (
        (options.feature_epochs, options.feature_sampler),
        (options.balanced_clf_nepochs, options.classifier_sampler),
    )
    return sum(
        epochs * (balanced if sampler.samples_per_class else shuffled) for epochs, sampler in phases
    )


def _of_chain(cell: Cell, of_runs: Mapping[Cell, dict]) -> dict[str, float]:
    """Returns the cost of a run and all runs before it; NaN if one of them has no records."""
    unknown = {"seconds": np.nan, "images_seen": np.nan}
    costs = [of_runs.get(run, unknown) for run in cell.chain]
    return {
        "chain_seconds": sum(cost["seconds"] for cost in costs),
        "chain_images": sum(cost["images_seen"] for cost in costs),
    }


def _chosen(run: RecordedRun, protocol: str) -> dict[str, Any] | None:
    """Returns the accuracies of the epoch that a protocol selects. Returns None if the run used
    another protocol and its log does not have them."""
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
    return {"epoch": found["epoch"]} | {name: accuracies[name] for name in ACCURACIES}


def _best(run: RecordedRun, protocol: str) -> dict | None:
    """Returns the epoch of the last phase that a protocol selects from the log, with its test
    results. Returns None if the log lacks epochs or has no such images."""
    if [r["epoch"] for r in run.epochs] != list(range(1, run.arguments["epochs"] + 1)):
        return None
    if any(not r["results"].get(protocol) for r in run.epochs):
        return None
    epoch = chosen_epochs(run.epochs, protocol)[-1]
    return {"epoch": epoch, **run.epochs[epoch - 1]["results"]["test"]}


def _top1(found: dict | None) -> float | None:
    return None if found is None else found["linear"]["top1"]


def tabulate(frame: Frame) -> Frame:
    """Returns the entries of the table, in its order: a line for each `ENTRY`, with means over
    seeds (NaN if one seed has NaN), sample deviations, and the gaps between protocols."""
    frame = frame.assign(
        gap_test_last=frame["by_test"] - frame["final_epoch_top1"],
        gap_test_heldout=frame["by_test"] - frame["by_heldout"],
        gap_heldout_last=frame["by_heldout"] - frame["final_epoch_top1"],
    )
    first = {name: (name, "first") for name in ("title", "published", "is_full_length")}
    gaps = [name for name in frame if name.startswith("gap_")]
    averaged = [*OF_RUN, *ACCURACIES[1:], *gaps]
    means = {name: (name, lambda values: values.mean(skipna=False)) for name in averaged}
    spreads = {f"{name}_std": (name, "std") for name in gaps}
    entries = frame.groupby(ENTRY, sort=False).agg(
        top1_mean=("top1", "mean"),
        top1_std=("top1", "std"),
        seeds=("seed", "size"),
        seed_list=("seed", list),
        epochs=("epoch", list),
        **first,
        **means,
        **spreads,
    )
    entries = entries.reset_index()
    of_chains = entries["of_seeds"] == CHAINS
    # A published number has seeds of both stages.
    entries["published"] = entries["published"].where(of_chains)
    entries["difference"] = entries["top1_mean"] - entries["published"]
    return entries


def as_json(table: Frame) -> list[dict[str, Any]]:
    """Returns the entries for `table.json`: accuracies in percent, gaps in points."""
    table = table.round({"seconds": 1, "chain_seconds": 1, "parameters": 0, "images_seen": 0})
    table = table.round(4).astype({"parameters": "Int64", "images_seen": "Int64"})
    table = table.assign(
        method=table["row"],
        dataset=[data.name for data in table["data"]],
        ratio=[data.ratio or None for data in table["data"]],
        subset=[data.subset for data in table["data"]],
        stage1_epochs=[length.stage_1 for length in table["length"]],
        length=table["length"].map(str),
        precision=table["precision"].str.replace("+", ", "),
    )
    names = (
        *("method", "dataset", "ratio", "protocol", "top1_mean", "top1_std", "seeds", *GROUPS),
        *("ncm", "balanced", "published", "difference", "length", "is_full_length", "precision"),
        *("subset", "of_seeds", "seed_list", "epochs", "final_epoch_top1", "last_features_ncm"),
        *("gap_test_last", "gap_test_heldout", "gap_heldout_last", "stage1_epochs", "parameters"),
        *("images_seen", "seconds", "chain_seconds"),
    )
    entries = table[list(names)].astype(object)
    return entries.where(entries.notna(), None).to_dict("records")


def predictions(run: RecordedRun, epoch: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the labels of the test images ``[N]`` and a mask of correct predictions ``[N]`` of an
    epoch; None if they are not recorded. Those of the selected and of the last epoch may be."""
    assert run.summary is not None
    kept = {"selected": "preds", "last": "last_preds"}
    names = [name for kind, name in kept.items() if run.summary["test"][kind]["epoch"] == epoch]
    found = (_correct(run, "labels", name) for name in names)
    return next((arrays for arrays in found if arrays is not None), None)


def heldout_predictions(run: RecordedRun) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the labels of the held-out images ``[N]`` and a mask of correct predictions ``[N]``
    of the last epoch; None if they are not recorded."""
    return _correct(run, "heldout_labels", "heldout_last_preds")


def _correct(run: RecordedRun, labels: str, preds: str) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        arrays = run.arrays("predictions.npz", (labels, preds))
    except MissingRecord:
        return None
    return arrays[labels], arrays[labels] == arrays[preds]


def number_of_images(runs: Sequence[RecordedRun]) -> int | None:
    """Returns the number of test images, or None if no run has recorded predictions."""
    for run in runs:
        try:
            return len(run.arrays("predictions.npz", ("labels",))["labels"])
        except MissingRecord:
            continue
    return None
