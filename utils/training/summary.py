"""What a finished run leaves for its reader: `summary.json`, `report.png` and tables of
accuracies."""

from collections.abc import Sequence
from itertools import product
from typing import cast

import numpy as np
import torch

from datasets.splits import LongTailedData
from models.network import Network
from utils.evaluation.shot_groups import GROUPS, balanced_accuracy, group_of_counts
from utils.files import atomic_write, write_json
from utils.machine import collectives
from utils.runs import checkpoint
from utils.runs.records import read_epochs
from utils.runs.tensorboard import EventFile
from utils.training.selection import chosen_epochs
from utils.training.setup import Run
from utils.training.trainer import Trainer

GAP = "   "
SHOWN = ("top1", "top5", "balanced", "macro_f1", *GROUPS)
_FINALS = (("selected", "last"), ("linear", "ncm"))


def summarise(run: Run, trainer: Trainer) -> None:
    """Writes `predictions.npz`, `report.png` and `summary.json`, and prints the run's table."""
    _look_at_selected(run, trainer)
    collectives.from_main(lambda: _write_summary(run, trainer), run.machine.world)


def _look_at_selected(run: Run, trainer: Trainer) -> None:
    """Passes the test images through the selected checkpoint's network."""
    path = run.folder.best_checkpoint
    chosen = collectives.from_main(lambda: checkpoint.load(path), run.machine.world)
    checkpoint.load_weights(trainer.model, chosen["state_dict"], path)
    trainer.evaluator.look(trainer.model)


def _write_summary(run: Run, trainer: Trainer) -> None:
    options, data, folder = run.options, run.data, run.folder
    chosen = trainer.selection.best[options.select_on]

    def of_split(split: str) -> dict:
        selected = {"epoch": chosen.epoch, **chosen.results[split]}
        return {"selected": selected, "last": {"epoch": trainer.epoch, **trainer.results[split]}}

    heldout = None
    if data.heldout is not None:
        classes = len(data.heldout.labels.unique())
        heldout = {"images": len(data.heldout), "classes": classes, **of_split("heldout")}
    summary = {
        "dataset": options.dataset,
        "arch": options.arch,
        "stage": options.stage,
        "selected_on": options.select_on,
        "epochs": options.epochs,
        "seconds": round(trainer.seconds, 1),
        "seed": options.seed,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "images_seen": sum(phase.images_seen for phase in trainer.phases),
        "class_counts": data.class_counts,
        "test": of_split("test"),
        "heldout": heldout,
    }
    if features := feature_epochs(read_epochs(folder.records), options.select_on):
        summary["features"] = features
    _save_predictions(run, trainer)
    # Matplotlib, which takes a second to import, is not needed before.
    from utils.report.run_figure import write_report

    figure = write_report(folder.records, data.class_counts, summary["test"]["selected"])
    finals = {f"test/{w}_{r}": summary["test"][w][r]["top1"] for w, r in product(*_FINALS)}
    with EventFile(folder.records, ".results") as events:
        events.add_figure("report", figure, trainer.epoch)
        events.add_hyperparameters(options.as_dict(), finals, trainer.epoch)
    # Last, because its presence says that the run is finished.
    write_json(folder.summary, summary)
    print(final_table(summary))
    print(f"summary: {folder.summary}\nfigure:  {figure}")


def feature_epochs(records: Sequence[dict], protocol: str) -> dict | None:
    """Returns the test accuracies of two epochs of stage 2's feature phase, as `summary.json` has
    them under ``features``: `selected`, which the protocol chose and the classifier phase began
    from, and `last`, which rests on no choice. None where no such phase is in the log.

    Args:
        records: the entries of `log.jsonl`.
        protocol: of `--select_on`.
    """
    by_epoch = {r["epoch"]: r["results"]["test"] for r in records if r["phase"] == "features"}
    if not by_epoch:
        return None
    (chosen,) = chosen_epochs([r for r in records if r["epoch"] in by_epoch], protocol)
    epochs = {"selected": chosen, "last": max(by_epoch)}
    return {which: {"epoch": epoch, **by_epoch[epoch]} for which, epoch in epochs.items()}


def final_table(summary: dict) -> str:
    """Returns the test accuracies in a `summary.json`, of one seed or of several, as text.

    If a classifier phase began from features that were chosen by test or held-out images, its last
    epoch rests on that choice. The table says so, and shows the last epoch of the features too.
    """
    protocol, features = summary["selected_on"], _chosen_features(summary)
    rows = {}
    titles = {"selected": f"selected on {protocol}", "last": "last epoch"}
    for which, title in titles.items():
        found = summary["test"][which]
        title = f"{title} ({found['epoch']})"
        if which == "last" and features is not None:
            title += f" of chosen features ({features['selected']['epoch']})"
        rows |= _rows(title, found)
    if features is None:
        return accuracy_table(rows, summary["class_counts"])
    rows |= _rows(f"last feature epoch ({features['last']['epoch']})", features["last"])
    return (
        f"{accuracy_table(rows, summary['class_counts'])}\n"
        f"The classifier phase began from the features that {protocol} images chose: only the last "
        "feature epoch rests on no choice within this stage."
    )


def _rows(title: str, found: dict) -> dict[str, dict]:
    readings = (("linear", "linear"), ("ncm", "NCM"))
    return {f"{title}, {text}": found[name] for name, text in readings if found[name]}


def _chosen_features(summary: dict) -> dict | None:
    """Returns the feature epochs of a run whose classifier phase began from features that were
    loaded back (of several seeds, if in any of them), else None."""
    features = summary.get("features")
    if not features or summary["selected_on"] == "last":
        return None
    has_classifier_phase = features["last"]["epoch"] != summary["test"]["last"]["epoch"]
    return features if has_classifier_phase else None


@torch.no_grad()
def _save_predictions(run: Run, trainer: Trainer) -> None:
    """Writes the selected checkpoint's predictions, for the report's confusion matrix."""
    features, labels = trainer.evaluator.seen("test")
    preds = cast(Network, trainer.model).classify(features).argmax(dim=1)
    with atomic_write(run.folder.records / "predictions.npz") as file:
        np.savez_compressed(file, labels=labels.cpu().numpy(), preds=preds.cpu().numpy())


def accuracy_table(rows: dict[str, dict], class_counts: Sequence[int]) -> str:
    """Returns accuracies in percent as aligned text: a line for each named record of
    `accuracy_record`. The head has the numbers of classes in the groups."""
    return _table(rows, class_counts, SHOWN)


def reading_table(rows: dict[str, dict], class_counts: Sequence[int]) -> str:
    """Returns the `accuracy_table` with two more columns, in percent: the worst class, and the
    expected calibration error (ECE)."""
    return _table(rows, class_counts, (*SHOWN, "worst", "ece"))


def _table(rows: dict[str, dict], class_counts: Sequence[int], columns: Sequence[str]) -> str:
    groups = group_of_counts(class_counts)
    sizes = {group: f"{group} ({(groups == group).sum()})" for group in GROUPS}
    headers = {"top1": "top-1", "top5": "top-5", "balanced": "balanced", "macro_f1": "macro F1"}
    headers |= {**sizes, "worst": "worst class", "ece": "ECE"}
    table = [["", *(headers[column] for column in columns)]]
    for name, record in rows.items():
        # A record made earlier may lack a column.
        record = {**record, "balanced": _balanced(record)}
        table.append([name, *(_percent(record.get(column), 2) for column in columns)])
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}"
        + "".join(f"{GAP}{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in table
    )


def _balanced(record: dict) -> float | dict | None:
    """Returns the balanced accuracy of one seed or, as mean and deviation, of several, or None if a
    record of several seeds was made before there was one."""
    is_of_several = isinstance(record["top1"], dict)
    return record.get("balanced") if is_of_several else balanced_accuracy(record)


def per_class_table(linear: dict, ncm: dict, data: LongTailedData) -> str:
    """Returns the accuracies of each class in percent as aligned text, from the largest class to
    the smallest."""
    by_size = np.argsort(-np.asarray(data.class_counts), kind="stable")
    width = max(len("class"), *map(len, data.class_names))
    lines = [f"{'class':<{width}}{'images':>8}{'linear':>8}{'NCM':>8}"]
    for label in by_size:
        accuracies = (_percent(r["per_class"][label], 1) for r in (linear, ncm))
        cells = "".join(f"{cell:>8}" for cell in (data.class_counts[label], *accuracies))
        lines.append(f"{data.class_names[label]:<{width}}{cells}")
    return "\n".join(lines)


def _percent(value: float | dict | None, decimals: int) -> str:
    if isinstance(value, dict):
        mean, deviation = (_percent(value[part], decimals) for part in ("mean", "std"))
        return f"{mean} ± {deviation}"
    return "n/a" if value is None else f"{value:.{decimals}f}"
