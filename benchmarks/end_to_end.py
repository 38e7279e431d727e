"""Both stages at full length. This project runs as a command, from the start of its process to the
last `summary.json`. The plain loop runs at full length too, or is projected from a few epochs."""

import argparse
import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.data import has_images
from benchmarks.measurements import Measurements
from benchmarks.settings import Settings
from benchmarks.side_process import PLAIN, SideProcess
from utils.errors import RunError, UserError
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import REPOSITORY, commit
from utils.options.parse import parse_stages
from utils.runs.folders import run_folder


def end_to_end(arguments: argparse.Namespace, settings: Settings) -> None:
    """Runs ours, then runs or projects the plain loop; prints the ratio in the last line.

    Raises:
        UserError: `--data_root` has no images, which `main.py` needs.
        RunError: the command of ours failed.
    """
    options, lengths = settings.options, arguments.lengths
    if not has_images(options):
        raise UserError(f"--end_to_end needs images in {options.data_root}")
    ours = run_ours(settings, lengths)
    text = ", ".join(f"{ours['seconds'][stage]:.1f} s in stage {stage}" for stage in ("1", "2"))
    print(f"ours, {options.precision}: {ours['wall_seconds']:.1f} s ({text})", flush=True)
    epochs = None if arguments.plain_full else arguments.plain_epochs
    plain = run_plain(settings, lengths, epochs)
    how = "measured in full" if epochs is None else f"PROJECTED from {epochs} epochs a phase"
    print(f"plain: {plain['wall_seconds']:.1f} s, {how}")
    ratio = plain["wall_seconds"] / ours["wall_seconds"]
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        machine = choose_machine(options.gpu, options.precision).description()
        record = {"commit": commit(), "machine": machine, "lengths": lengths, "ours": ours}
        record |= {"plain": plain, "plain_is": how, "ratio": ratio}
        write_json(arguments.output / "end_to_end.json", record)
    print(f"end-to-end ratio: {ratio:.2f}")


def run_ours(settings: Settings, lengths: dict[str, int]) -> dict:
    """Runs the command that trains both stages; returns its wall clock, and seconds and accuracy
    from its summaries.

    Raises:
        RunError: the command failed.
    """
    with TemporaryDirectory() as root:
        command = settings.command(lengths, root)
        began = time.perf_counter()
        result = subprocess.run(
            [sys.executable, REPOSITORY / "main.py", *command],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        wall_seconds = time.perf_counter() - began
        if result.returncode != 0:
            raise RunError(f"main.py {' '.join(command)}: exit status {result.returncode}")
        folders = [run_folder(stage) for stage in parse_stages(command)]
        summaries = [json.loads(folder.summary.read_text()) for folder in folders]
    return {
        "command": " ".join(command),
        "wall_seconds": wall_seconds,
        "seconds": {str(s["stage"]): s["seconds"] for s in summaries},
        "test_top1": {str(s["stage"]): s["test"]["last"]["linear"]["top1"] for s in summaries},
    }


def run_plain(settings: Settings, lengths: dict[str, int], epochs: int | None) -> dict:
    """Returns the wall clock of the plain loop: its start-up and all its epochs.

    Args:
        settings: the settings of the benchmark.
        lengths: the number of epochs of each phase.
        epochs: of each phase, this many epochs run after one that warms up, and their median counts
            for all. If it is None, all epochs run.
    """
    found = Measurements()
    seconds = 0.0
    with (
        TemporaryDirectory() as folder,
        closing(SideProcess(PLAIN, settings, Path(folder))) as side,
    ):
        start_up = side.start_up_seconds()
        for phase, length in lengths.items():
            if epochs is not None and length:
                side.ask("epoch", phase)  # warms up
            number = length if epochs is None else min(epochs, length)
            times = [side.ask("epoch", phase).seconds for _ in range(number)]
            for value in times:
                found.add(f"{phase} seconds", PLAIN, value)
            seconds += sum(times) if epochs is None else length * median(times or [0.0])
    return {
        "wall_seconds": start_up + seconds,
        "start_up_seconds": start_up,
        "measurements": found.summary(),
    }
