"""Stage 1: the whole network from random weights, by LDAM-DRW's recipe for CIFAR (Cao et al.,
"Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, and its
code)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from datasets.samplers import EffectiveNumberOrder, ShuffledOrder
from losses import Objective, stage_1_objective
from models import COSINE_SCALE, build_model
from utils.options.flags import Options
from utils.training.phase import Phase
from utils.training.setup import Run, Stage, warn

RATE_STEPS = ((160, 0.01), (180, 0.0001))
DRW_START = 160
PUBLISHED_EPOCHS = 200


def pretraining(run: Run) -> Stage:
    """One phase that trains everything.

    Raises:
        UserError: batch-norm over all processes without a GPU, or a backbone that does not fit.
    """
    options, data = run.options, run.data
    model = build_model(options.arch, data.num_classes, _head_scale(options))
    run.take_backbone(model)
    model = run.place(model)
    if options.loss_type == "BS" and options.train_rule != "None":
        warn(
            f"--train_rule {options.train_rule} balances what --loss_type BS balances already: the "
            "prior of balanced softmax is that of plainly shuffled images"
        )
    if options.train_rule == "Resample":
        order = EffectiveNumberOrder(data.train.labels, run.generator)
    else:
        order = ShuffledOrder(len(data.train), run.generator)
    rate_of, drw_start = schedule(options)
    phase = Phase(
        name="pretraining",
        epochs=range(options.start_epoch + 1, options.epochs + 1),
        loader=run.training_loader(order),
        objective=_objectives(options, data.class_counts, drw_start),
        optimizer=run.sgd(_groups(run, model), options.lr),
        learning_rate=rate_of,
    )
    return Stage(model, [phase])


def _head_scale(options: Options) -> float | None:
    """The scale of a cosine head, 1 where LDAM scales the cosines itself; None if it is linear."""
    if options.loss_type == "LDAM":
        return 1.0
    return COSINE_SCALE if options.head == "cosine" else None


def _groups(run: Run, model: nn.Module) -> list[dict]:
    """Everything in one group, or in two where `--backbone_lr` sets the head apart."""
    if run.options.backbone_lr == 1:
        return [{"params": list(model.parameters())}]
    head = list(model.linear.parameters())
    backbone = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    return [run.backbone_group(backbone), {"params": head}]


def schedule(options: Options) -> tuple[Callable[[int], float], int]:
    """The rate of an epoch, counted from 1, and the last epoch before DRW's weights."""
    scale, warmup = options.epochs / PUBLISHED_EPOCHS, options.warmup
    if options.schedule == "cosine":
        rate_of = partial(cosine_rate, lr=options.lr, epochs=options.epochs, warmup=warmup)
        return rate_of, round(DRW_START * scale)
    if options.schedule == "scaled":
        steps = [(round(epoch * scale), factor) for epoch, factor in RATE_STEPS]
        rate_of = partial(learning_rate, lr=options.lr, rate_steps=steps, warmup=warmup)
        return rate_of, round(DRW_START * scale)
    if options.epochs <= RATE_STEPS[-1][0]:
        warn(
            f"--epochs {options.epochs} ends before the rate steps after epochs "
            f"{' and '.join(str(epoch) for epoch, _ in RATE_STEPS)} have both been taken; "
            "--schedule scaled moves them"
        )
    rate_of = partial(learning_rate, lr=options.lr, rate_steps=RATE_STEPS, warmup=warmup)
    return rate_of, DRW_START


def learning_rate(
    epoch: int, lr: float, rate_steps: Sequence[tuple[int, float]], warmup: int = 5
) -> float:
    """Rate of an epoch, counted from 1: a linear warm-up, then a step function; steps are the last
    epoch before the rate falls and the factor to which it does."""
    if epoch <= warmup:
        return lr * epoch / warmup
    factors = [factor for last_epoch, factor in rate_steps if epoch > last_epoch]
    return lr * (factors[-1] if factors else 1.0)


def cosine_rate(epoch: int, lr: float, epochs: int, warmup: int = 0) -> float:
    """Rate of epoch t of T: lr · t / W in the W epochs of the warm-up, then
    lr · (1 + cos(π (t − 1 − W) / (T − W))) / 2, from the full rate towards 0 (Loshchilov and
    Hutter, "SGDR", ICLR 2017, equation 5, one cycle)."""
    if epoch <= warmup:
        return lr * epoch / warmup
    return lr * (1 + math.cos(math.pi * (epoch - 1 - warmup) / (epochs - warmup))) / 2


def _objectives(
    options: Options, class_counts: list[int], drw_start: int
) -> Callable[[int], Objective]:
    plain, reweighted = (
        stage_1_objective(options.loss_type, class_counts, is_reweighted, options.prior_weight)
        for is_reweighted in (False, True)
    )
    if options.train_rule == "Reweight":
        return lambda epoch: reweighted
    if options.train_rule == "DRW":
        return lambda epoch: reweighted if epoch > drw_start else plain
    return lambda epoch: plain
