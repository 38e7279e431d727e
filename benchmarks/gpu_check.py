"""What to ask a GPU first, in one command that ends within eight minutes.

    python -m benchmarks.gpu_check [--data_root DIR] [--output gpu_check.json]

The tests that need CUDA; then, for each precision and kind of step, epochs of each phase, steps
under the profiler and the projected time of the paper's recipe (200 + 80 + 20 epochs); and images a
second beside the plain loop. Ends with a table and a JSON file. Without a GPU it says so and ends
with status 2.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch.autograd import (  # torch's hints do not list it as exported
    DeviceType,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from benchmarks.data import benchmark_data
from benchmarks.our_side import OurSide
from benchmarks.settings import RECIPE, Settings, settings_of
from benchmarks.sides import PLAIN, both_sides
from datasets import LongTailedData
from utils.errors import UserError, run_program
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit
from utils.options.parse import Parser

ROOT = Path(__file__).parents[1]
CUDA_TESTS = (
    *("tests/utils/training/test_steps.py", "tests/utils/training/test_fake_cuda.py"),
    *("tests/datasets/loading/test_augmentation.py", "tests/datasets/loading/test_resident.py"),
    *("tests/datasets/loading/test_autoaugment.py", "tests/losses", "tests/models"),
)
KINDS = (("bf16", "graph"), ("float32", "graph"), ("tf32", "graph"), ("bf16", "eager"))
SECONDS, TEST_SECONDS = 450, 150
STEPS = 20  # under the profiler
COLUMNS = {
    **{"kernels": "kernels a step", "step_ms": "ms a step", "busy_ms": "busy ms a step"},
    **{"epoch_seconds": "s an epoch", "idle_seconds": "idle s an epoch"},
}


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


def profile_steps(side: OurSide, phase: str) -> dict:
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
    warms up (on a GPU), and profiled steps."""
    side = OurSide(settings, data, folder)
    found = {}
    for phase, times in side.visit().items():
        seconds = median(t.seconds for t in times)
        steps = profile_steps(side, phase)
        number = side.steps_an_epoch(phase)
        found[phase] = {
            **steps,
            "steps": number,
            "epoch_seconds": seconds,
            "idle_seconds": max(0.0, seconds - number * steps["busy_ms"] / 1000),
            "projected_seconds": seconds * RECIPE[phase],
        }
    return found


def compare_with_plain(settings: Settings) -> dict:
    """Returns images a second of training, of both sides, by phase; the second of two passes."""
    found: dict[str, dict[str, float]] = {"pretraining": {}, "features": {}}
    with both_sides(settings) as sides:
        for phase, rates in found.items():
            for side in (side.with_persistent_workers() for side in sides):
                side.ask(methodcaller("rate", phase))
                rates[side.name] = side.ask(methodcaller("rate", phase))
    return found


def table_of(kinds: dict[str, dict]) -> str:
    """Returns the table: a row for each kind and phase, and the recipe's projected time."""
    rows = []
    for kind, phases in kinds.items():
        for phase, found in phases.items():
            row = {title: f"{found[name]:.3g}" for name, title in COLUMNS.items()}
            row |= {"epochs": RECIPE[phase], "projected s": f"{found['projected_seconds']:.1f}"}
            rows.append({"precision, step": kind, "phase": phase} | row)
        total = sum(found["projected_seconds"] for found in phases.values())
        row = {"precision, step": kind, "phase": "the recipe, projected"}
        rows.append(dict.fromkeys(rows[-1], "") | row | {"projected s": f"{total:.1f}"})
    return pd.DataFrame(rows).to_string(index=False) if rows else "no kind was measured"


def check(settings: Settings) -> dict:
    """Measures what there is time for; returns the record, which names what was left out."""
    deadline = time.monotonic() + SECONDS
    record: dict = {"commit": commit(), "tests": run_tests(), "kinds": {}, "left_out": []}
    print(f"tests on CUDA: {record['tests']}", flush=True)
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
            of_kind = settings.with_flags("--precision", precision, "--step", step)
            try:
                record["kinds"][title] = measure_kind(of_kind, data, Path(name))
            except UserError as error:  # a GPU without this precision
                record["left_out"].append(f"{title}: {error}")
            longest = max(longest, time.monotonic() - began)
            print(f"{title}: {time.monotonic() - began:.0f} s", flush=True)
    measured = next(iter(record["kinds"]), "float32, graph")
    fast = settings.with_flags("--precision", measured.split(",")[0])
    record["images_per_second"] = compare_with_plain(fast)
    return record


def report(record: dict) -> str:
    """Returns the tables of a record."""
    lines = [table_of(record["kinds"]), ""]
    for phase, rates in record["images_per_second"].items():
        each = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        ratio = list(rates.values())[-1] / rates[PLAIN]
        lines.append(f"{phase}, images/s: {each}: ratio {ratio:.2f}")
    if record["left_out"]:
        lines.append(f"left out: {'; '.join(record['left_out'])}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 done, 1 it failed or not all tests passed, 2 no GPU or bad
    input."""
    parser = Parser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        epilog="The other flags are main.py's: --data_root (default: ./data, else made-up images).",
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"))

    def program() -> int:
        arguments, flags = parser.parse_known_args(argv)
        settings = settings_of([*flags, "--gpu", "0"])
        if not torch.cuda.is_available():
            raise UserError("no CUDA device here: nothing to check")
        record = check(settings)
        write_json(arguments.output, record)
        print(report(record))
        return 0 if record["tests"].get("status") == 0 else 1

    return run_program("gpu_check", program)


if __name__ == "__main__":
    sys.exit(main())
