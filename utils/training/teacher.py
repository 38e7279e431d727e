"""The teacher of a distilled run."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from losses import prior_offsets
from models.folding import fold_batch_norm
from utils.errors import UserError
from utils.runs import checkpoint
from utils.runs.lookup import find_checkpoint
from utils.training.setup import Run, warn, warn_of_other_data


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode, and the offsets ``[K]`` under which its logits were trained
    (None for 0).

    Args:
        network: gives ``(features, logits)``.
        offsets: τ · log π_c after balanced softmax.
    """

    network: nn.Module
    offsets: Tensor | None


def load_teacher(run: Run) -> Teacher:
    """The teacher that `--teacher` names: a run's folder or a checkpoint's file, looked up as
    `--pretrained` is; of any architecture.

    Raises:
        UserError: there is none, or it has other classes than the data.
    """
    options, data = run.options, run.data
    path = find_checkpoint(options, "teacher")
    start = checkpoint.load(path)
    arch = start.get("arch", options.arch)
    try:
        network = checkpoint.build_from(start, path, arch, data.num_classes)
    except (UserError, ValueError) as error:
        raise UserError(f"--teacher {options.teacher}: {error}") from None
    recorded = start.get("data") or {}
    if recorded.get("class_names") not in (None, data.description().get("class_names")):
        raise UserError(f"--teacher {options.teacher}: classes of other names than the data's")
    warn_of_other_data(start, path, data)
    if recorded.get("normalisation") not in (None, data.description()["normalisation"]):
        warn(f"{path} saw images normalised in another way than this run's")
    network = fold_batch_norm(network.eval()).requires_grad_(False)
    return Teacher(run.place(network), _offsets(start, path, data.class_counts))


def _offsets(start: dict, path: Path, class_counts: list[int]) -> Tensor | None:
    """The offsets of the teacher's logits, by what its checkpoint says, or the `args.json` beside
    it."""
    said = start
    if "loss_type" not in start:
        try:
            said = json.loads((path.parent / "args.json").read_text())
        except (OSError, ValueError):
            return None
    if not isinstance(said, dict):
        return None
    # A stage 2 ends with the classifier, which is trained by its own losses.
    names = said.get("cls_loss") or said.get("feat_loss") or said.get("loss_type") or ""
    if not any(name in ("BS", "bs", "bs_lt") for name in str(names).split(",")):
        return None
    counts = start.get("class_counts") or class_counts
    return prior_offsets(counts, float(said.get("prior_weight", 1.0)))
