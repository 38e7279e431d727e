"""The rows of the table, as data, and the command lines that make them."""

from dataclasses import dataclass, replace

from utils.errors import UserError
from utils.options.flags import DATASETS

PROTOCOLS = ("test", "last", "heldout")
FULL_STAGE_1 = 200
FULL_STAGE_2 = (80, 20)

PAPER_STAGE_2 = (
    "--feat_loss ce_lt,robust_loss --feat_sampler resample,4 --feat_lr 0.005 "
    "--cls_loss ce --cls_sampler none --cls_lr 0.01 "
    "--temperature 1 --batch-size 128 --margin 1 --margin_type learned"
)

# Features of length 16, as after stage 1, with τ = 1 are features of length 1 with τ = 0.06: near
# the released parser's defaults, which are taken. Learned margins would fall 1/τ² times as fast.
AT_UNIT_LENGTH = "--temperature 0.07 --margin 0.1 --margin_type shared"
# Distances are 8 to 12 after stage 1: their squares have the slope then that they have with τ = 1.
AT_SQUARES = "--temperature 20"


@dataclass(frozen=True)
class Method:
    """How a row is made.

    Args:
        title: in words.
        flags: of stage 1; of stage 2 those that differ from the paper's command.
        start: the method whose stage 1 a stage 2 starts from; None for a stage 1.
        label: what tells a stage 1's folder from that of plain cross-entropy, if its released name
            does not.
        has_features: whether stage 2 has a feature phase.
        is_reading: a reading of an unclear point of the paper: only of CIFAR-100-LT, r = 100,
            unless asked for by name.
    """

    title: str
    flags: str = ""
    start: str | None = None
    label: str = ""
    has_features: bool = True
    is_reading: bool = False


METHODS = {
    "ce": Method("cross-entropy"),
    "ce_autoaugment": Method(
        "cross-entropy, AutoAugment and Cutout", "--augment autoaugment", label="autoaugment"
    ),
    "ldam_drw": Method("LDAM-DRW", "--loss_type LDAM --train_rule DRW"),
    "classifier_only": Method(
        "classifier re-trained alone, balanced", start="ce", has_features=False
    ),
    "control": Method("stage 2 without the robust loss", "--feat_loss ce_lt", start="ce"),
    "dro_lt": Method("DRO-LT, learned margins", start="ce"),
    "dro_lt_shared": Method("DRO-LT, one shared margin", "--margin_type shared", start="ce"),
    "dro_lt_sample_count": Method(
        "DRO-LT, margins by sample count", "--margin_type sample_count", start="ce"
    ),
    "dro_lt_bounded": Method("DRO-LT, learned margins ≥ 0", "--margin_min 0", start="ce"),
    "dro_lt_no_decay": Method(
        "DRO-LT, learned margins without weight decay", "--margin_wd 0", start="ce"
    ),
    "dro_lt_released": Method("DRO-LT as the released code", "--as_released True", start="ce"),
    "dro_lt_weight": Method(
        "DRO-LT, weight 0.1 of the robust loss", "--robust_weight 0.1", start="ce", is_reading=True
    ),
    "dro_lt_temperature": Method(
        "DRO-LT, temperature 10", "--temperature 10", start="ce", is_reading=True
    ),
    "dro_lt_layers": Method(
        "DRO-LT on two layers", "--feat_layers layer2,layer3", start="ce", is_reading=True
    ),
    "dro_lt_normalised": Method(
        "DRO-LT, normalised features, τ = 0.07, shared margin 0.1",
        f"--robust_distance normalised {AT_UNIT_LENGTH}",
        start="ce",
        is_reading=True,
    ),
    "dro_lt_squared": Method(
        "DRO-LT, squared distances, τ = 20",
        f"--robust_distance squared {AT_SQUARES}",
        start="ce",
        is_reading=True,
    ),
    "ce_decay": Method(
        "cross-entropy, weight decay 2e-4", "--wd 2e-4", label="wd2e-4", is_reading=True
    ),
    "dro_lt_from_autoaugment": Method(
        "DRO-LT from stage 1 with AutoAugment", start="ce_autoaugment", is_reading=True
    ),
    "control_from_autoaugment": Method(
        "the same without the robust loss",
        "--feat_loss ce_lt",
        start="ce_autoaugment",
        is_reading=True,
    ),
    "dro_lt_from_decay": Method(
        "DRO-LT from stage 1 with weight decay 2e-4", start="ce_decay", is_reading=True
    ),
    "dro_lt_instance": Method(
        "DRO-LT, classifier phase not balanced",
        "--cls_sampler instance",
        start="ce",
        is_reading=True,
    ),
}


@dataclass(frozen=True, order=True)
class Row:
    """A method on a long-tailed data set of imbalance `ratio`."""

    dataset: str
    ratio: int
    method: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.ratio}/{self.method}"

    @property
    def recipe(self) -> Method:
        return METHODS[self.method]

    @property
    def start(self) -> "Row | None":
        """The row of the stage 1 that it starts from."""
        return self.recipe.start and replace(self, method=self.recipe.start)


GRID = [(dataset, ratio) for dataset in ("cifar100", "cifar10") for ratio in (100, 10, 50)]
ROWS = [
    Row(dataset, ratio, method)
    for dataset, ratio in GRID
    for method, recipe in METHODS.items()
    if not recipe.is_reading or (dataset, ratio) == GRID[0]
]


def select_rows(text: str | None) -> list[Row]:
    """Rows by names separated by commas: `DATASET`, `DATASET/RATIO`, `DATASET/RATIO/METHOD` or
    `METHOD`; all rows of the table for None. A ratio outside the table can be named too.

    Raises:
        UserError: a name of no row.

    Example:
        >>> [str(row) for row in select_rows("cifar100/100/dro_lt,cifar10/50/ce")]
        ['cifar100/100/dro_lt', 'cifar10/50/ce']
    """
    if text is None:
        return ROWS
    selected = [row for name in text.split(",") for row in _rows_by_name(name)]
    return list(dict.fromkeys(selected))


def _rows_by_name(name: str) -> list[Row]:
    if name in METHODS:
        return [Row(*pair, name) for pair in GRID]
    dataset, *rest = name.split("/")
    if dataset in DATASETS and not rest:
        found = [row for row in ROWS if row.dataset == dataset]
        if found:
            return found
    is_ratio = bool(rest) and rest[0].isascii() and rest[0].isdigit() and 1 <= int(rest[0]) < 10**6
    if dataset in DATASETS and is_ratio and len(rest) <= 2:
        ratio = int(rest[0])
        if len(rest) == 2 and rest[1] in METHODS:
            return [Row(dataset, ratio, rest[1])]
        if len(rest) == 1:
            known = [row for row in ROWS if (row.dataset, row.ratio) == (dataset, ratio)]
            usual = [Row(dataset, ratio, m) for m, r in METHODS.items() if not r.is_reading]
            return known or usual
    raise UserError(
        f"--rows: {name!r} is no row: DATASET, DATASET/RATIO, DATASET/RATIO/METHOD or METHOD, such "
        f"as cifar100/100/dro_lt; methods: {', '.join(METHODS)}"
    )


@dataclass(frozen=True, order=True)
class Length:
    """Epochs of stage 1, and of stage 2's feature and classifier phases (0 + 0 for a stage 1)."""

    stage_1: int = FULL_STAGE_1
    features: int = 0
    classifier: int = 0

    def __str__(self) -> str:
        if not self.features + self.classifier:
            return str(self.stage_1)
        return f"{self.stage_1}, {self.features}+{self.classifier}"

    def of(self, row: Row) -> "Length":
        """What of this length a row has."""
        if row.recipe.start is None:
            return Length(self.stage_1)
        return self if row.recipe.has_features else replace(self, features=0)

    def is_full(self, row: Row) -> bool:
        return self == FULL_LENGTH.of(row)


FULL_LENGTH = Length(FULL_STAGE_1, *FULL_STAGE_2)


def command(
    row: Row,
    seed: int,
    length: Length,
    protocol: str,
    pretrained: str | None = None,
    precision: str = "float32",
) -> list[str]:
    """The command line of a row's own stage.

    Args:
        row: the row.
        seed: of the whole chain.
        length: epochs.
        protocol: of stage 2; a stage 1 keeps the checkpoints of all protocols.
        pretrained: the stage-1 folder that a stage 2 starts from.
        precision: of both stages; here only part of a folder's name.
    """
    argv = ["--dataset", row.dataset, "--imb_type", "exp", "--imb_factor", str(1 / row.ratio)]
    recipe = row.recipe
    if recipe.start is None:
        short = [] if length.stage_1 == FULL_STAGE_1 else [f"{length.stage_1}epochs"]
        # The released name of a stage-1 folder tells none of these.
        parts = [recipe.label, *short, "" if precision == "float32" else precision, f"seed{seed}"]
        argv += ["--epochs", str(length.stage_1), "--exp_str", "_".join(filter(None, parts))]
        argv += ["--schedule", "scaled"] if short else []
    else:
        epochs = length.features + length.classifier
        argv += ["--pretrained", pretrained, "--epochs", str(epochs)]
        argv += ["--balanced_clf_nepochs", str(length.classifier), *PAPER_STAGE_2.split()]
        argv += ["--select_on", protocol]
    # Of flags given twice the later holds.
    return [*argv, *recipe.flags.split(), "--seed", str(seed)]
