"""Tiny tables of `python -m utils.reproduce`, made in this process."""

import json
from pathlib import Path

from tests.support.helpers import Outcome, outcome_of, without_gpus
from tests.support.small_images import images_of_any_side
from utils.reproduce.__main__ import main

ROWS = "cifar10/2/ce,cifar10/2/control,cifar10/2/dro_lt"


def reproduce(folder: Path, tree: Path, *extra: object, rows: str = ROWS) -> Outcome:
    """The tiny table in this process: runs below `folder/checkpoint`, results beside them."""
    argv = ["--rows", rows, "--stage1", 1, "--stage2", "1+1", "--protocols", "last"]
    argv += ["--root", folder / "checkpoint", "--results", folder / "results"]
    return called([*argv, "--data_root", tree, *extra])


def called(argv) -> Outcome:
    with without_gpus(), images_of_any_side():
        return outcome_of(main, argv)


def table_of(folder: Path) -> list[dict]:
    """`table.json` without what the clock decides."""
    entries = json.loads((folder / "results" / "table.json").read_text())
    clock = ("seconds", "chain_seconds")
    return [{k: v for k, v in entry.items() if k not in clock} for entry in entries]
