"""Both stages at full length: this project through its command line, from the start of its process
to the last `summary.json`, and the plain loop, in full or projected from some of its epochs."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.arguments import settings_of
from benchmarks.child import run_child
from benchmarks.data import benchmark_data, has_images
from benchmarks.measure import PHASES, Measurements
from benchmarks.settings import Settings
from benchmarks.sides import PLAIN, Sides
from utils.errors import RunError, UserError
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit
from utils.options.parse import parse_stages
from utils.runs.folders import run_folder

MAIN = Path(__file__).parents[1] / "main.py"


def end_to_end(arguments: argparse.Namespace) -> None:
    """Runs ours, runs or projects the plain loop, and prints the ratio last.

    Raises:
        UserError: no images, which `main.py` needs.
        RunError: a command of ours failed.
    """
    if arguments.quick:
        raise UserError("--end_to_end --quick: short ones are --end_to_end --lengths 1,1,1")
    settings = settings_of(arguments)
    if not has_images(settings):
        raise UserError(f"--end_to_end needs images in {settings.data_root or './data'}")
    lengths: dict[str, int] = arguments.lengths
    ours = run_ours(settings, lengths)
    text = ", ".join(f"{ours['seconds'][stage]:.1f} s in stage {stage}" for stage in ("1", "2"))
    print(f"ours, {settings.precision}: {ours['wall_seconds']:.1f} s ({text})", flush=True)
    epochs = max(lengths.values()) if arguments.plain_full else arguments.plain_epochs
    plain = run_plain(settings, lengths, epochs, arguments.plain_full)
    how = "measured in full" if arguments.plain_full else f"PROJECTED from {epochs} epochs a phase"
    print(f"plain: {plain['wall_seconds']:.1f} s, {how}")
    ratio = plain["wall_seconds"] / ours["wall_seconds"]
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        machine = choose_machine(settings.gpu, settings.precision).description()
        record = {"commit": commit(), "machine": machine, "lengths": lengths, "ours": ours}
        record |= {"plain": plain, "plain_is": how, "ratio": ratio}
        write_json(arguments.output / "end_to_end.json", record)
    print(f"end-to-end ratio: {ratio:.2f}")


def run_ours(settings: Settings, lengths: dict[str, int]) -> dict:
    """Wall clock of the one command that trains both stages, and what their summaries say."""
    with tempfile.TemporaryDirectory() as name:
        command = command_of(settings, lengths, name)
        began = time.time()
        started = [sys.executable, MAIN, *command]
        result = subprocess.run(started, stdout=subprocess.DEVNULL, check=False)
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


def command_of(settings: Settings, lengths: dict[str, int], root: str) -> list[str]:
    """Arguments of `main.py` for both stages, whose runs go below `root`."""
    stage_2 = settings.stage_2_flags(lengths["features"], lengths["classifier"])
    pretraining = ["--pretrain_epochs", str(lengths["pretraining"])]
    return [*stage_2, *pretraining, "--root_log", root, "--root_model", root]


def run_plain(settings: Settings, lengths: dict[str, int], epochs: int, in_full: bool) -> dict:
    """Start-up and epochs of the plain loop, and what they add up to at full length: the median
    epoch of each phase times their number, or the sum of them all."""
    start_up = run_child(PLAIN, settings, memory=False, part=1.0)["start_up_seconds"]
    data, _ = benchmark_data(settings)
    found = Measurements()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(settings, Path(folder))
        for phase in PHASES:
            if not in_full:
                sides.plain_epoch(phase, data)  # warms up
            for _ in range(min(epochs, lengths[phase])):
                found.add(f"{phase} seconds", PLAIN, sides.plain_epoch(phase, data).seconds)
        sides.close()
    trained = [phase for phase in PHASES if lengths[phase]]
    if in_full:
        seconds = sum(sum(found.values(f"{phase} seconds", PLAIN)) for phase in trained)
    else:
        medians = {phase: found.median(f"{phase} seconds", PLAIN) for phase in trained}
        seconds = sum(lengths[phase] * medians[phase] for phase in trained)
    measurements = list(found.summary())
    return {
        "wall_seconds": start_up + seconds,
        "start_up_seconds": start_up,
        "measurements": measurements,
    }
