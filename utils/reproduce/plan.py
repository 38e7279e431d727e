"""The runs of a table as cells. A cell knows its command and the folder of its records."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from utils.options.recipes import FULL_STAGE_1, FULL_STAGE_2, RECIPES, Recipe
from utils.runs.run_folder import LAST_CHECKPOINT

PROTOCOLS = ("test", "last", "heldout")
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "Digits",
    "folder": "Images in a folder",
    "csv": "Images in a table",
    "npz": "Images in an npz file",
}


@dataclass(frozen=True, order=True)
class DataSet:
    """A training set.

    Args:
        name: of `--dataset`.
        ratio: imbalance ratio of the paper's long-tailed subsets; 0 for own data.
        subset: the beginning of a digest of the training images; on own data also of the test and
            the held-out images, and of the flags that all rows share.
    """

    name: str
    ratio: int = 0
    subset: str = ""

    @property
    def title(self) -> str:
        name = TITLES.get(self.name, self.name)
        return f"{name}-LT, r = {self.ratio}" if self.ratio else name

    @property
    def folder(self) -> str:
        """The folder of its records, below `results/runs`."""
        return f"{self.name}_{f'r{self.ratio}' if self.ratio else 'own'}_{self.subset}"

    @property
    def flags(self) -> list[str]:
        of_subset = ["--imb_type", "exp", "--imb_factor", str(1 / self.ratio)] if self.ratio else []
        return ["--dataset", self.name, *of_subset]


@dataclass(frozen=True, order=True)
class Length:
    """Epochs of stage 1, and of the two phases of stage 2 (0 and 0 for a run of stage 1)."""

    stage_1: int = FULL_STAGE_1
    features: int = 0
    classifier: int = 0

    def __str__(self) -> str:
        if not self.features + self.classifier:
            return str(self.stage_1)
        return f"{self.stage_1}, {self.features}+{self.classifier}"

    def of(self, recipe: Recipe) -> "Length":
        """Returns this length without the phases that the recipe lacks."""
        if recipe.start is None:
            return Length(self.stage_1)
        return self if recipe.has_features else replace(self, features=0)

    def is_full(self, recipe: Recipe) -> bool:
        return self == FULL_LENGTH.of(recipe)


FULL_LENGTH = Length(FULL_STAGE_1, *FULL_STAGE_2)

RECORD = re.compile(
    r"(?P<name>[\w-]+?)_(?:r(?P<ratio>\d+)|own)_(?P<subset>[0-9a-z]+)/(?P<row>[\w-]+)/"
    r"(?P<epochs>[\d+]+)_(?P<precision>[a-z0-9+]+)_s(?P<seed>\d+)"
    r"(?:_from(?P<start>\d+))?(?:_by_(?P<protocol>[a-z]+))?"
)


@dataclass(frozen=True, order=True)
class Cell:
    """One run.

    Args:
        data: its training set.
        row: its recipe.
        length: its epochs. A stage 2 includes the epochs of its stage 1.
        precision: of training. `bf16+float32` means that of stage 1 and that of stage 2.
        seed: the seed of its own stage.
        start_seed: the seed of the stage 1 that a stage 2 starts from; None for a stage 1.
        protocol: what selects the checkpoints of a stage 2. A stage 1 keeps the checkpoints of all
            protocols, so here it has `test`.
    """

    data: DataSet
    row: str
    length: Length
    precision: str
    seed: int
    start_seed: int | None = None
    protocol: str = "test"

    def __str__(self) -> str:
        start = "" if self.start_seed in (None, self.seed) else f" from seed {self.start_seed}"
        protocol = f", {self.protocol}" if self.start else ""
        return f"{self.data.folder}/{self.row}{protocol}, seed {self.seed}{start}"

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.row]

    @property
    def start(self) -> "Cell | None":
        """The stage 1 that a stage 2 starts from, else None."""
        if self.recipe.start is None:
            return None
        row, length = self.recipe.start, Length(self.length.stage_1)
        precision = self.precision.split("+")[0]
        return Cell(self.data, row, length, precision, self.start_seed or 0)

    @property
    def teacher(self) -> "Cell | None":
        """The teacher of a distilled stage 1, which has the same length and seed, else None."""
        return None if self.recipe.teacher is None else replace(self, row=self.recipe.teacher)

    @property
    def before(self) -> "Cell | None":
        """The run whose checkpoint it needs, its stage 1 or its teacher, or None."""
        return self.start or self.teacher

    @property
    def chain(self) -> list["Cell"]:
        """The runs that must come before it, in order, and then itself."""
        return [*(self.before.chain if self.before else []), self]

    @property
    def record(self) -> Path:
        """The folder of its records, below `results/runs`."""
        length = self.length
        epochs = [length.stage_1]
        epochs += [length.features, length.classifier] if self.start else []
        parts = ["+".join(map(str, epochs)), self.precision, f"s{self.seed}"]
        if self.start:
            parts += [f"from{self.start_seed}"]
            parts += [] if self.protocol == "test" else [f"by_{self.protocol}"]
        return Path(self.data.folder, self.row, "_".join(parts))

    @classmethod
    def of_record(cls, record: Path) -> "Cell | None":
        """Returns the cell with this `record`, or None if no cell has it.

        Example:
            >>> path = "cifar100_r100_4428a04c/dro_lt/200+9+3_bf16_s1_from0"
            >>> cell = Cell.of_record(Path(path))
            >>> cell.row, str(cell.length), cell.seed, cell.start_seed, str(cell.record) == path
            ('dro_lt', '200, 9+3', 1, 0, True)
        """
        found = RECORD.fullmatch(record.as_posix())
        if found is None or found["row"] not in RECIPES:
            return None
        epochs = [int(number) for number in found["epochs"].split("+") if number]
        if len(epochs) != (3 if RECIPES[found["row"]].start else 1):
            return None
        return cls(
            DataSet(found["name"], int(found["ratio"] or 0), found["subset"]),
            found["row"],
            Length(*epochs),
            found["precision"],
            int(found["seed"]),
            None if found["start"] is None else int(found["start"]),
            found["protocol"] or "test",
        )

    def command(self, before: Path | None = None, extra: Sequence[str] = ()) -> list[str]:
        """Returns the arguments of main.py that train it.

        Args:
            before: the folder of the run whose checkpoint it needs. If None, the command of a
                stage 2 trains its stage 1 first.
            extra: flags for all runs. They override those of the recipe. `--backbone` is left out
                for a stage 2 with `before`, whose features come from its stage 1.
        """
        length = self.length
        argv = ["--recipe", self.row, *self.data.flags]
        if self.start is None:
            stage_1, epochs = self, length.stage_1
            if self.teacher and before is not None:
                # The last epoch, because no images have selected it.
                argv += ["--teacher", str(before / LAST_CHECKPOINT)]
        else:
            stage_1, epochs = self.start, length.features + length.classifier
            argv += ["--select_on", self.protocol, "--balanced_clf_nepochs", str(length.classifier)]
            if before is None:
                argv += ["--pretrain_epochs", str(length.stage_1)]
            else:
                argv += ["--pretrained", str(before)]
                extra = _without_backbone(extra)
        trains_stage_1 = self.start is None or before is None
        has_steps = "--schedule" not in stage_1.recipe.flags  # a cosine scales by itself
        if trains_stage_1 and has_steps and length.stage_1 != FULL_STAGE_1:
            argv += ["--schedule", "scaled"]
        argv += ["--epochs", str(epochs), "--seed", str(self.seed)]
        return [*argv, *extra, "--precision", self.precision.split("+")[-1]]


def _without_backbone(flags: Sequence[str]) -> list[str]:
    kept, words = [], iter(flags)
    for word in words:
        if word == "--backbone":
            next(words, None)  # its file
        elif not word.startswith("--backbone="):
            kept.append(word)
    return kept


def plan(
    data_sets: Sequence[tuple[DataSet, Sequence[str]]],
    seeds: Sequence[int],
    protocols: Sequence[str],
    length: Length,
    precision: str,
    start_seed: int | None = None,
) -> list[Cell]:
    """Returns a cell for each row, seed and protocol of each data set, without repetition.

    A stage 1 or a teacher comes before the runs that need it.

    Args:
        data_sets: the data sets, each with its rows.
        seeds: the seeds of both stages; with `start_seed`, the seeds of stage 2 alone.
        protocols: the protocols of stage 2.
        length: the epochs.
        precision: the precision of training.
        start_seed: if not None, the seed of the stage 1 that every stage 2 starts from.
    """
    cells: list[Cell] = []
    for data, rows in data_sets:
        for row, seed in product(rows, seeds):
            recipe, start = RECIPES[row], seed if start_seed is None else start_seed
            ends = [(None, "test")] if recipe.start is None else [(start, p) for p in protocols]
            for end in ends:
                cells += Cell(data, row, length.of(recipe), precision, seed, *end).chain
    return list(dict.fromkeys(cells))
