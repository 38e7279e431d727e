"""What a run's folder is called: the released name, and a digest of what that name lacks."""

import hashlib
import json
from typing import Any

from utils.options.flags import OWN_DATASETS, Options
from utils.options.own_data import content_digest

LONGEST_NAME = 143
"""Bytes that a name may have in an encrypted home; most file systems allow 255."""

DIGITS = 8

IN_STAGE_1 = ("dataset", "arch", "loss_type", "train_rule", "imb_type", "imb_factor", "exp_str")
"""What the released name of a stage 1 says, in its order."""

IN_STAGE_2 = (
    *("epochs", "batch_size", "temperature", "margin", "margin_type"),
    *("feat_loss", "feat_sampler", "feat_lr", "cls_loss", "cls_sampler", "cls_lr"),
)

SPELT_OUT = (
    *("augment", "select_on", "robust_weight", "as_released", "precision", "heldout_fraction"),
    *("margin_min", "margin_wd", "image_size", "normalisation", "stream", "accumulate", "sync_bn"),
    *("feat_layers", "robust_distance"),
)
"""What earlier names of stage 2's folders spelt out behind the released name."""


def stage_1_name(options: Options) -> str:
    """Returns the name of a stage 1's folder."""
    return _with_digest(released_name(options), digested(options))


def stage_2_name(options: Options, parent: str | None = None) -> str:
    """Returns the name of a stage 2's folder inside `parent`, that of its stage 1; by default the
    one that `--pretrained` names."""
    return _with_digest(released_name(options), digested(options, parent))


def earlier_name(options: Options) -> str:
    """Returns the name that the run's folder had before digests: the released one, in stage 2 with
    our own flags behind it where they are not at their defaults."""
    if options.stage == 1:
        return released_name(options)
    own = [name for name in SPELT_OUT if not options.is_at_default(name)]
    return released_name(options) + "".join(f"_{name}={getattr(options, name)}" for name in own)


def digested(options: Options, parent: str | None = None) -> dict[str, Any]:
    """Returns what the digest in the run's name stands for: the options that decide its result,
    are not in its released name, and are not at their defaults; of own data their content instead
    of their place. Nothing, where the released name says it all.

    Args:
        parent: the name of the stage 1's folder, of a stage 2.
    """
    named = set(IN_STAGE_1) | {"epochs"}  # a stage 1 may go on with more epochs
    if options.stage == 2:
        named = set(IN_STAGE_2)
        parent = str(options.pretrained).rstrip("/").split("/")[-1] if parent is None else parent
        if _is_of_same_data(options, parent):
            named |= {"dataset", "arch", "imb_type", "imb_factor"}
    if options.seeds is not None:
        named.add("seed")  # each seed has a folder of its own
    counted = {
        name: getattr(options, name)
        for name in options.decisive()
        if name not in named and not options.is_at_default(name)
    }
    if options.dataset in OWN_DATASETS:
        content = content_digest(options.data_root, (options.root_log, options.root_model))
        counted |= {} if content is None else {"data": content}
    return counted


def _is_of_same_data(options: Options, parent: str) -> bool:
    """Whether the name of the stage 1 says on which data and network stage 2 works."""
    start, middle = f"{options.dataset}_{options.arch}_", f"_{options.imb_type}_"
    return parent.startswith(start) and f"{middle}{options.imb_factor}_" in parent


def released_name(options: Options) -> str:
    """Returns the name that the released code gives the run's folder."""
    if options.stage == 1:
        return "_".join(str(getattr(options, name)) for name in IN_STAGE_1)
    return (
        f"robust_nepochs={options.epochs}_bs={options.batch_size}_temp={options.temperature}"
        f"_margin={options.margin}_type={options.margin_type}"
        f"_feat-{options.feat_loss}-{options.feat_sampler}-{options.feat_lr}"
        f"_cls-{options.cls_loss}-{options.cls_sampler}-{options.cls_lr}"
    )


def _with_digest(released: str, counted: dict[str, Any]) -> str:
    """The released name, with a digest where it lacks something or is too long."""
    whole = released.encode(errors="surrogateescape")
    if not counted and len(whole) <= LONGEST_NAME:
        return released
    text = json.dumps([released, sorted(counted.items())])
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    kept = whole[: LONGEST_NAME - DIGITS - 1].decode(errors="ignore")
    return f"{kept}-{digest}"
