"""What a run imports before it has trained an epoch, and a table before it has trained its runs:
nothing that it does not need by then."""

import subprocess
import sys

from tests.support.helpers import REPOSITORY
from tests.support.own_images import write_npz

SLOW = {
    "torchvision",
    "torch._dynamo",
    "torch._inductor",
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
}
"""Packages that take a second or more to import."""

UNTIL_THE_FIRST_RECORD = f"""
import os, sys
import main
from utils.runs.epoch_log import EpochLog

def stop(log, record):
    assert record["results"]["test"]["ncm"], "every classifier has been read"
    print("imported:", sorted({SLOW} & set(sys.modules)), flush=True)
    os._exit(0)

EpochLog.add = stop
main.main(sys.argv[1:])
"""


def test_an_epoch_trains_and_is_evaluated_without_slow_imports(tmp_path):
    write_npz(tmp_path / "images.npz", side=32)
    flags = f"--gpu cpu -a resnet8 -b 4 --epochs 200 --root_log {tmp_path} --root_model {tmp_path}"
    data = ["--dataset", "npz", "--data_root", str(tmp_path / "images.npz")]
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_THE_FIRST_RECORD, *data, *flags.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == ["imported: []"], done.stdout + done.stderr


def test_a_table_is_planned_without_slow_imports():
    code = f"import sys, utils.reproduce.__main__; print(sorted({SLOW} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
