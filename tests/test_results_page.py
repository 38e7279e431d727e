"""The numbers of the documents against the records: README, methods, and the intervals of the
paper's row and its control."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.helpers import REPOSITORY
from utils.evaluation.statistics import paired_difference

RUNS = REPOSITORY / "results" / "runs" / "cifar100_r100_4428a04c"
DRO_LT = RUNS / "dro_lt" / "200+80+20_bf16+float32_s0_from0"
CONTROL = RUNS / "control" / "200+80+20_bf16_s0_from0"
GROUPS = ((101, 500), (20, 100), (1, 19))
"""Training images of a class of many, medium and few."""


@pytest.fixture(scope="module")
def pair() -> dict[str, np.ndarray]:
    with np.load(REPOSITORY / "results" / "pair_float32.npz") as record:
        return dict(record)


@pytest.fixture(scope="module")
def page() -> str:
    return (REPOSITORY / "docs" / "results.md").read_text()


def recorded(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels and the predictions of the epoch selected on test."""
    with np.load(run / "predictions.npz") as found:
        return found["labels"], found["preds"]


def written(ours: np.ndarray, theirs: np.ndarray) -> str:
    difference = paired_difference(ours, theirs)
    low, high = difference.interval
    return f"{difference.points:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")


@pytest.mark.parametrize("part", ["", "heldout_"])
def test_the_page_has_the_intervals_of_top_1_and_top_5(pair, page, part):
    labels = pair[f"{part}labels"]
    top1 = [pair[f"{part}{name}"] == labels for name in ("dro_lt", "control")]
    top5 = [pair[f"{part}{name}_top5"] for name in ("dro_lt", "control")]
    for question, correct in (("top-1", top1), ("top-5", top5)):
        [row] = [line for line in page.splitlines() if f" add {question}? |" in line]
        assert written(*correct) in row


def by_groups(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Returns the cells of a row of the page: the differences of many, medium and few."""
    counts = np.array(json.loads((DRO_LT / "summary.json").read_text())["class_counts"])[labels]
    of_groups = [(low <= counts) & (counts <= high) for low, high in GROUPS]
    return " | ".join(written((ours == labels)[g], (theirs == labels)[g]) for g in of_groups)


def test_the_page_has_the_intervals_of_groups(pair, page):
    labels, control = recorded(CONTROL)
    cells = by_groups(labels, recorded(DRO_LT)[1], control)
    assert f"| selected on test | {cells} |" in page
    cells = by_groups(pair["heldout_labels"], pair["heldout_dro_lt"], pair["heldout_control"])
    assert f"| held-out images, the same checkpoints | {cells} |" in page
    many, medium, few = by_groups(pair["labels"], pair["dro_lt"], pair["control"]).split(" | ")
    assert f"differ by {many.split()[0]}, {medium.split()[0]} and {few}." in " ".join(page.split())


def test_the_pair_is_that_of_the_records(pair):
    """Evaluated in float32, the control of bf16 differs in about one of a hundred predictions."""
    for name, run, least in (("dro_lt", DRO_LT, 10_000), ("control", CONTROL, 9_850)):
        labels, predicted = recorded(run)
        assert np.array_equal(labels, pair["labels"])
        assert (predicted == pair[name]).sum() >= least


OF_README = {
    "command 1, cross-entropy": "ce/200_bf16_s0",
    "LDAM-DRW, one stage: `--recipe ldam_drw`": "ldam_drw/200_bf16_s0",
    "command 2, DRO-LT": DRO_LT,
    "command 2 without the robust loss: its control": CONTROL,
    "balanced softmax with AutoAugment, one stage: `--recipe bs`": "bs/200_float32_s0",
}
"""The records of the rows of README's table, below `RUNS`."""


@pytest.mark.parametrize("title", OF_README)
def test_the_readme_has_the_numbers_of_the_records(title):
    test = json.loads((RUNS / OF_README[title] / "summary.json").read_text())["test"]
    last, selected = test["last"]["linear"], test["selected"]["linear"]
    groups = " / ".join(f"{last[group]:.2f}" for group in ("many", "medium", "few"))
    readme = (REPOSITORY / "README.md").read_text().splitlines()
    [row] = [line for line in readme if line.startswith(f"| {title} |")]
    _, _, _, top1, *cells, _ = (cell.strip() for cell in row.split("|"))
    assert top1.strip("* ‡") == f"{last['top1']:.2f}"
    assert [cells[0], cells[1].split()[0]] == [groups, f"{selected['top1']:.2f}"]


OF_METHODS = re.compile(
    r"\| `(?P<method>\w+)`.*?\| (?P<top1>[\d.]+) / (?P<many>[\d.]+) / (?P<medium>[\d.]+) / "
    r"(?P<few>[\d.]+) \(\**(?P<length>\d+(?:, \d+\+\d+)?)\**, (?P<protocol>\w+), (?P<seeds>\d) seed"
)
"""A row of docs/methods.md that has been run here."""


def test_the_methods_have_the_numbers_of_the_table():
    table = json.loads((REPOSITORY / "results" / "table.json").read_text())
    groups = ("many", "medium", "few")
    numbers = {
        (
            *(e["method"], e["length"], e["protocol"], str(e["seeds"])),
            *(f"{e['top1_mean']:.2f}", *(f"{e[group]:.1f}" for group in groups)),
        )
        for e in table
        if (e["dataset"], e["ratio"], e["of_seeds"]) == ("cifar100", 100, "chains")
    }
    methods = (REPOSITORY / "docs" / "methods.md").read_text().splitlines()
    rows = [row for row in map(OF_METHODS.match, methods) if row]
    assert len(rows) > 10
    for row in rows:
        key = row.group("method", "length", "protocol", "seeds", "top1", *groups)
        assert key in numbers, row[0]
