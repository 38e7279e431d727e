"""The files of fitted classifiers: `readings.json`, `readings.csv` and `classifiers.pth`.

`torch.load(weights_only=True)` reads `classifiers.pth`, which holds only plain values and tensors:
``{"format": 1, "weights": digest of the network's weights, "epoch": epoch of the checkpoint,
"class_names": [K], "classifiers": {name: saved}}``. `classifiers.apply_classifier` takes a `saved`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.errors import UserError, is_out_of_memory
from utils.evaluation.classifiers import Classifier
from utils.evaluation.tables import OF_CLASSIFIERS
from utils.files import atomic_write, write_json
from utils.runs.checkpoint import content_of, weights_digest

CLASSIFIERS_FILE = "classifiers.pth"
FORMAT = 1


def write_readings(folder: Path, records: dict[str, dict]) -> None:
    """Writes `readings.json` with all values, and `readings.csv` with one row per classifier.

    Args:
        folder: the folder of both files.
        records: the records of `classifiers.accuracies`, by the name of the classifier.
    """
    write_json(folder / "readings.json", records)
    with atomic_write(folder / "readings.csv") as binary:
        text = io.TextIOWrapper(binary, newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("reading", *OF_CLASSIFIERS))
        for name, record in records.items():
            writer.writerow((name, *(record[column] for column in OF_CLASSIFIERS)))
        text.detach()


def save_classifiers(
    path: Path,
    classifiers: Mapping[str, Classifier],
    model: nn.Module,
    epoch: int,
    class_names: Sequence[str],
) -> None:
    """Writes a `classifiers.pth` in the format of this module's docstring.

    Args:
        path: the file.
        classifiers: the fitted classifiers, by name.
        model: the network that they were fitted on.
        epoch: epoch of its checkpoint.
        class_names: names of the classes ``[K]``.
    """
    content = {
        "format": FORMAT,
        "weights": weights_digest(model.state_dict()),
        "epoch": epoch,
        "class_names": list(class_names),
        "classifiers": {name: classifier.saved() for name, classifier in classifiers.items()},
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def load_classifier(path: Path, name: str, model: nn.Module) -> dict[str, Any]:
    """Returns the named classifier of a `classifiers.pth`, for `apply_classifier`.

    Raises:
        UserError: there is no such file or classifier, the file is damaged or of another kind or
            format, or the classifiers were fitted on other weights than the model's.
    """
    how = f"--evaluation True --readings {name} writes it"
    if not path.exists():
        raise UserError(f"{path}: no such file ({how}, below its --root_log if that is given)")
    try:
        content = content_of(path)
        form, found, fitted_on = (content[key] for key in ("format", "classifiers", "weights"))
    except Exception as error:  # whatever the content is
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: not a file of fitted classifiers ({how})") from None
    if form != FORMAT:
        raise UserError(f"{path}: its format is {form}, not {FORMAT} ({how} again)")
    if name not in found:
        raise UserError(f"{path} has no classifier {name}, but {', '.join(found)} ({how})")
    if fitted_on != weights_digest(model.state_dict()):
        raise UserError(f"{path} was fitted on other weights than the checkpoint's ({how} again)")
    return found[name]
