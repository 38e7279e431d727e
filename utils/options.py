"""The command line: flags, their defaults and their meaning, checked without importing torch."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from utils.errors import UserError

DATASETS = ("cifar10", "cifar100", "digits")
ARCHITECTURES = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202")
CLASSIFICATION_LOSSES = ("ce", "ce_lt", "ce_bal")
FEATURE_LOSSES = (*CLASSIFICATION_LOSSES, "robust_loss", "robust_loss_lt", "robust_loss_bal")

# Flags of ours that change a stage-2 run: where not at their default, they are part of the name
# of its folder.
NAMED_FLAGS = (
    "augment",
    "select_on",
    "robust_weight",
    "as_released",
    "precision",
    "heldout_fraction",
)

# Flags that may differ between a run and its continuation, because they do not change its result.
FREE_FLAGS = (
    "data_root",
    "workers",
    "print_freq",
    "resume",
    "evaluation",
    "gpu",
    "root_log",
    "root_model",
    "overwrite",
    "checkpoint_every",
)


@dataclass(frozen=True)
class Sampler:
    """What a sampler flag asks for: plain shuffling, or `samples_per_class` consecutive images of
    each visited class (class-aware)."""

    samples_per_class: int | None = None


@dataclass(frozen=True)
class Options:
    """Every flag of the command line, by its long name; INTERFACE and `--help` say the meaning."""

    dataset: str
    data_root: str
    imb_type: str
    imb_factor: float
    rand_number: int
    heldout_fraction: float
    arch: str
    loss_type: str
    train_rule: str
    exp_str: str
    schedule: str
    pretrained: str | None
    feat_loss: str | None
    feat_sampler: str | None
    feat_lr: float
    cls_loss: str | None
    cls_sampler: str | None
    cls_lr: float
    temperature: float
    margin: float
    margin_type: str
    balanced_clf_nepochs: int
    robust_weight: float | None
    as_released: bool
    epochs: int
    start_epoch: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    augment: str
    select_on: str
    seed: int | None
    precision: str
    gpu: int | None
    workers: int
    resume: bool
    overwrite: bool
    evaluation: bool
    root_log: str
    root_model: str
    print_freq: int
    checkpoint_every: int

    @property
    def stage(self) -> int:
        return 1 if self.pretrained is None else 2

    @property
    def feature_epochs(self) -> int:
        """Epochs of stage 2's feature phase, E − B."""
        return self.epochs - self.balanced_clf_nepochs

    @property
    def starting_margin(self) -> float:
        """The released code only names its folder after `--margin`: ε always starts at 1."""
        return 1.0 if self.as_released else self.margin

    @property
    def feature_sampler(self) -> Sampler:
        return parse_sampler(self.feat_sampler)

    @property
    def classifier_sampler(self) -> Sampler:
        """`none` means the feature phase's sampler: the released code ignores `--cls_sampler`, so
        the published run had a class-balanced classifier phase under the name `none`."""
        if self.cls_sampler in (None, "none"):
            return self.feature_sampler
        return parse_sampler(self.cls_sampler)

    def with_seed(self, seed: int) -> "Options":
        return replace(self, seed=seed)

    def as_dict(self) -> dict:
        return asdict(self)


def parse_sampler(text: str | None) -> Sampler:
    """`none`, `instance` or nothing: shuffling; `resample,k`: class-aware, k images a visit.

    Raises:
        ValueError: anything else.
    """
    if text in (None, "none", "instance"):
        return Sampler()
    kind, _, count = text.partition(",")
    if kind == "resample" and count.isascii() and count.isdigit() and int(count) >= 1:
        return Sampler(int(count))
    raise ValueError(f"{text!r} is not 'none', 'instance' or 'resample,k' with a whole k >= 1")


def parse_losses(text: str, known: Sequence[str]) -> list[str]:
    """Names of losses, separated by commas.

    Raises:
        ValueError: a name that is not known, none, or one given twice.
    """
    names = text.split(",")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown loss {name!r} in {text!r} (choose from {', '.join(known)})")
    if len(set(names)) < len(names):
        raise ValueError(f"a loss is named twice in {text!r}")
    return names


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:
        raise UserError(message)


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return values[text.lower()]


def _number(
    kind: type, allowed: str, is_allowed: Callable[[float], bool]
) -> Callable[[str], float]:
    """A converter to `kind` that accepts only finite values for which `is_allowed` holds."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and is_allowed(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
        return value

    return convert


_rate = _number(float, "a finite number >= 0", lambda x: x >= 0)
_positive = _number(float, "a finite number > 0", lambda x: x > 0)
_fraction = _number(float, "a number with 0 < x <= 1", lambda x: 0 < x <= 1)
_momentum = _number(float, "a number with 0 <= x < 1", lambda x: 0 <= x < 1)
_weight = _number(float, "a number with 0 <= x <= 1", lambda x: 0 <= x <= 1)
_count = _number(int, "a whole number >= 0", lambda n: n >= 0)
_positive_count = _number(int, "a whole number >= 1", lambda n: n >= 1)
_seed = _number(int, "a whole number with 0 <= x < 2**32", lambda n: 0 <= n < 2**32)


def _sampler(text: str) -> str:
    try:
        parse_sampler(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _losses(known: Sequence[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        try:
            parse_losses(text, known)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return convert


def _folder_part(text: str) -> str:
    if not text or "/" in text or "\0" in text or len(text) > 100:
        raise argparse.ArgumentTypeError(
            f"{text[:120]!r} cannot be part of a folder's name (1 to 100 characters, no '/')"
        )
    return text


def build_parser() -> argparse.ArgumentParser:
    """The command line, in the groups in which `--help` shows it."""
    parser = _Parser(
        prog="main.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="DRO-LT: distributional robustness loss for long-tail learning.\n\n"
        "Without --pretrained: stage 1, classification from random weights.\n"
        "With --pretrained X:  stage 2, DRO-LT fine-tuning from that stage-1 checkpoint.\n"
        "With --evaluation:    evaluate the run that the other flags name.",
    )
    boolean = {"type": _boolean, "nargs": "?", "const": True, "default": False, "metavar": "BOOL"}

    def add(group, *names: str, help: str, **settings) -> None:
        default = settings.get("default")
        shown = help if default is None else f"{help} (default: {default})"
        group.add_argument(*names, help=shown.replace("%", "%%"), **settings)

    data = parser.add_argument_group("data")
    add(data, "--dataset", default="cifar10", choices=DATASETS, help="where images come from")
    add(
        data,
        "--data_root",
        default="./data",
        metavar="DIR",
        help="folder of the data sets: torchvision's CIFAR files, or cifar100/{train,test}/CLASS/"
        "*.png; downloaded there when missing",
    )
    add(
        data,
        "--imb_type",
        default="exp",
        choices=("exp", "step", "natural"),
        help="how class sizes fall: exponentially, in one step after half the classes, or as is",
    )
    add(
        data,
        "--imb_factor",
        default=0.01,
        type=_fraction,
        metavar="F",
        help="smallest class / largest class, 0 < F <= 1",
    )
    add(
        data,
        "--rand_number",
        default=0,
        type=_seed,
        metavar="N",
        help="seed of the choice of the long-tailed subset",
    )
    add(
        data,
        "--heldout_fraction",
        default=0.0,
        type=_momentum,
        metavar="F",
        help="part of each class's training images held out before the subset is chosen, for data "
        "sets without held-out images of their own (CIFAR has: 20 per class that the subset "
        "leaves out), 0 <= F < 1",
    )

    stage1 = parser.add_argument_group("stage 1: classification")
    add(
        stage1,
        "-a",
        "--arch",
        default="resnet32",
        choices=ARCHITECTURES,
        help="network, in both stages",
    )
    add(
        stage1,
        "--loss_type",
        default="CE",
        choices=("CE", "Focal", "LDAM"),
        help="cross-entropy, focal loss (gamma 1), or LDAM (max margin 0.5, scale 30)",
    )
    add(
        stage1,
        "--train_rule",
        default="None",
        choices=("None", "Resample", "Reweight", "DRW"),
        help="against imbalance: nothing, sampling or weights by effective number, or weights from "
        "epoch 161 on",
    )
    add(
        stage1,
        "--exp_str",
        default="0",
        type=_folder_part,
        metavar="S",
        help="last part of the folder's name",
    )
    add(
        stage1,
        "--schedule",
        default="absolute",
        choices=("absolute", "scaled"),
        help="rate steps after epochs 160 and 180 and DRW's switch after 160, or all of these "
        "scaled by EPOCHS/200",
    )

    stage2 = parser.add_argument_group("stage 2: DRO-LT fine-tuning")
    add(
        stage2,
        "--pretrained",
        metavar="X",
        help="stage-1 checkpoint to start from: a folder or .pth.tar file, looked up as given and "
        "under ROOT_MODEL, . and pretrained",
    )
    add(
        stage2,
        "--feat_loss",
        type=_losses(FEATURE_LOSSES),
        metavar="L[,L]",
        help=f"losses of the feature phase, summed: {', '.join(FEATURE_LOSSES)}; _lt weighs classes"
        " by n_c/n_max, _bal by N/(K n_c)",
    )
    add(
        stage2,
        "--feat_sampler",
        type=_sampler,
        metavar="S",
        help="order of the feature phase: none or instance (shuffled), or resample,k (class-aware, "
        "k images of each visited class)",
    )
    add(
        stage2,
        "--feat_lr",
        default=0.01,
        type=_rate,
        metavar="LR",
        help="constant learning rate of features and margins",
    )
    add(
        stage2,
        "--cls_loss",
        type=_losses(CLASSIFICATION_LOSSES),
        metavar="L[,L]",
        help=f"losses of the classifier phase, summed: {', '.join(CLASSIFICATION_LOSSES)}",
    )
    add(
        stage2,
        "--cls_sampler",
        type=_sampler,
        metavar="S",
        help="order of the classifier phase: none (that of the feature phase, as the released code"
        " does), instance (shuffled), or resample,k",
    )
    add(
        stage2,
        "--cls_lr",
        default=0.01,
        type=_rate,
        metavar="LR",
        help="constant learning rate of the linear layer",
    )
    add(
        stage2,
        "--temperature",
        default=0.07,
        type=_positive,
        metavar="T",
        help="temperature of the robust loss, in units of feature distance, > 0",
    )
    add(
        stage2,
        "--margin",
        default=0.1,
        type=_rate,
        metavar="E",
        help="margin epsilon (its start, where learned), in units of feature distance, >= 0",
    )
    add(
        stage2,
        "--margin_type",
        default="learned",
        choices=("learned", "shared", "sample_count"),
        help="one trained epsilon per class, epsilon = E, or epsilon_c = E/sqrt(n_c)",
    )
    add(
        stage2,
        "--balanced_clf_nepochs",
        default=20,
        type=_count,
        metavar="B",
        help="the last B of the EPOCHS train the classifier, 0 <= B <= EPOCHS",
    )
    add(
        stage2,
        "--robust_weight",
        type=_weight,
        metavar="W",
        help="(1-W) cross-entropy + W robust loss, 0 <= W <= 1 (default: their plain sum)",
    )
    add(
        stage2,
        "--as_released",
        help="restore what the released code does where it differs from paper and README: margins "
        "given to the wrong classes, epsilon starting at 1",
        **boolean,
    )

    training = parser.add_argument_group("training")
    add(
        training,
        "--epochs",
        default=200,
        type=_count,
        metavar="E",
        help="epochs; in stage 2 of both phases together",
    )
    add(
        training,
        "--start-epoch",
        default=0,
        type=_count,
        metavar="E",
        help="epochs to count as done at the start",
    )
    add(
        training,
        "-b",
        "--batch-size",
        default=128,
        type=_positive_count,
        metavar="N",
        help="images a step; the last partial batch is kept",
    )
    add(
        training,
        "--lr",
        "--learning-rate",
        default=0.1,
        type=_rate,
        metavar="LR",
        help="stage 1's learning rate: linear warm-up over 5 epochs, x0.01 after 160, x0.0001 "
        "after 180",
    )
    add(
        training,
        "--momentum",
        default=0.9,
        type=_momentum,
        metavar="M",
        help="of SGD, 0 <= M < 1",
    )
    add(
        training,
        "--wd",
        "--weight-decay",
        dest="weight_decay",
        default=1e-4,
        type=_rate,
        metavar="W",
        help="weight decay (LDAM-DRW's own is 2e-4)",
    )
    add(
        training,
        "--augment",
        choices=("none", "crop_flip", "autoaugment"),
        help="training images: as they are; padded by 4, cropped, flipped; or that, AutoAugment "
        "and Cutout 16 (default: crop_flip in stage 1, autoaugment in stage 2)",
    )
    add(
        training,
        "--select_on",
        default="test",
        choices=("test", "heldout", "last"),
        help="what chooses the checkpoints of the whole chain: the test set (as published), "
        "held-out images, or nothing (the last epoch)",
    )
    add(
        training,
        "--seed",
        type=_seed,
        metavar="N",
        help="of weights, order and augmentation (default: drawn, and recorded in args.json)",
    )

    machine = parser.add_argument_group("machine")
    add(
        machine,
        "--gpu",
        type=_number(int, "a whole number >= 0", lambda n: n >= 0),
        metavar="N",
        help="CUDA device (default: the first, or the CPU where there is none)",
    )
    add(
        machine,
        "--precision",
        default="float32",
        choices=("float32", "bf16"),
        help="of the convolutions; losses, centroids and weights stay in float32",
    )
    add(
        machine,
        "-j",
        "--workers",
        default=20,
        type=_count,
        metavar="N",
        help="processes that read streamed data; data held in memory needs none",
    )

    records = parser.add_argument_group("runs and records")
    add(
        records,
        "--resume",
        help="start this run, or continue it after its last finished epoch",
        **boolean,
    )
    add(records, "--overwrite", help="replace a run that is in the folder already", **boolean)
    add(
        records,
        "-e",
        "--evaluate",
        "--evaluation",
        dest="evaluation",
        help="no training: accuracies and outputs of the run's best checkpoint",
        **boolean,
    )
    add(
        records,
        "--root_log",
        default="checkpoint",
        metavar="DIR",
        help="records and outputs go below DIR",
    )
    add(
        records,
        "--root_model",
        default="checkpoint",
        metavar="DIR",
        help="checkpoints go below DIR",
    )
    add(
        records,
        "-p",
        "--print-freq",
        default=10,
        type=_positive_count,
        metavar="N",
        help="batches between two updates of the progress bar",
    )
    add(
        records,
        "--checkpoint_every",
        default=1,
        type=_positive_count,
        metavar="N",
        help="epochs between two checkpoints",
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
    if options.stage == 2:
        _check_stage_2(options)
    elif options.feat_loss or options.cls_loss:
        raise UserError("--feat_loss and --cls_loss belong to stage 2, which needs --pretrained")
    if options.resume and options.overwrite:
        raise UserError("--resume True and --overwrite True contradict each other")
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
    if options.robust_weight is not None:
        names = (options.feat_loss or "").split(",")
        if not (any(n.startswith("ce") for n in names) and any("robust" in n for n in names)):
            raise UserError(
                "--robust_weight weighs cross-entropy against the robust loss: --feat_loss must "
                f"name one of each, not {options.feat_loss!r}"
            )
