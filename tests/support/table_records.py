"""Made-up records of finished runs of the table, for testing what is made of records alone."""

import json
from pathlib import Path

import numpy as np

from utils.options.parse import parse_options
from utils.reproduce.recipes import Length, Row, command
from utils.runs.folders import run_folder

CLASS_COUNTS = [200, 10]
TINY = Length(2, 2, 1)


def accuracies(top1: float) -> dict:
    return {
        "top1": top1,
        "top5": 100.0,
        "many": top1 + 5,
        "medium": None,
        "few": top1 - 5,
        "per_class": [top1 + 5, top1 - 5],
        "loss": 1.0,
    }


def write_run(
    root: Path,
    row: Row,
    tops: list[float],
    *,
    ncm: list[float] | None = None,
    heldout: list[float] | None = None,
    length: Length = TINY,
    seed: int = 0,
    protocol: str = "test",
    margins: list[float] | None = None,
    robust: list[float] | None = None,
    preds: np.ndarray | None = None,
    selected: int | None = None,
    flags: str = "",
    fingerprint: str | None = None,
    layers: int = 1,
) -> Path:
    """A run's folder below `root`.

    Args:
        row, length, seed, protocol: what the run is; a stage 2 starts from the stage 1 of the same
            seed below the same root.
        tops: top-1 on the test set by epoch.
        ncm, heldout: NCM's on the test set and top-1 on held-out images (NCM's too) by epoch.
        margins: by epoch, one for all classes.
        robust: the robust loss by epoch.
        preds: predictions of the selected epoch, of 100 images of class 0.
        selected: the epoch; that of the highest top-1 if None.
        flags: further flags of main.py.
        fingerprint: of the training images.
        layers: that the margins and the robust loss are recorded of, all alike.
    """
    length = length.of(row)
    pretrained = None
    if row.start:
        first = parse_options(command(row.start, seed, length, "test"))
        pretrained = run_folder(first).models.name
    argv = [*command(row, seed, length, protocol, pretrained), *flags.split()]
    argv += ["--root_log", str(root), "--root_model", str(root)]
    options = parse_options(argv)
    folder = run_folder(options).records
    folder.mkdir(parents=True)
    machine = {"device": "cpu", "processor": "abacus", "commit": "0ddba11", "command": ["main.py"]}
    arguments = options.as_dict() | {"machine": machine, "class_counts": CLASS_COUNTS}
    arguments["fingerprint"] = fingerprint
    (folder / "args.json").write_text(json.dumps(arguments))
    assert len(tops) == options.epochs
    records = []
    for i, top1 in enumerate(tops):
        phase = "pretraining"
        if row.start:
            phase = "features" if i < length.features else "classifier"
        results = {"test": {"linear": accuracies(top1), "ncm": accuracies((ncm or tops)[i])}}
        if heldout:
            results["heldout"] = {name: accuracies(heldout[i]) for name in ("linear", "ncm")}
        record = {"epoch": i + 1, "phase": phase, "lr": 0.1, "seconds": 1.0, "results": results}
        record |= {"losses": {"robust_loss": robust[i]} if robust else {"ce": 1.0}}
        record |= {"margins": [margins[i]] * 2 if margins else None}
        if layers > 1:
            names = [f"layer{n}" for n in range(layers)]
            record["losses"] = {f"robust_loss@{name}": robust[i] for name in names}
            record["layer_margins"] = dict.fromkeys(names, record["margins"])
        records.append(record)
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    best = tops.index(max(tops)) + 1 if selected is None else selected
    best = options.epochs if protocol == "last" else best

    def of(epoch: int) -> dict:
        return {"epoch": epoch, **records[epoch - 1]["results"]["test"]}

    summary = {
        **{"dataset": row.dataset, "arch": "resnet32", "stage": options.stage, "seed": seed},
        **{"selected_on": protocol, "epochs": options.epochs, "seconds": 10.0},
        **{"class_counts": CLASS_COUNTS},
        "test": {"selected": of(best), "last": of(options.epochs)},
    }
    summary["heldout"] = heldout and {
        "images": 200,
        **{
            name: {"epoch": epoch, **records[epoch - 1]["results"]["heldout"]}
            for name, epoch in (("selected", best), ("last", options.epochs))
        },
    }
    if preds is not None:
        labels = np.zeros(len(preds), dtype=int)
        np.savez(folder / "predictions.npz", labels=labels, preds=preds)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
