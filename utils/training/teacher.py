"""The teacher of a distilled run."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from datasets.recorded import data_of
from losses import prior_offsets
from models.folding import fold_batch_norm
from utils.errors import UserError, warn
from utils.files import read_json
from utils.options.flags import OF_LOGITS, Options
from utils.options.values import LossTerm
from utils.runs import checkpoint
from utils.runs.lookup import checkpoint_of_flag
from utils.training.setup import Run
from utils.training.starting_point import warn_of_other_data


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
    recorded = data_of(start)
    if recorded.get("class_names") not in (None, data.class_names):
        raise UserError(
            f"--teacher {options.teacher}: its classes have other names than those of the data"
        )
    warn_of_other_data(start, path, data)
    if recorded.get("normalisation") not in (None, data.normalisation.as_dict()):
        warn(f"{path} was trained on images that were normalised in another way than this run's")
    network = fold_batch_norm(network.eval(), run.machine.conv_dtype).requires_grad_(False)
    return Teacher(run.place(network), _offsets(start, path, data.class_counts))


def _offsets(start: dict, path: Path, class_counts: list[int]) -> Tensor | None:
    """Returns the offsets that turn the teacher's logits into those of the class frequencies of
    training, or None if they are that already.

    If class c had a share of the loss that is proportional to n_c^e, and balanced softmax added
    τ · log π_c, the offsets are (τ + 1 − e) · log π_c. The losses, samplers and class weights are
    those that its checkpoint records, or the `args.json` beside it.
    """
    is_recorded = {"loss_type", "feat_loss", "cls_loss"} & start.keys()
    said = start if is_recorded else read_json(path.parent / "args.json")
    try:
        weight = _weight_of_prior(Options.from_record({n: said[n] for n in OF_LOGITS if n in said}))
    except (AttributeError, TypeError, ValueError):  # another program's values
        return None
    return prior_offsets(start.get("class_counts") or class_counts, weight) if weight else None


def _weight_of_prior(options: Options) -> float:
    """Returns τ + 1 − e, see `_offsets`."""
    # After stage 2 the classifier phase counts, because it trained the classifier.
    terms = options.classifier_losses or options.feature_losses
    if terms:
        sampler = options.classifier_sampler if options.cls_loss else options.feature_sampler
        term = next((term for term in terms if not term.is_robust), LossTerm("ce"))
        exponent = {"": 0, "lt": 1, "bal": -1}[term.weighting]
        exponent += sampler.samples_per_class is None
        is_balanced_softmax = any(term.kind == "bs" for term in terms)
    else:
        exponent = 1 if options.train_rule == "None" else 0  # of the effective numbers, nearly
        is_balanced_softmax = options.loss_type == "BS"
    return options.prior_weight * is_balanced_softmax + 1 - exponent
