"""A table that is killed (SIGKILL) goes on to the numbers of one that is not."""

import os
import signal
import subprocess
import sys
import time

from tests.support.helpers import REPOSITORY, write_tree
from tests.utils.reproduce.test_runs import ROWS, reproduce, table_of


def test_a_killed_table_goes_on_to_the_same_numbers(tmp_path, no_figures):
    tree, made = write_tree(tmp_path / "data", train=8, test=2), tmp_path / "made"
    assert reproduce(made, tree).status == 0
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
