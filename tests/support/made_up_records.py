"""Records of epochs as the trainer makes them, with made-up numbers."""

from utils.runs.epoch_log import EpochLog

LOSSES = ["ce_lt", "robust_loss", "ce"]
COUNTS = [150, 120, 60, 25, 19, 4]
EMPTY_GROUP_COUNTS = [150, 120, 60, 25, 24, 20]


def reading(base, counts=COUNTS):
    """Returns accuracies in the form of `accuracy_record`; a group without classes has None."""
    has_few = min(counts) < 20
    return {
        "top1": base,
        "top5": base + 20,
        "balanced": base + 1,
        "macro_f1": base - 2,
        "many": base + 10,
        "medium": base + 0.5,
        "few": base - 10 if has_few else None,
        "per_class": [base + 10 - 3 * k for k in range(len(counts))],
    }


def geometry(base, counts=COUNTS):
    """How features lie, as `geometry_record` gives it."""
    few = base - 0.25 if min(counts) < 20 else None
    error = {"mean": base - 0.5, "many": base - 0.75, "medium": base - 0.5, "few": few}
    return {"length": base, "within": base + 1, "between": base + 2, "centroid_error": error}


def record(epoch, margins=True, heldout=True, ncm=True, counts=COUNTS, phase=None):
    """Returns the record of an epoch in the trainer's form: the feature phase up to epoch 3, then
    the classifier phase."""
    phase = phase or ("features" if epoch <= 3 else "classifier")
    splits = ("test", "heldout") if heldout else ("test",)
    names = ["ce_lt", "robust_loss"] if phase == "features" else ["ce"]
    return {
        "epoch": epoch,
        "phase": phase,
        "lr": 0.005,
        "seconds": 12.5 + epoch,
        "images_per_second": 4000.5,
        "train_loss": 3.25 / epoch,
        "losses": {name: (i + 1) / epoch for i, name in enumerate(names)},
        "train_top1": 40.0 + epoch,
        "results": {
            split: {
                "linear": {**reading(30.0 + epoch, counts), "loss": 2.0 / epoch},
                "ncm": reading(31.0 + epoch, counts) if ncm else None,
                **({"geometry": geometry(7.0 + epoch, counts)} if ncm else {}),
            }
            for split in splits
        },
        "margins": [1 - 0.1 * epoch + 0.01 * k for k in range(len(counts))] if margins else None,
    }


def write_log(folder, records, done_epochs=0, splits=("test", "heldout")):
    log = EpochLog(folder, LOSSES, list(splits), done_epochs)
    for entry in records:
        log.add(entry)
    log.close()
