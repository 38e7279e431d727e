"""A table that is interrupted or killed (SIGKILL) goes on to the numbers of one that is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.faults import interrupted_at_check
from tests.support.helpers import REPOSITORY, write_tree
from tests.utils.reproduce.test_runs import ROWS, reproduce, table_of

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data"), train=8, test=2)


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory) -> Path:
    """Gives a finished table."""
    folder = tmp_path_factory.mktemp("table")
    assert reproduce(folder, tree).status == 0
    return folder


@pytest.mark.parametrize("number", [2, 9])
def test_an_interrupted_table_goes_on_to_the_same_numbers(number, tree, made, tmp_path):
    with interrupted_at_check(number) as count:
        outcome = reproduce(tmp_path, tree)
        assert outcome.status == 143, count()
    assert "the same command goes on" in outcome.err
    assert not (tmp_path / "results" / "RESULTS.md").exists()
    assert reproduce(tmp_path, tree).status == 0
    assert table_of(tmp_path) == table_of(made)


def test_a_killed_table_goes_on_to_the_same_numbers(tree, made, tmp_path):
    killed = tmp_path / "killed"
    argv = ["-m", "tests.support.small_images", "utils.reproduce", "--rows", ROWS]
    argv += ["--stage1", "1", "--stage2", "1+1", "--protocols", "last"]
    argv += ["--root", killed / "checkpoint"]
    argv += ["--results", killed / "results", "--data_root", tree]
    process = subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    for _ in range(1200):  # killed in the first stage 2
        if list((killed / "checkpoint").glob("*/robust_*/ckpt.pth.tar")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert reproduce(killed, tree).status == 0
    assert table_of(killed) == table_of(made)
