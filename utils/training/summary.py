"""What a finished run leaves for its user: `summary.json`, `report.png` and its table."""

from collections.abc import Sequence
from contextlib import closing
from typing import cast

import numpy as np
import torch

from models.network import Network
from utils.evaluation.parts import in_parts
from utils.evaluation.tables import accuracy_table
from utils.files import atomic_write, write_json
from utils.machine import collectives
from utils.runs import checkpoint
from utils.runs.records import read_epochs
from utils.runs.tensorboard import EventFile
from utils.training.selection import chosen_epochs
from utils.training.trainer import Trainer


def summarise(trainer: Trainer) -> None:
    """Writes `predictions.npz`, `report.png` and `summary.json`, and prints the run's table."""
    if not trainer.evaluator.has_features:  # all epochs had been done before
        trainer.evaluator.extract(trainer.model)
    predictions = _predictions(trainer, "last_")
    _extract_selected(trainer)
    predictions |= _predictions(trainer)
    collectives.from_main(lambda: _write_summary(trainer, predictions), trainer.world)


def _extract_selected(trainer: Trainer) -> None:
    """Passes the test images through the selected checkpoint's network."""
    path = trainer.folder.best_checkpoint
    chosen = collectives.from_main(lambda: checkpoint.load(path), trainer.world)
    trainer.warn_if_not_chosen(chosen, path, "the predictions are of that file")
    checkpoint.load_weights(trainer.model, chosen["state_dict"], path)
    trainer.evaluator.extract(trainer.model)


def _summary(trainer: Trainer) -> dict:
    """Returns the content of `summary.json`."""
    options, data = trainer.options, trainer.data
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
    if features := feature_epochs(read_epochs(trainer.folder.records), options.select_on):
        summary["features"] = features
    return summary


def _write_summary(trainer: Trainer, predictions: dict[str, np.ndarray]) -> None:
    summary, folder = _summary(trainer), trainer.folder
    # For the report's confusion matrix, and for comparisons image by image.
    with atomic_write(folder.records / "predictions.npz") as file:
        np.savez_compressed(file, **predictions)  # pyright: ignore[reportArgumentType]
    # Matplotlib takes a second to import and is not needed before.
    from utils.report.run_figure import write_report

    figure = write_report(folder.records, summary["class_counts"], summary["test"]["selected"])
    finals = {
        f"test/{which}_{classifier}": summary["test"][which][classifier]["top1"]
        for which in ("selected", "last")
        for classifier in ("linear", "ncm")
    }
    with closing(EventFile(folder.records, ".results")) as events:
        events.add_figure("report", figure, trainer.epoch)
        events.add_hyperparameters(trainer.options.as_dict(), finals, trainer.epoch)
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
    """Returns labels ``[N]`` and predicted classes ``[N]``: ``labels`` and ``preds`` of the test
    images, ``heldout_labels`` and ``heldout_preds`` of held-out ones.

    Args:
        trainer: whose evaluator has the features of its network as it is now.
        epoch: stands before ``preds`` in the names, such as ``last_``.
    """
    network, found = cast(Network, trainer.model), {}
    for split in trainer.evaluator.loaders:
        features, labels = trainer.evaluator.features_of(split)
        start = "" if split == "test" else f"{split}_"
        found[f"{start}labels"] = labels.cpu().numpy()
        parts = in_parts(network.classify, trainer.data.num_classes, features)
        preds = torch.cat([logits.argmax(dim=1) for (logits,) in parts])
        found[f"{start}{epoch}preds"] = preds.cpu().numpy()
    return found
