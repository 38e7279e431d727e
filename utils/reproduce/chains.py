"""Which row of the table a recorded run belongs to, and what it gives by each protocol."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import Options, default_of, with_role
from utils.options.parse import parse_options
from utils.options.roles import Role
from utils.reproduce.recipes import (
    FULL_STAGE_1,
    METHODS,
    PROTOCOLS,
    Length,
    Row,
    command,
)
from utils.runs.folders import is_seed_folder
from utils.runs.records import RecordedRun, accuracies_of, read_run
from utils.training import selection

# What runs of one row may differ in: seed, length and precision are told apart in other ways.
NOT_OF_A_ROW = {*with_role(Role.FREE), "seed", "epochs", "balanced_clf_nepochs"}
NOT_OF_A_ROW |= {"precision", "select_on"}


@dataclass(frozen=True)
class Chain:
    """A finished run that belongs to a row, with the stage 1 that it started from."""

    row: Row
    length: Length
    precision: str
    run: RecordedRun
    start: RecordedRun | None

    @property
    def seed(self) -> int:
        return self.run.arguments["seed"]

    @property
    def subset(self) -> str:
        """Which training images; empty where it is not recorded."""
        return subset_name(self.run.arguments.get("fingerprint"))

    @property
    def protocol(self) -> str:
        """By which the run itself was selected."""
        return self.run.arguments["select_on"]

    def result(self, protocol: str) -> dict | None:
        """`{"epoch", "linear", "ncm"}` on the test set of the whole chain by a protocol; None where
        this run is another chain than that protocol's.

        A stage 1 has all protocols' results in its log. A stage 2 has another protocol's only where
        that would have chosen the same epochs before the last phase: the same stage-1 checkpoint
        and the same features.
        """
        if protocol == self.protocol:
            return self.run.summary["test"]["selected"]
        if self.start is None and protocol == "last":
            return self.run.summary["test"]["last"]
        ours, theirs = chosen_epochs(self.run, self.protocol), chosen_epochs(self.run, protocol)
        if ours is None or theirs is None or ours[:-1] != theirs[:-1]:
            return None
        if self.start is not None:
            starts = [chosen_epochs(self.start, p) for p in (self.protocol, protocol)]
            if None in starts or starts[0] != starts[1]:
                return None
        by_epoch = {record["epoch"]: record for record in self.run.epochs}
        return {"epoch": theirs[-1], **by_epoch[theirs[-1]]["results"]["test"]}


def chosen_epochs(run: RecordedRun, protocol: str) -> list[int] | None:
    """Returns the epoch that a protocol chooses in each phase of a run, by its log, or None where
    the log is not whole or has no held-out images."""
    if [r["epoch"] for r in run.epochs] != list(range(1, run.arguments["epochs"] + 1)):
        return None
    if protocol == "heldout" and any(not r["results"].get("heldout") for r in run.epochs):
        return None
    return selection.chosen_epochs(run.epochs, protocol)


def subset_name(fingerprint: str | None) -> str:
    """A short name for training images of this fingerprint; empty for none."""
    return (fingerprint or "")[:8]


@dataclass(frozen=True)
class Collection:
    """Finished runs: those of rows, and folders of others with the reason."""

    chains: list[Chain]
    others: list[tuple[Path, str]]


def collect(folders: Iterable[Path]) -> Collection:
    """All finished runs at any depth below the folders, by what their `args.json` says. Records of
    one run found twice count once, the first.

    Raises:
        UserError: no such folder, or damaged records in it.
    """
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        runs += [read_run(path.parent) for path in sorted(folder.rglob("args.json"))]
    stages_1 = {}
    for run in runs:
        if run.stage == 1 and run.is_finished:
            stages_1.setdefault(place_of(run.folder, stage=1), run)
    chains, others, known = [], [], []
    for run in runs:
        if not run.is_finished or any(is_same_run(run, other) for other in known):
            continue
        known.append(run)
        try:
            chains.append(identify(run, _start_of(run, stages_1)))
        except ValueError as reason:
            others.append((run.folder, str(reason)))
    return Collection(chains, others)


def is_same_run(one: RecordedRun, other: RecordedRun) -> bool:
    """Whether the records are of one run: it has one name, one result and one set of images, if it
    is recorded."""
    same_place = place_of(one.folder, one.stage) == place_of(other.folder, other.stage)
    images = {run.arguments.get("fingerprint") for run in (one, other)} - {None}
    return same_place and one.summary == other.summary and len(images) < 2


def _start_of(run: RecordedRun, stages_1: dict[Path, RecordedRun]) -> RecordedRun | None:
    """The stage 1 of a stage 2: in the folder above, or wherever one of that name is."""
    if run.stage == 1:
        return None
    if run.parent is not None and run.parent.is_finished:
        return run.parent
    first, *rest = place_of(run.folder, stage=2).parts
    return stages_1.get(Path(first, *filter(is_seed_folder, rest)))


def place_of(folder: Path, stage: int) -> Path:
    """A run's place below any root: its released name, below that of its stage 1, and `seed0`
    below either where several seeds share that name."""
    parts, depth, names = folder.absolute().parts, 0, 0
    while names < stage:
        depth += 1
        names += not is_seed_folder(parts[-depth])
    return Path(*parts[-depth:])


def identify(run: RecordedRun, start: RecordedRun | None) -> Chain:
    """The row of a finished run.

    Raises:
        ValueError: it belongs to none; the message says why.
    """
    recorded = with_defaults(run.arguments)
    dataset, ratio = recorded["dataset"], round(1 / recorded["imb_factor"])
    length, precision = Length(recorded["epochs"]), recorded["precision"]
    from_row = None
    if run.stage == 2:
        if start is None:
            raise ValueError("there is no record of its stage 1")
        if str(recorded["pretrained"]).endswith(".pth.tar"):
            raise ValueError("it started from a file of its own choice")
        first = identify(start, None)
        if first.seed != recorded["seed"]:
            raise ValueError("its stage 1 has another seed")
        from_row = first.row
        classifier = recorded["balanced_clf_nepochs"]
        length = Length(first.length.stage_1, recorded["epochs"] - classifier, classifier)
        if first.precision != precision:
            precision = f"{first.precision}, {precision}"
    for method in METHODS:
        row = Row(dataset, ratio, method)
        if row.start == from_row and length == length.of(row) and _fits(row, length, recorded):
            return Chain(row, length, precision, run, start)
    raise ValueError("no row of the table has its flags")


def with_defaults(arguments: Mapping) -> dict:
    """A flag that a record lacks did not exist then, which counts as its default."""
    return {f.name: arguments.get(f.name, default_of(f.name)) for f in fields(Options)}


def _fits(row: Row, length: Length, recorded: dict) -> bool:
    if row.recipe.start is not None and bool(length.features) != row.recipe.has_features:
        return False
    return _deciding(_options_of(row, length), row) == _deciding(recorded, row)


@cache
def _options_of(row: Row, length: Length) -> dict:
    pretrained = None if row.recipe.start is None else "X"
    return parse_options(command(row, 0, length, "test", pretrained)).as_dict()


def _deciding(options: dict, row: Row) -> dict:
    """The options that decide the results of a run of a row's kind."""
    unused = set(NOT_OF_A_ROW)
    if row.recipe.start is None:
        unused |= {*with_role(Role.FEATURES, Role.CLASSIFIER)}
    else:
        unused |= {*with_role(Role.STAGE_1)}
        if not row.recipe.has_features:
            unused |= {"feat_loss", "feat_lr"}
    if not (row.recipe.has_features and "robust" in (options["feat_loss"] or "")):
        unused |= {*with_role(Role.ROBUST_LOSS)}
    if options["epochs"] == FULL_STAGE_1:
        unused.add("schedule")  # at this length both are the same
    return {name: value for name, value in options.items() if name not in unused}


@dataclass(frozen=True, order=True)
class Cell:
    """One line and column of the table: what its seeds share."""

    row: Row
    length: Length
    precision: str
    protocol: str
    subset: str = ""

    @property
    def line(self) -> "Cell":
        """Of the cells of one line of the table, which differ in their protocol, one and the same:
        that of the first protocol."""
        return self.by(PROTOCOLS[0])

    def by(self, protocol: str) -> "Cell":
        return replace(self, protocol=protocol)

    def of(self, method: str, length: Length | None = None) -> "Cell":
        """The same of another method."""
        row = replace(self.row, method=method)
        return replace(self, row=row, length=(length or self.length).of(row))


@dataclass(frozen=True)
class Result:
    """A chain's outcome by one protocol: accuracies on the test set in percent."""

    chain: Chain
    epoch: int
    accuracies: dict[str, float | None]

    @property
    def top1(self) -> float:
        return self.accuracies["top1"]


Table = dict[Cell, dict[int, Result]]
"""The results of each cell, by seed."""


def tabulate(chains: Sequence[Chain]) -> Table:
    """Chains by cell and seed. A run made for a protocol comes before one that coincides with it,
    and the first of a seed counts."""
    table: Table = {}
    for protocol in PROTOCOLS:
        for chain in sorted(chains, key=lambda chain: chain.protocol != protocol):
            found = chain.result(protocol)
            if found is None:
                continue
            cell = Cell(chain.row, chain.length, chain.precision, protocol, chain.subset)
            accuracies = accuracies_of({"test": found, "heldout": None})
            result = Result(chain, found["epoch"], accuracies)
            table.setdefault(cell, {}).setdefault(chain.seed, result)
    return table
