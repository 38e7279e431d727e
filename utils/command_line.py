"""The command line, checked without importing torch."""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace

from utils.errors import UserError
from utils.options import Options

DESCRIPTION = """DRO-LT: distributional robustness loss for long-tail learning.

Without --pretrained: stage 1, classification from random weights.
With --pretrained X:  stage 2, DRO-LT fine-tuning from that stage-1 checkpoint.
With --evaluation:    evaluate the run that the other flags name.
"""


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:
        raise UserError(message)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all flags, in the groups in which `--help` shows them."""
    parser = _Parser(
        prog="main.py",
        usage="python main.py [FLAGS]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups = {}
    for option in fields(Options):
        title, names, text, settings = (
            option.metadata[key] for key in ("group", "names", "help", "settings")
        )
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        shown = text if "(default:" in text else f"{text} (default: {settings.get('default')})"
        groups[title].add_argument(
            *names, dest=option.name, help=shown.replace("%", "%%"), **settings
        )
    return parser


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """The checked options of a command line (`sys.argv` if None).

    Raises:
        UserError: a flag that is unknown, malformed or out of bounds, or flags that contradict
            each other.
    """
    options = Options(**vars(build_parser().parse_args(argv)))
    if options.augment is None:
        default = "crop_flip" if options.stage == 1 else "autoaugment"
        options = replace(options, augment=default)
    if options.start_epoch > options.epochs:
        raise UserError(f"--start-epoch {options.start_epoch} is beyond --epochs {options.epochs}")
    if options.resume and options.overwrite:
        raise UserError("--resume True and --overwrite True contradict each other")
    if options.readings and not options.evaluation:
        raise UserError("--readings needs --evaluation True")
    if options.stage == 2:
        _check_stage_2(options)
    elif options.feat_loss or options.cls_loss:
        raise UserError("--feat_loss and --cls_loss belong to stage 2, which needs --pretrained")
    return options


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
    if options.feat_layers and options.step == "compile":
        raise UserError("--feat_layers works with --step auto, eager or graph, not compile")
    if options.feat_layers and "robust" not in (options.feat_loss or ""):
        raise UserError(
            "--feat_layers says on which layers the robust loss works, but --feat_loss is "
            f"{options.feat_loss!r}"
        )
    if options.robust_weight is not None:
        names = (options.feat_loss or "").split(",")
        kinds = {"robust" if "robust" in name else name[:2] for name in names}
        if kinds != {"ce", "robust"}:
            raise UserError(
                "--robust_weight weighs cross-entropy against the robust loss: --feat_loss must "
                f"name one of each, not {options.feat_loss!r}"
            )
