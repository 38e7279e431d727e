"""What a finished run leaves for its user: `summary.json`, `report.png` and tables of
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
    if not trainer.evaluator.has_looked:  # all epochs were done before
        trainer.evaluator.look(trainer.model)
    predictions = _predictions(trainer, "last_")
    _look_at_selected(run, trainer)
    predictions |= _predictions(trainer)
    collectives.from_main(lambda: _write_summary(run, trainer, predictions), run.machine.world)


def _look_at_selected(run: Run, trainer: Trainer) -> None:
    """Passes the test images through the selected checkpoint's network."""
    path = run.folder.best_checkpoint
    chosen = collectives.from_main(lambda: checkpoint.load(path), run.machine.world)
    checkpoint.load_weights(trainer.model, chosen["state_dict"], path)
    trainer.evaluator.look(trainer.model)


def _write_summary(run: Run, trainer: Trainer, predictions: dict[str, np.ndarray]) -> None:
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
    # For the report's confusion matrix, and for comparisons image by image.
    with atomic_write(folder.records / "predictions.npz") as file:
        np.savez_compressed(file, **predictions)  # pyright: ignore[reportArgumentType]
    # Matplotlib takes a second to import and is not needed before.
    from utils.report.run_figure import write_report

    figure = write_report(folder.records, data.class_counts, summary["test"]["selected"])
    finals = {f"test/{w}_{r}": summary["test"][w][r]["top1"] for w, r in product(*_FINALS)}
    with EventFile(folder.records, ".results") as events:
        events.add_figure("report", figure, trainer.epoch)
        events.add_hyperparameters(options.as_dict(), finals, trainer.epoch)
    # This file is written last, because a run with a summary counts as finished.
    write_json(folder.summary, summary)
    print(final_table(summary))
    print(f"summary: {folder.summary}\nfigure:  {figure}")


def feature_epochs(records: Sequence[dict], protocol: str) -> dict | None:
    """Returns the test accuracies of two epochs of stage 2's feature phase, for the entry
    ``features`` of `summary.json`. None if the log has no feature phase.

    - ``selected``: the epoch that the protocol chose; the classifier phase began from it.
    - ``last``: the last epoch, which nothing chose.

    Args:
        records: the entries of `log.jsonl`.
        protocol: the value of `--select_on`.
    """
    by_epoch = {r["epoch"]: r["results"]["test"] for r in records if r["phase"] == "features"}
    if not by_epoch:
        return None
    (chosen,) = chosen_epochs([r for r in records if r["epoch"] in by_epoch], protocol)
    epochs = {"selected": chosen, "last": max(by_epoch)}
    return {which: {"epoch": epoch, **by_epoch[epoch]} for which, epoch in epochs.items()}


def final_table(summary: dict) -> str:
    """Returns the test accuracies of a `summary.json`, of one seed or of several, as text.

    If test or held-out images chose the features of the classifier phase, its last epoch depends on
    that choice. Then the table says so, and shows the last feature epoch too.
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
        f"The classifier phase began from the features that {protocol} images chose. In this "
        "stage only the last feature epoch depends on no choice."
    )


def _rows(title: str, found: dict) -> dict[str, dict]:
    """Returns the records of both classifiers, by the title of their rows."""
    classifiers = (("linear", "linear"), ("ncm", "NCM"))
    return {f"{title}, {text}": found[name] for name, text in classifiers if found[name]}


def _chosen_features(summary: dict) -> dict | None:
    """Returns the entry ``features`` of a summary if the classifier phase began from a chosen
    feature epoch, else None. With several seeds, one such seed is enough."""
    features = summary.get("features")
    if not features or summary["selected_on"] == "last":
        return None
    has_classifier_phase = features["last"]["epoch"] != summary["test"]["last"]["epoch"]
    return features if has_classifier_phase else None


@torch.no_grad()
def _predictions(trainer: Trainer, epoch: str = "") -> dict[str, np.ndarray]:
    """Returns labels ``[N]`` and predicted classes ``[N]`` of the last look: ``labels`` and
    ``preds`` of the test images, ``heldout_labels`` and ``heldout_preds`` of held-out ones.

    Args:
        trainer: whose evaluator has looked at its network as it is now.
        epoch: stands before ``preds`` in the names, such as ``last_``.
    """
    network, found = cast(Network, trainer.model), {}
    for split in trainer.evaluator.loaders:
        features, labels = trainer.evaluator.seen(split)
        start = "" if split == "test" else f"{split}_"
        found[f"{start}labels"] = labels.cpu().numpy()
        found[f"{start}{epoch}preds"] = network.classify(features).argmax(dim=1).cpu().numpy()
    return found


def accuracy_table(rows: dict[str, dict], class_counts: Sequence[int]) -> str:
    """Returns accuracies in percent as aligned text, with a line for each record. The first line
    has the number of classes in each group.

    Args:
        rows: records of `accuracy_record`, by the title of their lines.
        class_counts: training images of each class ``[K]``.
    """
    return _table(rows, class_counts, SHOWN)


def reading_table(rows: dict[str, dict], class_counts: Sequence[int]) -> str:
    """Returns the `accuracy_table` with two more columns in percent: the accuracy of the worst
    class, and the expected calibration error (ECE)."""
    return _table(rows, class_counts, (*SHOWN, "worst", "ece"))


def _table(rows: dict[str, dict], class_counts: Sequence[int], columns: Sequence[str]) -> str:
    groups = group_of_counts(class_counts)
    sizes = {group: f"{group} ({(groups == group).sum()})" for group in GROUPS}
    headers = {"top1": "top-1", "top5": "top-5", "balanced": "balanced", "macro_f1": "macro F1"}
    headers |= {**sizes, "worst": "worst class", "ece": "ECE"}
    table = [["", *(headers[column] for column in columns)]]
    for name, record in rows.items():
        # Records of earlier versions may lack a column.
        record = {**record, "balanced": _balanced(record)}
        table.append([name, *(_percent(record.get(column), 2) for column in columns)])
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}"
        + "".join(f"{GAP}{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in table
    )


def _balanced(record: dict) -> float | dict | None:
    """Returns the balanced accuracy in percent; of several seeds, its mean and deviation. None if
    an earlier version made the record of several seeds."""
    is_of_several = isinstance(record["top1"], dict)
    return record.get("balanced") if is_of_several else balanced_accuracy(record)


def per_class_table(linear: dict, ncm: dict, data: LongTailedData) -> str:
    """Returns the accuracies of each class in percent as aligned text, largest class first.

    Args:
        linear, ncm: records of `accuracy_record` of the two classifiers.
        data: gives class names and class counts.
    """
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
