"""Stage 2, DRO-LT (Samuel and Chechik, ICCV 2021, section 4). The feature phase trains the features
and the margins with the robust loss, while the classifier is frozen. The trainer computes the
centroids of this loss at the start of each epoch. The classifier phase trains the classifier on the
features that `--select_on` chooses, which are frozen."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets import LongTailedData
from datasets.loading.loader import Loader
from datasets.samplers import ClassAwareOrder, Order, ShuffledOrder, visits_every_class
from losses import Margins, stage_2_objective
from models import build_model
from models.layers import LayerFeatures
from models.network import backbone_parameters, head_parameters
from utils.errors import UserError, warn
from utils.options.flags import Options
from utils.options.values import PRIOR_LOSSES, Sampler
from utils.runs import checkpoint
from utils.runs.records import records_of, warn_of_unfinished
from utils.training.phase import Phase, Stage
from utils.training.prior import recorded_weight, weight_in_losses
from utils.training.rates import cosine_rate
from utils.training.setup import Run
from utils.training.starting_point import warn_of_other_chain, warn_of_other_data


def stage_2(run: Run, start: dict, path: Path) -> Stage:
    """Returns stage 2, which starts from the stage-1 checkpoint `start`, read from `path`.

    Raises:
        UserError: the checkpoint is one of another network, a sampler cannot visit every class, the
            network lacks a layer of `--feat_layers` or no loss would train it, `--sync_bn True` is
            given without a GPU, a backbone does not fit, or batches are too small for the network.
        RunError: the images do not fit into the memory of the device.
    """
    options, num_classes = run.options, run.data.num_classes
    _warn_of_likely_mistakes(run, start, path)
    model = checkpoint.build_from(start, path, options.arch, num_classes, options.head)
    run.take_backbone(model)
    model = run.place(model)
    layers = _with_layers(model, options)
    margins = run.margins(None if layers is None else len(layers.columns))
    features = _feature_phase(run, model, layers, margins)
    classifier = _classifier_phase(run, model, features.loader)
    # The optimiser has the margins in any case, because checkpoints have its groups.
    return Stage(model, [features, classifier], margins if options.has_margins else None, layers)


def _feature_phase(
    run: Run, model: nn.Module, layers: LayerFeatures | None, margins: Margins
) -> Phase:
    """Returns the phase that trains features and margins with `--feat_loss`, in the paper
    cross-entropy and the robust loss. The classifier is frozen."""
    options = run.options
    order = _order(run, options.feature_sampler)
    objective = stage_2_objective(
        options.feature_losses,
        run.data.class_counts,
        temperature=options.temperature,
        epsilons=list(margins.epsilons),
        released_margins=options.as_released,
        distance=options.robust_distance,
        robust_weight=options.robust_weight,
        columns=None if layers is None else layers.columns,
        prior_weight=options.prior_weight,
    )
    return Phase(
        name="features",
        epochs=range(options.start_epoch + 1, options.feature_epochs + 1),
        loader=run.training_loader(order, model if options.feature_epochs else None),
        objective=lambda epoch: objective,
        optimizer=run.sgd(_feature_groups(run, model, margins), options.feat_lr),
        learning_rate=_feature_rate(options),
        after_update=run.projection(margins),
    )


def _classifier_phase(run: Run, model: nn.Module, features_loader: Loader) -> Phase:
    """Returns the phase that trains only the classifier, with `--cls_loss`, on the features that
    `--select_on` chooses, which are frozen. Its images are in the order of the feature phase,
    unless it has a sampler of its own."""
    options = run.options
    loader = features_loader  # as in the released code, its order goes on
    if options.classifier_sampler != options.feature_sampler:
        loader = run.training_loader(_order(run, options.classifier_sampler))
    objective = stage_2_objective(
        options.classifier_losses, run.data.class_counts, prior_weight=options.prior_weight
    )
    return Phase(
        name="classifier",
        epochs=range(max(options.feature_epochs, options.start_epoch) + 1, options.epochs + 1),
        loader=loader,
        objective=lambda epoch: objective,
        optimizer=run.sgd(head_parameters(model), options.cls_lr),
        learning_rate=lambda epoch: options.cls_lr,
        features_are_frozen=True,
    )


def _feature_groups(run: Run, model: nn.Module, margins: Margins) -> list[dict[str, Any]]:
    """Returns the optimiser's groups of the backbone and of learned margins. As in the released
    code, margins with the rate and decay of the features are in their group."""
    backbone = backbone_parameters(model)
    if run.options.margin_wd is None and run.options.backbone_lr == 1:
        return [run.backbone_group(backbone + margins.trained)]
    groups = [run.backbone_group(backbone)]
    if margins.trained:
        groups.append(run.margins_group(margins))
    return groups


def _feature_rate(options: Options) -> Callable[[int], float]:
    """Returns the function from a feature epoch to its rate: constant as published, or a cosine
    that falls towards 0 over all feature epochs."""
    if options.feat_schedule == "cosine":
        return partial(cosine_rate, lr=options.feat_lr, epochs=options.feature_epochs)
    return lambda epoch: options.feat_lr


def _order(run: Run, sampler: Sampler) -> Order:
    if sampler.samples_per_class is None:
        return ShuffledOrder(len(run.data.train), run.generator)
    _check_visits(sampler.samples_per_class, run.data.class_counts)
    return ClassAwareOrder(run.data.train.labels, sampler.samples_per_class, run.generator)


def _with_layers(model: nn.Module, options: Options) -> LayerFeatures | None:
    """Returns the network with the outputs of `--feat_layers` as features, or None without the
    flag.

    Raises:
        UserError: the network lacks a layer, or no loss would train the layers behind the last
            named one.
    """
    if options.feat_layers is None:
        return None
    layers = options.robust_layers
    try:
        network = LayerFeatures(model, layers)
    except ValueError as error:
        raise UserError(f"--feat_layers {options.feat_layers}: {error}") from None
    last = [name for name, _ in model.named_children() if name.startswith("layer")][-1]
    reads_logits = any(term.reads_logits for term in options.feature_losses)
    if last not in layers and not reads_logits:
        raise UserError(
            f"--feat_layers {options.feat_layers}: with --feat_loss {options.feat_loss} no loss "
            f"would train the layers behind it; add {last} to the layers, or ce to the losses"
        )
    return network


def check_stage_2(options: Options, data: LongTailedData) -> None:
    """Checks what needs no checkpoint, so that a bad stage 2 is refused before its stage 1 trains.

    Raises:
        UserError: a sampler cannot visit every class, the network lacks a layer of `--feat_layers`,
            or no loss would train it.
    """
    for sampler in (options.feature_sampler, options.classifier_sampler):
        if sampler.samples_per_class is not None:
            _check_visits(sampler.samples_per_class, data.class_counts)
    if options.feat_layers is not None:
        with torch.device("meta"):  # without memory for the weights
            model = build_model(options.arch, data.num_classes)
        _with_layers(model, options)


def _check_visits(k: int, class_counts: list[int]) -> None:
    """Checks that `resample,k` takes at most all images of the largest class at a visit, and visits
    every class in every epoch; otherwise a class would have no centroid.

    Raises:
        UserError: it does not; the message says which k do.
    """
    num_classes, largest = len(class_counts), max(class_counts)
    if k > largest:
        raise UserError(
            f"resample,{k} takes more images at a visit than the largest class has, {largest}"
        )
    if visits_every_class(num_classes, largest, k):
        return
    works = next(n for n in range(k, 0, -1) if visits_every_class(num_classes, largest, n))
    raise UserError(
        f"resample,{k} does not visit every class in every epoch; the largest k that does is "
        f"{works} (or {largest}, the size of the largest class)"
    )


def _warn_of_likely_mistakes(run: Run, start: dict, path: Path) -> None:
    """Warns if the checkpoint does not suit the run, or a loss does not suit its sampler."""
    warn_of_other_chain(start, path, run.options.select_on)
    warn_of_unfinished(path, records_of(path, run.options))
    warn_of_other_data(start, path, run.data)
    _warn_of_uniform_prior(run.options)
    _warn_of_other_frequencies(run.options, start, path)


def _warn_of_uniform_prior(options: Options) -> None:
    """Warns if balanced softmax would learn from a sampler that draws all classes equally often."""
    for flag, losses, sampler in (
        ("feat", options.feature_losses, options.feature_sampler),
        ("cls", options.classifier_losses, options.classifier_sampler),
    ):
        kind = next((t.kind for t in losses if t.adds_prior and not t.weighting), None)
        if kind is not None and sampler.samples_per_class is not None:
            warn(
                f"--{flag}_loss {kind} with a class-aware sampler balances the classes twice; use "
                f"{kind}_lt, which weights the classes by their size, or --{flag}_sampler "
                "instance, which draws every image once"
            )


def _warn_of_other_frequencies(options: Options, start: dict, path: Path) -> None:
    """Warns if the feature phase reads the classifier, which is frozen there, as one of other class
    frequencies than those of its training: by cross-entropy after balanced softmax, or the other
    way round. Checkpoints that do not record their loss are not judged."""
    losses = [term for term in options.feature_losses if term.reads_logits]
    if not losses or options.feature_epochs == 0 or "loss_type" not in start:
        return
    read = weight_in_losses(losses, options.feature_sampler, options.prior_weight)
    had_prior = start["loss_type"] in PRIOR_LOSSES
    is_other_loss = had_prior != any(term.adds_prior for term in losses)
    if is_other_loss and recorded_weight(start) not in (None, read):
        warn(
            f"{path}: its classifier was trained with --loss_type {start['loss_type']}, and "
            f"--feat_loss {options.feat_loss} reads its logits as those of other class frequencies"
        )
