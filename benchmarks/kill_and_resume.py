"""Kills training with SIGKILL at random instants, resumes it, and compares what it leaves, to the
last bit, with a run that nothing disturbed.

    python -m benchmarks.kill_and_resume [--kills 50] [--seed 0]

Half of the kills hit stage 1, half stage 2, anywhere: in a step, between phases, in the middle of a
write. Ends with status 1 at the first file that cannot be read, epoch that is lost beyond the
unfinished one, or bit that differs.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.helpers import (
    STAGE_1_NAME,
    differences_of_runs,
    fork,
    load,
    make_data,
    read_summary,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
)

EPOCHS = 8


def finished_epochs(folder: Path) -> int:
    """Epochs in the last checkpoint, which must be readable if it is there."""
    last = folder / "ckpt.pth.tar"
    for path in folder.glob("ckpt*.pth.tar"):
        load(path)
    return load(last)["epoch"] if last.exists() else 0


def kill(argv: list, folder: Path, seconds: float) -> bool:
    """Starts or resumes the run and kills it some seconds later; whether it was still running
    then."""
    before = finished_epochs(folder)
    process = fork([*argv, "--resume", "True"])
    while not (folder / "args.json").exists() and process.is_alive():
        time.sleep(0.01)
    process.join(seconds)
    was_running = process.is_alive()
    if was_running:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if not was_running and process.exitcode != 0:
        sys.exit(f"the run ended with status {process.exitcode}")
    if finished_epochs(folder) < before:
        sys.exit(f"{folder} lost a finished epoch")
    return was_running


def disturb(
    title: str, argv: list, folder: Path, reference: Path, kills: int, instants: random.Random
) -> None:
    """Kills runs of a stage as often as asked, finishes each, and compares it."""
    seconds = read_summary(reference)["seconds"]
    done = runs = 0
    while done < kills:
        shutil.rmtree(folder, ignore_errors=True)
        runs += 1
        while done < kills and kill(argv, folder, instants.uniform(0, 0.5 * seconds)):
            done += 1
        succeed([*argv, "--resume", "True"])
        found = differences_of_runs(folder, reference)
        if found:
            sys.exit(f"{title}: {'; '.join(found[:5])}")
    print(f"{title}: {done} kills in {runs} runs, all finished with the same bits", flush=True)


def benchmark(kills: int, seed: int, folder: Path) -> None:
    tree = make_data(folder / "data")
    instants = random.Random(seed)
    calm, killed = folder / "calm", folder / "killed"
    stages: list[tuple[str, Callable, tuple]] = [
        ("stage 1", stage_1, ("--epochs", EPOCHS)),
        ("stage 2", stage_2, ("--epochs", EPOCHS, "--balanced_clf_nepochs", EPOCHS // 2)),
    ]
    for i, (title, make, flags) in enumerate(stages):
        succeed(make(tree, calm, *flags))
        reference = calm / STAGE_1_NAME if i == 0 else stage_2_folder(calm)
        share = kills // 2 if i == 0 else kills - kills // 2
        target = killed / reference.relative_to(calm)
        disturb(title, make(tree, killed, *flags), target, reference, share, instants)
        if i == 0 and not target.exists():
            shutil.copytree(reference, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_and_resume")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        benchmark(arguments.kills, arguments.seed, Path(scratch))
