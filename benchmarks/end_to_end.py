"""Both stages at full length: this project through its command line, from the start of its process
to the last `summary.json`, and the plain loop, in full or projected from some of its epochs."""

import argparse
import json
import subprocess
import sys
import time
from operator import methodcaller
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.data import has_images
from benchmarks.measurements import Measurements
from benchmarks.settings import Settings
from benchmarks.sides import PLAIN, SideProcess
from utils.errors import RunError, UserError
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit
from utils.options.parse import parse_stages
from utils.runs.folders import run_folder

MAIN = Path(__file__).parents[1] / "main.py"


def end_to_end(arguments: argparse.Namespace, settings: Settings) -> None:
    """Runs ours, runs or projects the plain loop, and prints the ratio last.

    Raises:
        UserError: no images, which `main.py` needs.
        RunError: a command of ours failed.
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
    """Returns the wall clock of the one command that trains both stages, and what their summaries
    say.

    Raises:
        RunError: the command failed.
    """
    with TemporaryDirectory() as root:
        command = settings.command(lengths, root)
        began = time.time()
        result = subprocess.run(
            [sys.executable, MAIN, *command], stdout=subprocess.DEVNULL, check=False
        )
        if result.returncode != 0:
            raise RunError(f"main.py {' '.join(command)}: exit status {result.returncode}")
        wall_seconds = time.time() - began
        folders = [run_folder(stage).records for stage in parse_stages(command)]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    return {
        "command": " ".join(command),
        "wall_seconds": wall_seconds,
        "seconds": {str(s["stage"]): s["seconds"] for s in summaries},
        "test_top1": {str(s["stage"]): s["test"]["last"]["linear"]["top1"] for s in summaries},
    }


def run_plain(settings: Settings, lengths: dict[str, int], epochs: int | None) -> dict:
    """Returns start-up and epochs of the plain loop, and what they add up to at full length: the
    sum of all epochs or, of so many of each phase after one that warms up, the median times their
    number."""
    found = Measurements()
    seconds = 0.0
    with TemporaryDirectory() as folder:
        side = SideProcess(PLAIN, settings, Path(folder))
        start_up = side.start_up_seconds()
        for phase, length in lengths.items():
            if epochs is not None and length:
                side.ask(methodcaller("epoch", phase))  # warms up
            number = length if epochs is None else min(epochs, length)
            times = [side.ask(methodcaller("epoch", phase)).seconds for _ in range(number)]
            for value in times:
                found.add(f"{phase} seconds", PLAIN, value)
            seconds += sum(times) if epochs is None else length * median(times or [0.0])
        side.close()
    return {
        "wall_seconds": start_up + seconds,
        "start_up_seconds": start_up,
        "measurements": found.summary(),
    }
