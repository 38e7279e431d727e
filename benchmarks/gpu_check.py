"""What to ask a GPU first, in one command that ends within eight minutes.

    python -m benchmarks.gpu_check [--data_root DIR] [--output gpu_check.json]

The tests that need CUDA; then, for each precision and kind of step, epochs of each phase, steps
under the profiler and the projected time of the paper's recipe (200 + 80 + 20 epochs); and images a
second beside the plain loop. Ends with a table and a JSON file. Without a GPU it says so and ends
with status 2.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.autograd import (  # torch's hints do not list it as exported
    DeviceType,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from benchmarks.arguments import RECIPE
from benchmarks.data import benchmark_data
from benchmarks.our_side import OurSide, PreparedSide
from benchmarks.report import as_text
from benchmarks.settings import Settings, default_workers
from benchmarks.sides import PLAIN, Sides
from datasets import LongTailedData
from utils.errors import RunError, UserError
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit

ROOT = Path(__file__).parents[1]
CUDA_TESTS = (
    *("tests/utils/training/test_steps.py", "tests/utils/training/test_fake_cuda.py"),
    *("tests/datasets/loading/test_augmentation.py", "tests/datasets/loading/test_resident.py"),
    *("tests/datasets/loading/test_autoaugment.py", "tests/losses", "tests/models"),
)
KINDS = (("bf16", "graph"), ("float32", "graph"), ("tf32", "graph"), ("bf16", "eager"))
SECONDS, TEST_SECONDS = 450, 150
STEPS = 20  # under the profiler
COLUMNS = (
    *("precision, step", "phase", "kernels a step", "ms a step", "busy ms a step"),
    *("s an epoch", "idle s an epoch", "epochs", "projected s"),
)


def run_tests() -> dict:
    """Returns how many tests on CUDA passed, failed and were skipped, and what failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", *CUDA_TESTS]
    try:
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"ended": f"not within {TEST_SECONDS} s"}
    counts = {
        name: int(n) for n, name in re.findall(r"(\d+) (passed|failed|skipped)", result.stdout)
    }
    failures = re.findall(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    found = counts | {"failures": failures, "status": result.returncode}
    if not counts:  # pytest is missing, or could not read the tests
        found["ended"] = (result.stderr or result.stdout).strip()[-500:]
    return found


def profile_steps(side: PreparedSide, phase: str) -> dict:
    """Returns `kernels` (copies and fills included) and busy milliseconds of a step, by the
    profiler, and milliseconds of a step by the clock, on batches that are there already."""
    step, arguments = side.step_and_batches(phase, STEPS)
    batches = list(arguments)
    for batch in batches[:3]:
        step(*batch)
    timer = Timer("step(*batch)", globals={"step": step, "batch": batches[0]})
    milliseconds = 1000 * timer.blocked_autorange(min_run_time=0.5).median
    is_cuda = side.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as profiler:
        for batch in batches:
            step(*batch)
        if is_cuda:
            torch.cuda.synchronize(side.device)
    kernels = [event for event in profiler.events() or [] if event.device_type == DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    return {
        "kernels": round(len(kernels) / len(batches), 1),
        "busy_ms": busy / len(batches),
        "step_ms": milliseconds,
    }


def measure_kind(settings: Settings, data: LongTailedData, folder: Path) -> dict:
    """Returns, by phase, what a precision and kind of step take: three epochs, of which the first
    warms up, and profiled steps."""
    side = OurSide(settings, data, folder, repetitions=3, dropped=1)
    epochs = side.visit()
    prepared = side.prepared()
    found = {}
    for phase, times in epochs.items():
        seconds = statistics.median(t.seconds for t in times)
        steps = profile_steps(prepared, phase)
        number = prepared.steps_an_epoch(phase)
        found[phase] = {
            **steps,
            "steps": number,
            "epoch_seconds": seconds,
            "idle_seconds": max(0.0, seconds - number * steps["busy_ms"] / 1000),
            "projected_seconds": seconds * RECIPE[phase],
        }
    return found


def compare_with_plain(settings: Settings, data: LongTailedData, folder: Path) -> dict:
    """Returns images a second of training, of both sides, by phase; the second of two passes."""
    found: dict[str, dict[str, float]] = {"pretraining": {}, "features": {}}
    with Sides(settings, folder).passes(data) as passes:
        for name, rates in passes.items():
            for phase in found:
                rates[phase]()
                found[phase][name] = rates[phase]()
    return found


def rows_of(kinds: dict[str, dict]) -> list[list[str]]:
    """Returns the table: a row for each kind and phase, and the recipe's projected time."""
    rows = [list(COLUMNS)]
    for kind, phases in kinds.items():
        for phase, m in phases.items():
            numbers = (m["kernels"], m["step_ms"], m["busy_ms"], m["epoch_seconds"])
            cells = [f"{number:.3g}" for number in (*numbers, m["idle_seconds"])]
            rows.append([kind, phase, *cells, str(RECIPE[phase]), f"{m['projected_seconds']:.1f}"])
        total = sum(m["projected_seconds"] for m in phases.values())
        rows.append([kind, "the recipe, projected", *[""] * 6, f"{total:.1f}"])
    return rows


def check(arguments: argparse.Namespace) -> dict:
    """Measures what there is time for; returns the record, which names what was left out."""
    deadline = time.monotonic() + SECONDS
    record: dict = {"commit": commit(), "tests": run_tests(), "kinds": {}, "left_out": []}
    print(f"tests on CUDA: {record['tests']}", flush=True)
    settings = Settings(data_root=arguments.data_root, gpu=0, workers=default_workers())
    data, record["images"] = benchmark_data(settings)
    record["machine"] = choose_machine(0, "float32").description()
    longest = 0.0
    with tempfile.TemporaryDirectory() as name:
        for precision, step in KINDS:
            began = time.monotonic()
            title = f"{precision}, {step}"
            # The plain loop needs about a minute.
            if began + longest + 60 > deadline:
                record["left_out"].append(title)
                continue
            of_kind = replace(settings, precision=precision, step=step)
            try:
                record["kinds"][title] = measure_kind(of_kind, data, Path(name))
            except UserError as error:  # a GPU without this precision
                record["left_out"].append(f"{title}: {error}")
            longest = max(longest, time.monotonic() - began)
            print(f"{title}: {time.monotonic() - began:.0f} s", flush=True)
        measured = next(iter(record["kinds"]), "float32, graph")
        fast = replace(settings, precision=measured.split(",")[0])
        record["images_per_second"] = compare_with_plain(fast, data, Path(name))
    return record


def report(record: dict) -> str:
    """Returns the tables of a record."""
    lines = [as_text(rows_of(record["kinds"])), ""]
    for phase, rates in record["images_per_second"].items():
        each = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        ratio = list(rates.values())[-1] / rates[PLAIN]
        lines.append(f"{phase}, images/s: {each}: ratio {ratio:.2f}")
    if record["left_out"]:
        lines.append(f"left out: {'; '.join(record['left_out'])}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 done, 1 it failed or not all tests passed, 2 no GPU or bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check")
    parser.add_argument("--data_root", help="with CIFAR-100 (default: ./data, else made-up images)")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"))
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("gpu_check: error: no CUDA device here: nothing to check", file=sys.stderr)
        return 2
    try:
        record = check(arguments)
        write_json(arguments.output, record)
    except (UserError, RunError, OSError) as error:
        print(f"gpu_check: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    print(report(record))
    return 0 if record["tests"].get("status") == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
