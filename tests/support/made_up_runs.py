"""Writes the files of runs that were never trained."""

import json

import numpy as np

from tests.support.made_up_records import reading

COUNTS = [150, 110, 60, 25, 19, 8, 4]


def splits(base, ncm=True, heldout=False):
    linear = {**reading(base, COUNTS), "loss": 2.0}
    result = {"linear": linear, "ncm": reading(base + 5, COUNTS) if ncm else None}
    return {"test": result} | ({"heldout": result} if heldout else {})


def write_run(folder, seed=0, stage=1, epochs=4, finished=True, heldout=False, base=40.0, **args):
    """Writes a run whose accuracy is `base` at the selected epoch, which is the last but one, and
    one percent lower at the last."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "dataset": "digits",
        "data_root": f"/data/{seed}",
        "imb_factor": 0.05,
        "arch": "resnet8",
        "lr": 0.1,
        "exp_str": f"run{seed}",
        "seed": seed,
        "epochs": 4,
        "balanced_clf_nepochs": 2,
        "pretrained": folder.parent.name if stage == 2 else None,
        "feat_loss": "ce_lt,robust_loss" if stage == 2 else None,
        "margin": 1.0,
        "root_log": str(folder.parent),
        "class_counts": COUNTS,
        "machine": {"device": "cpu", "command": ["main.py", "--seed", str(seed)]},
    } | args
    has_margins = stage == 2 or arguments.get("robust_weight") is not None
    records = []
    for epoch in range(1, epochs + 1):
        in_features = stage == 2 and epoch <= 2
        losses = {"ce_lt": 1 / epoch, "robust_loss": 5 / epoch} if in_features else {"ce": 1.0}
        margins = [1 - 0.1 * epoch + 0.01 * k for k in range(len(COUNTS))]
        accuracy = base - 1 if epoch == 4 else base
        records.append(
            {
                "epoch": epoch,
                "phase": "features" if in_features else "classifier",
                "seconds": 2.5,
                "losses": losses,
                "results": splits(accuracy, ncm=stage == 2 or epoch % 2 == 0, heldout=heldout),
                "margins": margins if has_margins else None,
            }
        )
    (folder / "args.json").write_text(json.dumps(arguments))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        write_summary(folder, arguments, stage, base, heldout)
    return folder


def write_summary(folder, arguments, stage, base, heldout):
    chosen = {"selected": (3, base), "last": (4, base - 1)}

    def of_split(split):
        return {
            which: {"epoch": epoch, **splits(accuracy, heldout=True)[split]}
            for which, (epoch, accuracy) in chosen.items()
        }

    summary = {
        "dataset": "digits",
        "arch": "resnet8",
        "stage": stage,
        "selected_on": "test",
        "epochs": 4,
        "seconds": 10.0 + arguments["seed"],
        "seed": arguments["seed"],
        "class_counts": COUNTS,
        "test": of_split("test"),
        "heldout": {"images": 9, "classes": 7, **of_split("heldout")} if heldout else None,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def write_outputs(folder, with_confs=True):
    """Writes the npz files of training and evaluation. The features of each class lie around
    another corner."""
    generator = np.random.default_rng(0)
    for split, counts in (("train", COUNTS), ("test", [12] * len(COUNTS))):
        labels = np.repeat(np.arange(len(COUNTS)), counts)
        feats = 3 * np.eye(len(COUNTS), 16)[labels] + generator.normal(0, 0.3, (len(labels), 16))
        preds = np.where(np.arange(len(labels)) % 4 == 0, 0, labels)
        confs = generator.uniform(0.3, 1, len(labels))
        arrays = {"feats": feats.astype(np.float32), "labels": labels, "preds": preds}
        np.savez(
            folder / f"outputs_{split}.npz", **arrays, **({"confs": confs} if with_confs else {})
        )
    np.savez(folder / "predictions.npz", labels=labels, preds=preds)
