"""From a command line to checked options, without importing torch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.options.digests import forget_digests
from utils.options.flags import (
    BENCHMARK_LISTS,
    FIELDS,
    FILE_DATASETS,
    NATURAL_DATASETS,
    Options,
    flag_of,
    names_of,
    with_role,
)
from utils.options.recipes import FULL_STAGE_1, RECIPES
from utils.options.roles import Role
from utils.options.run_names import run_name
from utils.options.values import PRIOR_LOSSES

DESCRIPTION = """DRO-LT: distributional robustness loss for long-tail learning.

Without --pretrained: stage 1, classification from random weights.
With --pretrained X:  stage 2, DRO-LT fine-tuning from that stage-1 checkpoint.
With --pretrain_epochs E: stage 1 for E epochs, then stage 2 from it.
With --evaluation:    evaluate the run that the other flags name.
With --recipe bs --dataset folder --data_root DIR: own images (docs/data.md)

Letters in capitals stand for the value of a flag. n_c is the number of training
images of class c, n_max that of the largest class, N that of all classes, K the
number of classes. Booleans take True or False; the flag alone means True.
"""


class Parser(argparse.ArgumentParser):
    """A parser that raises `UserError` with one line, instead of printing the usage. It takes no
    abbreviated flags, and `--help` shows its description as it is."""

    def __init__(self, **settings: Any) -> None:
        usual = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**usual | settings)

    def error(self, message: str) -> None:
        raise UserError(message)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all flags, in the groups that `--help` shows."""
    parser = Parser(
        prog="main.py",
        usage="python main.py [FLAGS]",
        description=DESCRIPTION,
        epilog=_list_of_recipes(),
    )
    groups = {}
    for name, option in FIELDS.items():
        title, text, settings = (option.metadata[key] for key in ("group", "help", "settings"))
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        shown = text if "(default:" in text else f"{text} (default: {option.default})"
        groups[title].add_argument(
            *names_of(name),
            dest=name,
            default=option.default,
            help=shown.replace("%", "%%"),
            **settings,
        )
    return parser


def parse_stages(argv: Sequence[str] | None = None) -> list[Options]:
    """Returns the checked options of each stage that a command line asks for: of both stages with
    `--pretrain_epochs`, else of one.

    Args:
        argv: the command line without the program's name; `sys.argv[1:]` if None.

    Raises:
        UserError: a flag is unknown, malformed or out of bounds, or two flags contradict each
            other.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    forget_digests()
    given, first = _with_recipe(argv)
    options = Options(**given)
    _check_data_flags(options)
    _check_prior(options)
    if options.pretrain_epochs is None:
        return [_checked(options)]
    if options.pretrained is not None:
        raise UserError(
            "--pretrain_epochs and --pretrained contradict each other: the first trains stage 1, "
            "the second names a stage 1 that is trained; give one of them"
        )
    if options.start_epoch:
        raise UserError(
            "--start-epoch counts the epochs of one stage, and --pretrain_epochs trains both; "
            "train the stages in two commands"
        )
    of_stage_2 = with_role(Role.FEATURES, Role.CLASSIFIER, Role.ROBUST_LOSS)
    of_stage_1 = {name: value for name, value in first.items() if name not in of_stage_2}
    if first["loss_type"] not in PRIOR_LOSSES:
        del of_stage_1["prior_weight"]  # given for a loss of stage 2
    of_stage_1["epochs"] = options.pretrain_epochs
    stage_1 = _checked(Options(**of_stage_1))
    pretrained = str(Path(options.root_model, run_name(stage_1)))
    # Stage 1 starts from the backbone. Stage 2 starts from stage 1, not from the backbone again.
    return [stage_1, _checked(Options(**given | {"pretrained": pretrained, "backbone": None}))]


def _with_recipe(argv: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the flags of the last stage and the flags of the first stage, as two dicts. Each has
    the recipe's flags for its stage; flags on the command line win over them.

    Raises:
        UserError: argparse refuses a flag, or the recipe is of another stage than the flags.
    """
    parser = build_parser()
    given = parser.parse_args(argv)
    if given.recipe is None:
        return vars(given), vars(given)
    recipe = RECIPES[given.recipe]
    if recipe.start is None:
        if given.pretrained is not None or given.pretrain_epochs is not None:
            raise UserError(
                f"--recipe {given.recipe} is a stage 1; --pretrained and --pretrain_epochs go with "
                f"recipes of stage 2, such as dro_lt"
            )
        if recipe.teacher is not None and given.teacher is None:
            raise UserError(
                f"--recipe {given.recipe} needs --teacher: a run folder or a checkpoint, such as "
                f"that of --recipe {recipe.teacher}"
            )
        of_both = vars(parser.parse_args([*recipe.stage_1, *argv]))
        return of_both, of_both
    both = [] if given.pretrained is not None else ["--pretrain_epochs", str(FULL_STAGE_1)]
    last = parser.parse_args([*recipe.stage_2, *both, *argv])
    first = parser.parse_args([*recipe.stage_1, *both, *argv])
    return vars(last), vars(first)


def _list_of_recipes() -> str:
    width = max(map(len, RECIPES)) + 2
    lines = [f"  {name:{width}}{recipe.description}" for name, recipe in RECIPES.items()]
    return "\n".join(["recipes:", *lines])


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Returns the checked options of the last stage that a command line asks for.

    Raises:
        UserError: as in `parse_stages`.
    """
    return parse_stages(argv)[-1]


def _checked(options: Options) -> Options:
    """Returns the options of a stage as they are.

    Raises:
        UserError: two flags contradict each other.
    """
    if options.seed is not None and options.seeds is not None:
        raise UserError(f"--seed {options.seed} and --seeds {options.seeds} contradict each other")
    if options.start_epoch > options.epochs:
        raise UserError(f"--start-epoch {options.start_epoch} is beyond --epochs {options.epochs}")
    if options.resume and options.overwrite:
        raise UserError("--resume True and --overwrite True contradict each other")
    if options.evaluation and options.check_images:
        raise UserError("--evaluation True and --check_images True contradict each other")
    _check_declared(options)
    if options.stage == 1:
        _check_stage_1(options)
    else:
        _check_stage_2(options)
    return options


def _check_declared(options: Options) -> None:
    """Refuses flags whose own declarations say that they do not go with the others."""
    is_both = options.pretrain_epochs is not None  # a stage 2 then has the flags of its stage 1 too
    for name, option in FIELDS.items():
        if options.is_at_default(name):
            continue
        flag, needs = flag_of(name), option.metadata["needs"]
        only_stage = option.metadata["only_stage"]
        if (only_stage, options.stage) == (2, 1):
            raise UserError(
                f"{flag} belongs to stage 2, which needs --pretrained or --pretrain_epochs"
            )
        if (only_stage, options.stage) == (1, 2) and not is_both:
            raise UserError(f"{flag} belongs to stage 1; --pretrained starts stage 2")
        if needs is not None and not _has(options, *needs.split()):
            raise UserError(f"{flag} {getattr(options, name)} needs --{needs}")
        for other in option.metadata["excludes"]:
            if only_stage in (None, options.stage) and not options.is_at_default(other):
                raise UserError(
                    f"{flag} {getattr(options, name)} and {flag_of(other)} cannot be combined; "
                    "give one of them"
                )


def _has(options: Options, name: str, value: str | None = None) -> bool:
    """Returns True if an option has the value; with None, if it is not at its default."""
    return not options.is_at_default(name) if value is None else getattr(options, name) == value


def _check_data_flags(options: Options) -> None:
    if options.image_size is not None and options.dataset not in NATURAL_DATASETS:
        raise UserError(
            f"--image_size {options.image_size}: --dataset {options.dataset} has images of 32x32 "
            "pixels; leave the flag out"
        )
    if options.stream is True and options.dataset not in FILE_DATASETS:
        raise UserError(
            f"--stream True: --dataset {options.dataset} is always held in memory; only "
            f"{', '.join(FILE_DATASETS)} can be streamed"
        )
    if options.check_images and options.dataset not in FILE_DATASETS:
        raise UserError(
            f"--check_images True: --dataset {options.dataset} is not read from a file for each "
            f"image; only {', '.join(FILE_DATASETS)} are"
        )
    if options.list_root is not None and options.dataset not in BENCHMARK_LISTS:
        raise UserError(
            f"--list_root: --dataset {options.dataset} has no list files; only "
            f"{', '.join(BENCHMARK_LISTS)} have them"
        )


def _check_prior(options: Options) -> None:
    """Refuses `--prior_weight` without balanced softmax, the only loss that it changes."""
    losses = (*options.feature_losses, *options.classifier_losses)
    in_stage_1 = options.stage == 1 and options.loss_type in PRIOR_LOSSES
    uses_prior = in_stage_1 or any(term.adds_prior for term in losses)
    if options.prior_weight != 1 and not uses_prior:
        raise UserError(
            f"--prior_weight {options.prior_weight} needs balanced softmax: --loss_type BS in "
            "stage 1, bs in --feat_loss or --cls_loss in stage 2"
        )


def _check_stage_1(options: Options) -> None:
    if options.loss_type == "LDAM" and options.head == "linear":
        raise UserError(
            "--head linear does not go with --loss_type LDAM, which needs --head cosine"
        )
    if options.contrastive is not None and options.accumulate > 1:
        raise UserError(
            f"--contrastive {options.contrastive} needs whole batches; --accumulate "
            f"{options.accumulate} splits them"
        )
    if not options.has_robust_loss:
        return
    _check_margins(options)
    if options.mixup > 0:
        raise UserError(
            f"--mixup {options.mixup} and --robust_weight {options.robust_weight} cannot be "
            "combined: a mixed image has two targets, the robust loss takes one"
        )
    if options.train_rule == "Resample":
        raise UserError(
            f"--train_rule Resample and --robust_weight {options.robust_weight} cannot be "
            "combined: an epoch of resampled images may miss a class, which then has no centroid"
        )
    if options.robust_start > options.epochs > 0:
        raise UserError(f"--robust_from {options.robust_from} is beyond --epochs {options.epochs}")


def _check_stage_2(options: Options) -> None:
    if options.balanced_clf_nepochs > options.epochs:
        raise UserError(
            f"--balanced_clf_nepochs {options.balanced_clf_nepochs} is more than "
            f"--epochs {options.epochs}"
        )
    if options.feature_epochs > 0 and options.feat_loss is None:
        raise UserError(
            f"stage 2 with {options.feature_epochs} feature epochs needs --feat_loss, such as "
            "ce_lt,robust_loss"
        )
    if options.balanced_clf_nepochs > 0 and options.cls_loss is None:
        raise UserError(
            f"stage 2 with {options.balanced_clf_nepochs} classifier epochs needs --cls_loss, "
            "such as ce"
        )
    if options.pretrain_epochs is not None and options.robust_from != 1:
        raise UserError(
            "--robust_from and --pretrain_epochs cannot be combined; train stage 1 in a separate "
            "command"
        )
    _check_margins(options)
    has_robust_loss = options.has_robust_loss
    if options.feat_layers and options.step == "compile":
        raise UserError("--feat_layers works with --step auto, eager or graph, not compile")
    if options.feat_layers and not has_robust_loss:
        raise UserError(
            f"--feat_layers needs a robust loss in --feat_loss, which is {options.feat_loss!r}"
        )
    if options.robust_distance != "euclidean" and not has_robust_loss:
        raise UserError(
            f"--robust_distance {options.robust_distance} needs a robust loss in --feat_loss, "
            f"which is {options.feat_loss!r}"
        )
    has_both = has_robust_loss and any(term.reads_logits for term in options.feature_losses)
    if options.robust_weight is not None and not has_both:
        raise UserError(
            "--robust_weight weighs cross-entropy (or bs) against the robust loss; --feat_loss "
            f"must name both, not {options.feat_loss!r}"
        )


def _check_margins(options: Options) -> None:
    if options.margin_min is not None and options.margin_min > options.starting_margin:
        raise UserError(
            f"--margin_min {options.margin_min} is above {options.starting_margin}, where the "
            "margins start"
        )
