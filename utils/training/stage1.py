"""Stage 1: the whole network trains from random weights, with LDAM-DRW's recipe for CIFAR (Cao et
al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, and its
code)."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

from torch import nn

from datasets.samplers import EffectiveNumberOrder, ShuffledOrder
from losses import (
    ContrastiveBranch,
    DistillationLoss,
    DROLoss,
    Margins,
    Objective,
    prior_offsets,
    stage_1_objective,
)
from models import COSINE_SCALE, build_model
from utils.errors import UserError, warn
from utils.options.flags import Options
from utils.training.mixup import Mixup
from utils.training.phase import Phase
from utils.training.rates import cosine_rate, stepped_rate
from utils.training.setup import Run, Stage
from utils.training.teacher import Teacher, load_teacher

RATE_STEPS = ((160, 0.01), (180, 0.0001))  # last epoch before each step, factor of the rate
DRW_START = 160  # last epoch before DRW's class weights
PUBLISHED_EPOCHS = 200
CONTRASTIVE_VIEWS = 3
"""One view for the classifier, two for the contrastive loss."""


def stage_1(run: Run) -> Stage:
    """Returns stage 1: one phase that trains everything.

    Raises:
        UserError: `--sync_bn True` without a GPU, a backbone that does not fit, batches that are
            too small for the network, mixup or a contrastive loss with several processes, a
            contrastive loss with streamed images, or a teacher that is missing or has other
            classes.
        RunError: the images do not fit into the memory of the device.
    """
    options, data = run.options, run.data
    head_scale = COSINE_SCALE if options.head == "cosine" else None
    model = build_model(options.arch, data.num_classes, head_scale)
    run.take_backbone(model)
    model = run.place(model)
    if options.loss_type == "BS" and options.train_rule != "None":
        warn(
            f"--train_rule {options.train_rule} balances the classes a second time: --loss_type BS "
            "already does, and its prior is that of shuffled images"
        )
    if options.train_rule == "Resample":
        order = EffectiveNumberOrder(data.train.labels, run.generator)
    else:
        order = ShuffledOrder(len(data.train), run.generator)
    margins = run.margins() if options.has_robust_loss else None
    teacher = None if options.teacher is None else load_teacher(run)
    contrast = _contrast(run, model)
    views = 1 if contrast is None else CONTRASTIVE_VIEWS
    loader = run.training_loader(order, model if options.epochs else None, views)
    rate_of, drw_start = schedule(options)
    phase = Phase(
        name="pretraining",
        epochs=range(options.start_epoch + 1, options.epochs + 1),
        loader=loader,
        objective=_objectives(options, data.class_counts, drw_start, margins, teacher, contrast),
        optimizer=run.sgd(_groups(run, model, margins, contrast), options.lr),
        learning_rate=rate_of,
        after_update=_projection(margins, options.margin_min),
        mixup=_mixup(run, max(loader.batch_sizes)),
        teacher=None if teacher is None else teacher.network,
        views=views,
    )
    return Stage(model, [phase], margins, contrast=contrast)


def _projection(margins: Margins | None, lowest: float | None) -> Callable[[], None] | None:
    """Returns the function that raises the margins to `--margin_min` after each update, or None if
    there is nothing to raise."""
    return None if margins is None or lowest is None else partial(margins.keep_above, lowest)


def _contrast(run: Run, model: nn.Module) -> ContrastiveBranch | None:
    """Returns the branch of `--contrastive bcl`, or None without the flag. Its weights are drawn
    after the network's.

    Raises:
        UserError: there are several processes, or the images are streamed.
    """
    if run.options.contrastive is None:
        return None
    if run.machine.world.size > 1:
        raise UserError("--contrastive bcl works with one process, not with several")
    if run.data.is_streamed:
        raise UserError("--contrastive bcl needs images held in memory: add --stream False")
    return ContrastiveBranch(cast(int, model.num_features)).to(run.machine.device)


def _mixup(run: Run, batch_size: int) -> Mixup | None:
    """Returns what mixes the images, or None without `--mixup`.

    Raises:
        UserError: there are several processes, and so none has all images of a batch.
    """
    alpha, seed = run.options.mixup, run.options.seed
    if alpha == 0:
        return None
    assert seed is not None  # it is drawn if it was not given
    if run.machine.world.size > 1:
        raise UserError(f"--mixup {alpha} works with one process, not with several")
    return Mixup(alpha, seed, batch_size, run.machine.device)


def _groups(
    run: Run, model: nn.Module, margins: Margins | None, contrast: ContrastiveBranch | None
) -> list[dict]:
    """Returns the optimiser's groups: the network in one group, or in two (backbone and head) with
    `--backbone_lr`; learned margins in another; a contrastive projection in another."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if run.options.backbone_lr != 1:
        head = list(model.get_submodule("linear").parameters())
        backbone = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
        groups = [run.backbone_group(backbone), {"params": head}]
    if margins is not None and margins.trained:
        groups.append(run.margins_group(margins))
    if contrast is not None:
        groups.append({"params": list(contrast.parameters())})
    return groups


def schedule(options: Options) -> tuple[Callable[[int], float], int]:
    """Returns the function from an epoch, counted from 1, to its rate, and the last epoch before
    DRW's class weights."""
    warmup = options.warmup or 0
    scale = 1.0 if options.schedule == "absolute" else options.epochs / PUBLISHED_EPOCHS
    drw_start = round(DRW_START * scale)
    if options.schedule == "cosine":
        rate_of = partial(cosine_rate, lr=options.lr, epochs=options.epochs, warmup=warmup)
        return rate_of, drw_start
    if options.schedule == "absolute" and options.epochs <= RATE_STEPS[-1][0]:
        warn(
            f"--epochs {options.epochs} ends before the rate has fallen after epochs "
            f"{' and '.join(str(epoch) for epoch, _ in RATE_STEPS)}; --schedule scaled moves both "
            "steps into the run"
        )
    steps = [(round(epoch * scale), factor) for epoch, factor in RATE_STEPS]
    return partial(stepped_rate, lr=options.lr, rate_steps=steps, warmup=warmup), drw_start


def _objectives(
    options: Options,
    class_counts: list[int],
    drw_start: int,
    margins: Margins | None,
    teacher: Teacher | None,
    contrast: ContrastiveBranch | None,
) -> Callable[[int], Objective]:
    """Returns the function from an epoch to its objective. DRW's class weights and the robust loss
    may join in a later epoch."""
    distillation = None
    if teacher is not None:
        is_balanced = options.loss_type == "BS"
        offsets = prior_offsets(class_counts, options.prior_weight) if is_balanced else None
        loss = DistillationLoss(
            options.teacher_temperature, options.teacher_power, offsets, teacher.offsets
        )
        distillation = loss, options.teacher_weight
    robust = None
    if margins is not None and options.robust_weight is not None:
        loss = DROLoss(
            options.temperature,
            epsilons=margins.epsilons[0],
            released_margins=options.as_released,
            distance=options.robust_distance,
        )
        robust = loss, options.robust_weight

    @cache  # equal objectives must be one object, because a step is made for each object
    def make(is_reweighted: bool, is_joint: bool) -> Objective:
        return stage_1_objective(
            options.loss_type,
            class_counts,
            is_reweighted,
            options.prior_weight,
            robust=robust if is_joint else None,
            distillation=distillation,
            contrast=contrast,
        )

    def objective(epoch: int) -> Objective:
        is_late = options.train_rule == "DRW" and epoch > drw_start
        return make(options.train_rule == "Reweight" or is_late, epoch >= options.robust_start)

    return objective
