"""The name of a run folder: the released name, and a digest of what that name lacks."""

import hashlib
import json
from collections.abc import Mapping
from string import Formatter
from typing import Any

from utils.options.digests import DIGITS, content_digest
from utils.options.flags import OWN_DATASETS, Options, with_role
from utils.options.roles import Role

LONGEST_NAME = 143
"""The most bytes of a name. An encrypted home folder allows 143; most file systems allow 255."""

RELEASED = {
    1: "{dataset}_{arch}_{loss_type}_{train_rule}_{imb_type}_{imb_factor}_{exp_str}",
    2: "robust_nepochs={epochs}_bs={batch_size}_temp={temperature}_margin={margin}"
    "_type={margin_type}_feat-{feat_loss}-{feat_sampler}-{feat_lr}"
    "_cls-{cls_loss}-{cls_sampler}-{cls_lr}",
}
"""The names that the released code gives the run folders of each stage."""

NOTHING: Mapping[str, str] = {}

SPELT_OUT = (
    *("augment", "select_on", "robust_weight", "as_released", "precision", "heldout_fraction"),
    *("margin_min", "margin_wd", "image_size", "normalisation", "stream", "accumulate", "sync_bn"),
    *("feat_layers", "robust_distance"),
)
"""The options that earlier versions wrote behind the released name of a stage 2, in their order.
Runs with these names exist, so no option may be added."""


def run_name(options: Options, counted: Mapping[str, Any] | None = None) -> str:
    """Returns the name of a run's folder: the released name, with a digest if that lacks an option
    or is too long. The folder of a stage 2 lies in that of its stage 1.

    Args:
        options: the options of the run.
        counted: what the digest stands for, from `digested`; by default that of the options alone.
    """
    released = released_name(options)
    counted = digested(options) if counted is None else counted
    if not counted and len(released.encode(errors="surrogateescape")) <= LONGEST_NAME:
        return released
    text = json.dumps([released, sorted(counted.items())])
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    return f"{before_digest(released)}-{digest}"


def name_by_paths(options: Options, parent: str | None = None) -> str:
    """Returns the name that an earlier version gave the run folder. That version took the paths of
    `--backbone` and `--teacher` instead of their contents, and only the text of a table of
    images."""
    counted = digested(options, parent)
    if "data" in counted:
        counted["data"] = content_digest(options.data_root, (options.root_log, options.root_model))
    return run_name(options, counted)


def earlier_name(options: Options) -> str:
    """Returns the name that the run folder had before names had digests: the released name, and in
    stage 2 also our own flags that are not at their defaults."""
    if options.stage == 1:
        return released_name(options)
    own = [name for name in SPELT_OUT if not options.is_at_default(name)]
    return released_name(options) + "".join(f"_{name}={getattr(options, name)}" for name in own)


def digested(
    options: Options,
    parent: str | None = None,
    contents: Mapping[str, str] = NOTHING,
    start: str | None = None,
) -> dict[str, Any]:
    """Returns the options that the digest in a run's name stands for, with their values. They
    decide the result, are not in the released name, and are not at their defaults. Empty if the
    released name needs no digest.

    Instead of a path, own data have a digest of their content, under ``data``, and a file has its
    digest from `contents`.

    Args:
        options: the options of the run.
        parent: for a stage 2, the name of the stage-1 folder; by default the one that
            `--pretrained` names.
        contents: digests of files that options name, by the options' names. A file without a digest
            counts by its path.
        start: the file name of the checkpoint that a stage 2 starts from, if it is not the one that
            `--select_on` chooses in the stage-1 folder; else None.
    """
    named = _in_released_name(1) | {"epochs"}  # a stage 1 may be resumed with more epochs
    if options.stage == 2:
        named = _in_released_name(2)
        parent = str(options.pretrained).rstrip("/").split("/")[-1] if parent is None else parent
        if _is_of_same_data(options, parent):
            named |= _in_released_name(1) & set(with_role(Role.DATA, Role.BOTH_STAGES))
    if options.seeds is not None:
        named.add("seed")  # each seed has its own folder
    counted = {
        name: contents.get(name, getattr(options, name))
        for name in options.decisive()
        if name not in named and not options.is_at_default(name)
    }
    if start is not None:
        counted["pretrained"] = start
    if options.dataset in OWN_DATASETS:
        roots = (options.root_log, options.root_model)
        content = content_digest(options.data_root, roots, options.dataset == "csv")
        counted |= {} if content is None else {"data": content}
    return counted


def _is_of_same_data(options: Options, parent: str) -> bool:
    """Returns True if the name of the stage-1 folder has the data and the network of stage 2."""
    start, middle = f"{options.dataset}_{options.arch}_", f"_{options.imb_type}_"
    return parent.startswith(start) and f"{middle}{options.imb_factor}_" in parent


def released_name(options: Options) -> str:
    """Returns the name that the released code gives the run folder."""
    return RELEASED[options.stage].format_map(options.as_dict())


def _in_released_name(stage: int) -> set[str]:
    """Returns the options that are in the released name of a stage."""
    return {name for _, name, _, _ in Formatter().parse(RELEASED[stage]) if name}


def before_digest(released: str) -> str:
    """Returns the part of a released name that stands before a digest: all of it, if the whole name
    then has at most `LONGEST_NAME` bytes."""
    whole = released.encode(errors="surrogateescape")
    return whole[: LONGEST_NAME - DIGITS - 1].decode(errors="ignore")
