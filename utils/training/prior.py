"""Which class frequencies the logits of a network stand for: those of training, or equal ones.

If class c had a share of the loss that is proportional to n_c^e, and balanced softmax added
τ · log π_c, then logits + (τ + 1 − e) · log π_c are those of the class frequencies of training. The
functions here return τ + 1 − e.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from utils.options.flags import OF_LOGITS, Options
from utils.options.values import PRIOR_LOSSES, LossTerm, Sampler


def recorded_weight(record: Mapping[str, Any]) -> float | None:
    """Returns τ + 1 − e of the network of a checkpoint; None if the record is another program's.

    Args:
        record: the checkpoint, or the `args.json` of its run.
    """
    try:
        return _weight_of(Options.from_record({n: record[n] for n in OF_LOGITS if n in record}))
    except (AttributeError, TypeError, ValueError):
        return None


def _weight_of(options: Options) -> float:
    # After stage 2 the classifier phase counts, because it trained the classifier. Without one, the
    # features were fitted to the classifier as the losses of the feature phase read it.
    if options.balanced_clf_nepochs > 0 and options.classifier_losses:
        losses, sampler = options.classifier_losses, options.classifier_sampler
        return weight_in_losses(losses, sampler, options.prior_weight)
    if options.feature_losses:
        return weight_in_losses(
            options.feature_losses, options.feature_sampler, options.prior_weight
        )
    exponent = 1 if options.train_rule == "None" else 0  # of the effective numbers, nearly
    return options.prior_weight * (options.loss_type in PRIOR_LOSSES) + 1 - exponent


def weight_in_losses(losses: Sequence[LossTerm], sampler: Sampler, prior_weight: float) -> float:
    """Returns τ + 1 − e of the logits that a phase of stage 2 trains, or reads if they are frozen.

    Args:
        losses: the losses of the phase; the first that reads logits says how classes weigh.
        sampler: its sampler.
        prior_weight: τ of balanced softmax.
    """
    term = next((term for term in losses if term.reads_logits), LossTerm("ce"))
    exponent = {"": 0, "lt": 1, "bal": -1}[term.weighting]
    exponent += sampler.samples_per_class is None
    adds_prior = any(term.adds_prior for term in losses)
    return prior_weight * adds_prior + 1 - exponent
