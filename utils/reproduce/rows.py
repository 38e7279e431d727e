"""The rows of the table, and their selection by name."""

import re

from utils.errors import UserError
from utils.options.flags import DATASETS
from utils.options.recipes import RECIPES
from utils.reproduce.plan import DataSet

EVERYWHERE = (
    *("ce", "ce_autoaugment", "ldam_drw", "classifier_only", "control", "dro_lt"),
    *("dro_lt_shared", "dro_lt_sample_count", "dro_lt_bounded", "dro_lt_no_decay"),
    "dro_lt_released",
)
"""The rows of all data sets. The first data set has all other rows too."""

GRID = [DataSet(name, ratio) for name in ("cifar100", "cifar10") for ratio in (100, 10, 50)]
ROWS = {data: list(RECIPES) if data == GRID[0] else list(EVERYWHERE) for data in GRID}

OF_OWN_DATA = ("ce", "bs", "ldam_drw", "classifier_only", "control", "dro_lt", "dro_lt_normalised")
"""The default rows on own data."""

NAME = re.compile(r"(?P<dataset>\w+)(?:/(?P<ratio>[1-9][0-9]{0,5})(?:/(?P<row>[\w-]+))?)?")


def select_rows(text: str | None) -> dict[DataSet, list[str]]:
    """Returns the selected rows of each data set.

    Args:
        text: names separated by commas, each `DATASET`, `DATASET/RATIO`, `DATASET/RATIO/ROW` or
            `ROW`; None means the whole table. The ratio may be one that the table lacks.

    Raises:
        UserError: no row has such a name.

    Example:
        >>> selected = select_rows("cifar100/100/dro_lt,cifar10/50/ce")
        >>> {data.title: rows for data, rows in selected.items()}
        {'CIFAR-100-LT, r = 100': ['dro_lt'], 'CIFAR-10-LT, r = 50': ['ce']}
    """
    if text is None:
        return ROWS
    selected: dict[DataSet, list[str]] = {}
    for name in text.split(","):
        for data, rows in _by_name(name).items():
            known = selected.setdefault(data, [])
            known += [row for row in rows if row not in known]
    return selected


def _by_name(name: str) -> dict[DataSet, list[str]]:
    if name in RECIPES:
        return {data: [name] for data in GRID}
    found = NAME.fullmatch(name)
    if found and found["dataset"] in DATASETS and found["row"] in (None, *RECIPES):
        dataset, ratio, row = found.groups()
        of_name = [data for data in GRID if data.name == dataset]
        sets = [DataSet(dataset, int(ratio))] if ratio else of_name
        if sets:
            return {data: [row] if row else ROWS.get(data, list(EVERYWHERE)) for data in sets}
    raise UserError(
        f"--rows: {name!r} is not a row; give DATASET, DATASET/RATIO, DATASET/RATIO/ROW (such as "
        f"cifar100/100/dro_lt) or ROW; rows: {', '.join(RECIPES)}"
    )


def select_recipes(text: str | None) -> list[str]:
    """Returns the rows to compare on own data.

    Args:
        text: names separated by commas; None means the default rows.

    Raises:
        UserError: no row has such a name.
    """
    names = list(dict.fromkeys(OF_OWN_DATA if text is None else text.split(",")))
    for name in names:
        if name not in RECIPES:
            raise UserError(f"--rows: {name!r} is not a row; rows: {', '.join(RECIPES)}")
    return names
