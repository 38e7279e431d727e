"""Tiny tables of `python -m utils.reproduce`, made in this process."""

import contextlib
import io
import json
from pathlib import Path

from tests.support.helpers import Outcome, without_gpus
from tests.support.small_images import images_of_any_side
from utils.reproduce.__main__ import main

ROWS = "cifar10/2/ce,cifar10/2/control,cifar10/2/dro_lt"


def reproduce(folder: Path, tree: Path, *extra: object, rows: str = ROWS) -> Outcome:
    """The tiny table in this process: runs below `folder/checkpoint`, results beside them."""
    argv = ["--rows", rows, "--stage1", 1, "--stage2", "1+1", "--protocols", "last"]
    argv += ["--root", folder / "checkpoint", "--results", folder / "results"]
    return called([*argv, "--data_root", tree, *extra])


def called(argv) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with without_gpus(), images_of_any_side(), streams[0], streams[1]:
        status = main([str(argument) for argument in argv])
    return Outcome(status, out.getvalue(), err.getvalue())


def table_of(folder: Path) -> list[dict]:
    """`table.json` without what the clock decides."""
    entries = json.loads((folder / "results" / "table.json").read_text())
    clock = ("seconds", "chain_seconds")
    return [{k: v for k, v in entry.items() if k not in clock} for entry in entries]
