"""The teacher of a distilled run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from losses import prior_offsets
from models.folding import fold_batch_norm
from utils.errors import UserError
from utils.runs import checkpoint
from utils.runs.lookup import checkpoint_of_flag
from utils.training.setup import Run, warn, warn_of_other_data


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode.

    Args:
        network: returns ``(features, logits)``.
        offsets: what its training added to the logits ``[K]``: τ · log π_c if it was trained with
            balanced softmax, else None.
    """

    network: nn.Module
    offsets: Tensor | None


def load_teacher(run: Run) -> Teacher:
    """Returns the teacher that `--teacher` names: a run folder or a checkpoint file, of any
    architecture. It is looked up in the same places as `--pretrained`.

    Raises:
        UserError: there is no such teacher, or it has other classes than the data.
    """
    options, data = run.options, run.data
    path = checkpoint_of_flag(options, "teacher")
    start = checkpoint.load(path)
    arch = start.get("arch", options.arch)
    try:
        network = checkpoint.build_from(start, path, arch, data.num_classes)
    except (UserError, ValueError) as error:
        raise UserError(f"--teacher {options.teacher}: {error}") from None
    recorded = start.get("data")
    if not isinstance(recorded, Mapping):  # other programs may mean something else by this key
        recorded = {}
    if recorded.get("class_names") not in (None, data.description().get("class_names")):
        raise UserError(
            f"--teacher {options.teacher}: its classes have other names than those of the data"
        )
    warn_of_other_data(start, path, data)
    if recorded.get("normalisation") not in (None, data.description()["normalisation"]):
        warn(f"{path} was trained on images that were normalised in another way than this run's")
    network = fold_batch_norm(network.eval(), run.machine.conv_dtype).requires_grad_(False)
    return Teacher(run.place(network), _offsets(start, path, data.class_counts))


def _offsets(start: dict, path: Path, class_counts: list[int]) -> Tensor | None:
    """Returns the offsets of the teacher's logits, from the losses that its checkpoint records, or
    the `args.json` beside it."""
    said = start
    if not {"loss_type", "feat_loss", "cls_loss"} & start.keys():
        try:
            said = json.loads((path.parent / "args.json").read_text())
        except (OSError, ValueError):
            return None
    if not isinstance(said, dict):
        return None
    # After stage 2 the losses of the classifier phase count, because they trained the classifier.
    names = said.get("cls_loss") or said.get("feat_loss") or said.get("loss_type") or ""
    if not any(name in ("BS", "bs", "bs_lt") for name in str(names).split(",")):
        return None
    counts = start.get("class_counts") or class_counts
    return prior_offsets(counts, float(said.get("prior_weight", 1.0)))
