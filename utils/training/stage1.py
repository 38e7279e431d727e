"""Stage 1: the whole network trains from random weights, with LDAM-DRW's recipe for CIFAR (Cao et
al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, and its
code)."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

from torch import nn

from datasets.samplers import EffectiveNumberOrder, Order, ShuffledOrder
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
from models.network import backbone_parameters, head_parameters
from utils.errors import UserError, warn
from utils.options.flags import Options
from utils.options.values import PRIOR_LOSSES
from utils.training.mixup import Mixup
from utils.training.phase import Phase, Stage
from utils.training.rates import cosine_rate, stepped_rate
from utils.training.setup import Run
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
    options = run.options
    head_scale = COSINE_SCALE if options.head == "cosine" else None
    model = build_model(options.arch, run.data.num_classes, head_scale)
    run.take_backbone(model)
    model = run.place(model)
    margins = run.margins() if options.has_robust_loss else None
    teacher = None if options.teacher is None else load_teacher(run)
    contrast = _contrast(run, model)
    views = 1 if contrast is None else CONTRASTIVE_VIEWS
    loader = run.training_loader(_order(run), model if options.epochs else None, views)
    _warn_of_likely_mistakes(options)
    phase = Phase(
        name="pretraining",
        epochs=range(options.start_epoch + 1, options.epochs + 1),
        loader=loader,
        objective=_objectives(run, margins, teacher, contrast),
        optimizer=run.sgd(_groups(run, model, margins, contrast), options.lr),
        learning_rate=learning_rate(options),
        after_update=None if margins is None else run.projection(margins),
        mixup=_mixup(run, max(loader.batch_sizes)),
        teacher=None if teacher is None else teacher.network,
    )
    beside: dict[str, nn.Module] = {} if contrast is None else {"contrast": contrast}
    return Stage(model, [phase], margins, beside=beside)


def _order(run: Run) -> Order:
    train, rule = run.data.train, run.options.train_rule
    match rule:
        case "Resample":
            return EffectiveNumberOrder(train.labels, run.generator)
        case "None" | "Reweight" | "DRW":
            return ShuffledOrder(len(train), run.generator)
    raise ValueError(f"--train_rule {rule} has no order of images")


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
        backbone, head = backbone_parameters(model), head_parameters(model)
        groups = [run.backbone_group(backbone), {"params": head}]
    if margins is not None and margins.trained:
        groups.append(run.margins_group(margins))
    if contrast is not None:
        groups.append({"params": list(contrast.parameters())})
    return groups


def learning_rate(options: Options) -> Callable[[int], float]:
    """Returns the function from an epoch, counted from 1, to its rate."""
    warmup = options.warmup or 0
    if options.schedule == "cosine":
        return partial(cosine_rate, lr=options.lr, epochs=options.epochs, warmup=warmup)
    steps = [(scaled(epoch, options), factor) for epoch, factor in RATE_STEPS]
    return partial(stepped_rate, lr=options.lr, rate_steps=steps, warmup=warmup)


def scaled(epoch: int, options: Options) -> int:
    """Returns where an epoch of the published schedule lies in this run: in its place with
    `--schedule absolute`, else in proportion to `--epochs`."""
    is_absolute = options.schedule == "absolute"
    return epoch if is_absolute else round(epoch * (options.epochs / PUBLISHED_EPOCHS))


def _objectives(
    run: Run, margins: Margins | None, teacher: Teacher | None, contrast: ContrastiveBranch | None
) -> Callable[[int], Objective]:
    """Returns the function from an epoch to its objective. DRW's class weights and the robust loss
    may join in a later epoch."""
    options, class_counts = run.options, run.data.class_counts
    drw_start = scaled(DRW_START, options)
    robust = None if margins is None else _robust_loss(options, margins)
    distillation = None if teacher is None else _distillation(options, class_counts, teacher)

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


def _robust_loss(options: Options, margins: Margins) -> tuple[DROLoss, float]:
    """Returns the robust loss and its weight."""
    assert options.robust_weight is not None  # there are margins only with it
    loss = DROLoss(
        options.temperature,
        epsilons=margins.epsilons[0],
        released_margins=options.as_released,
        distance=options.robust_distance,
    )
    return loss, options.robust_weight


def _distillation(
    options: Options, class_counts: list[int], teacher: Teacher
) -> tuple[DistillationLoss, float]:
    """Returns the distillation loss and its weight."""
    adds_prior = options.loss_type in PRIOR_LOSSES
    offsets = prior_offsets(class_counts, options.prior_weight) if adds_prior else None
    temperature, power = options.teacher_temperature, options.teacher_power
    loss = DistillationLoss(temperature, power, offsets, teacher.offsets)
    return loss, options.teacher_weight


def _warn_of_likely_mistakes(options: Options) -> None:
    """Warns if two flags balance the classes, or if the run ends before its rate has fallen."""
    if options.loss_type in PRIOR_LOSSES and options.train_rule != "None":
        warn(
            f"--train_rule {options.train_rule} balances the classes a second time: --loss_type "
            f"{options.loss_type} already does, and its prior is that of shuffled images"
        )
    if options.schedule == "absolute" and options.epochs <= RATE_STEPS[-1][0]:
        warn(
            f"--epochs {options.epochs} ends before the rate has fallen after epochs "
            f"{' and '.join(str(epoch) for epoch, _ in RATE_STEPS)}; --schedule scaled moves both "
            "steps into the run"
        )
