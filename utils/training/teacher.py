"""The teacher of a distilled run."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from datasets.recorded import data_of
from losses import prior_offsets
from models.folding import fold_batch_norm
from utils.errors import UserError, warn
from utils.files import read_json
from utils.runs import checkpoint
from utils.runs.lookup import checkpoint_of_flag
from utils.runs.records import records_of, warn_of_unfinished
from utils.training.prior import recorded_weight
from utils.training.setup import Run
from utils.training.starting_point import (
    check_not_trained_on,
    warn_of_other_chain,
    warn_of_other_data,
)


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode.

    Args:
        network: returns ``(features, logits)``.
        offsets: what turns its logits into those of the class frequencies of training ``[K]``, such
            as τ · log π_c after balanced softmax; None if they are that already.
    """

    network: nn.Module
    offsets: Tensor | None


def load_teacher(run: Run) -> Teacher:
    """Returns the teacher that `--teacher` names: a run folder or a checkpoint file, of any
    architecture. It is looked up in the same places as `--pretrained`.

    Raises:
        UserError: there is no such teacher, it or its class counts have other classes than the
            data, or it was trained on images of another size or on images that
            `--heldout_fraction` holds out.
    """
    options, data = run.options, run.data
    path = checkpoint_of_flag(options, "teacher")
    start = checkpoint.load(path)
    arch = start.get("arch", options.arch)
    try:
        network = checkpoint.build_from(start, path, arch, data.num_classes)
    except (UserError, ValueError) as error:
        raise UserError(f"--teacher {options.teacher}: {error}") from None
    recorded = data_of(start)
    if recorded.get("class_names") not in (None, data.class_names):
        raise UserError(
            f"--teacher {options.teacher}: its classes have other names than those of the data"
        )
    side = recorded.get("image_size")
    if side not in (None, data.image_size):
        raise UserError(
            f"--teacher {options.teacher}: it was trained on images of {side}x{side} pixels, and "
            f"this run's have {data.image_size}x{data.image_size}; --image_size sets their size"
        )
    check_not_trained_on(options, start, path, data)
    warn_of_unfinished(path, records_of(path, options))
    warn_of_other_data(start, path, data)
    # A last epoch suits every protocol. Other programs' files do not say what chose them.
    if start.get("selected_on", "last") != "last":
        warn_of_other_chain(start, path, options.select_on)
    if recorded.get("normalisation") not in (None, data.normalisation.as_dict()):
        warn(f"{path} was trained on images that were normalised in another way than this run's")
    network = fold_batch_norm(network.eval(), run.machine.conv_dtype).requires_grad_(False)
    return Teacher(run.place(network), _offsets(start, path, data.class_counts))


def _offsets(start: dict, path: Path, class_counts: list[int]) -> Tensor | None:
    """Returns the offsets that turn the teacher's logits into those of the class frequencies of
    training, or None if they are that already.

    They are w · log π_c with the w of `recorded_weight`. The losses, samplers and class weights are
    those that its checkpoint records, or the `args.json` beside it.

    Raises:
        UserError: they depend on class counts of other classes.
    """
    is_recorded = {"loss_type", "feat_loss", "cls_loss"} & start.keys()
    said = start if is_recorded else read_json(path.parent / "args.json")
    weight = recorded_weight(said)
    if not weight:
        return None
    counts = start.get("class_counts") or class_counts
    if len(counts) != len(class_counts) or min(counts) < 1:
        raise UserError(f"{path}: its class_counts are not those of {len(class_counts)} classes")
    return prior_offsets(counts, weight)
