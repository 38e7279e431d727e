"""Checks the program on a GPU, in one command that ends within eight minutes.

    python -m benchmarks.gpu_check [--data_root DIR] [--output gpu_check.json]

It runs the tests that need CUDA. For each precision and kind of step it measures epochs and, under
the profiler, steps of each phase, and projects the time of the paper's recipe (200 + 80 + 20
epochs). It measures images a second beside the plain loop. At the end it prints a table and writes
a JSON file. Each kind is measured in a process of its own. If a measurement fails, it prints why
and goes on with the next. Without a GPU it says so, and its status is 2.
"""

import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch.autograd import (  # torch's hints do not list it as exported
    DeviceType,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.profiler import ProfilerActivity, profile

from benchmarks.data import benchmark_data
from benchmarks.measurements import Measurements
from benchmarks.our_side import OurSide
from benchmarks.report import markdown
from benchmarks.rounds import measure_rates
from benchmarks.settings import RECIPE, Settings, settings_of
from benchmarks.side import clock
from benchmarks.side_process import PLAIN, both_sides
from datasets import LongTailedData
from utils.errors import UserError, run_program
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import REPOSITORY, commit
from utils.options import values
from utils.options.parse import Parser

CUDA_TESTS = (
    *("tests/utils/training/test_steps.py", "tests/utils/training/test_fake_cuda.py"),
    *("tests/datasets/loading/test_augmentation.py", "tests/datasets/loading/test_resident.py"),
    *("tests/datasets/loading/test_autoaugment.py", "tests/datasets/loading/test_operations.py"),
    *("tests/losses", "tests/models", "tests/utils/evaluation/test_metrics.py"),
    *("tests/utils/training/test_mixup.py", "tests/utils/training/test_trajectory.py"),
    "tests/utils/training/test_seeds.py::test_seeds_side_by_side_on_a_gpu_are_their_single_runs",
    "tests/benchmarks/test_gpu_check.py::test_on_a_gpu_kernels_are_counted",
)
KINDS = (("bf16", "graph"), ("bf16", "eager"), ("float32", "graph"), ("tf32", "graph"))
SECONDS, TEST_SECONDS, PLAIN_SECONDS = 450, 200, 60
WARM_UP_STEPS, STEPS = 3, 20


def run_tests() -> dict:
    """Runs the tests on CUDA; returns how many passed, failed, were skipped and had errors outside
    of the test itself, and which failed or had errors."""
    command = [sys.executable, "-m", "pytest", "-rfE", *CUDA_TESTS]
    try:
        result = subprocess.run(
            command,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"ended": f"not within {TEST_SECONDS} s"}
    counts = {
        name: int(n)
        for n, name in re.findall(r"(\d+) (passed|failed|skipped|error)", result.stdout)
    }
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", result.stdout, re.MULTILINE)
    found = counts | {"failures": failures, "status": result.returncode}
    if "passed" not in counts:  # pytest is not installed, or could not read the tests
        found["ended"] = (result.stderr or result.stdout).strip()[-500:]
    return found


def measure_steps(side: OurSide, phase: str) -> dict:
    """Returns what a training step of a phase takes: milliseconds by the clock and, by the
    profiler, kernels (with copies and fills) and busy milliseconds of the device."""
    activities = [ProfilerActivity.CPU]
    if side.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with closing(side.steps(phase)) as steps:
        list(islice(steps, WARM_UP_STEPS))
        began = clock(side.device)
        list(islice(steps, STEPS))
        seconds = clock(side.device) - began
        with profile(activities=activities) as profiler:
            list(islice(steps, STEPS))
            clock(side.device)
    # The profiler also gives the device the named ranges of the host, such as the optimiser's step.
    kernels = [
        event
        for event in profiler.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    if side.device.type == "cuda" and not kernels:
        raise RuntimeError("the profiler saw no kernel")
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    return {
        "kernels": round(len(kernels) / STEPS, 1),
        "busy_ms": busy / STEPS,
        "step_ms": 1000 * seconds / STEPS,
    }


def measure_kind(settings: Settings, data: LongTailedData, folder: Path) -> dict:
    """Returns, by phase, what a precision and kind of step take: the median of the epochs that do
    not warm up, and single steps.

    The idle seconds are those of training in which no kernel of a step runs; the augmentation is
    among them. In stage 1 the other seconds of an epoch have a pass over the training images, which
    most of its 200 epochs lack, so its projected seconds are too many.
    """
    side = OurSide(settings, data, folder)
    found = {}
    for phase, times in side.epoch_times().items():
        seconds = median(t.seconds for t in times)
        training = median(t.training_seconds for t in times)
        of_step = measure_steps(side, phase)
        steps = len(side.batch_sizes(phase))
        found[phase] = {
            **of_step,
            "steps": steps,
            "epoch_seconds": seconds,
            "other_seconds": seconds - training,
            "idle_seconds": max(0.0, training - steps * of_step["busy_ms"] / 1000),
            "projected_seconds": seconds * RECIPE[phase],
        }
    return found


def compare_with_plain(settings: Settings) -> dict:
    """Returns images a second of the training of both stages, by phase and side."""
    phases, found = ("pretraining", "features"), Measurements()
    with both_sides(settings) as sides:
        measure_rates(found, sides, 1.0, phases, rounds=1)
        return {p: {s.name: found.median(f"{p} images/s", s.name) for s in sides} for p in phases}


def in_own_process(measure: Callable[[], dict]) -> dict:
    """Returns what a measurement returns that runs in a new process. An error of CUDA, such as a
    capture that fails, breaks the process in which it happens."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure).result()


def attempt(name: str, measure: Callable[[], dict], failures: dict[str, str]) -> dict:
    """Returns what a measurement returns. If it fails, prints the traceback, adds the error to the
    failures and returns an empty record, because what no CPU shows may fail on a first GPU, and the
    other measurements are wanted all the same.

    Raises:
        UserError: the input or this GPU does not allow the measurement.
    """
    try:
        return measure()
    except UserError:
        raise
    except Exception as error:  # CUDA, the profiler and the program raise errors of many types
        traceback.print_exc()
        failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return {}


def check(settings: Settings) -> dict:
    """Measures as much as there is time for; returns the record, which also names what was left out
    and what failed."""
    deadline = time.monotonic() + SECONDS
    record: dict = {"commit": commit(), "tests": run_tests(), "kinds": {}, "left_out": []}
    failures = record["failures"] = {}
    print(f"tests on CUDA: {record['tests']}", flush=True)
    data, record["images"] = benchmark_data(settings)
    record["machine"] = choose_machine(0, "float32").description()
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for precision, step in KINDS:
            began = time.monotonic()
            kind = f"{precision}, {step}"
            if began + longest + PLAIN_SECONDS > deadline:
                record["left_out"].append(kind)
                continue
            of_kind = settings.with_flags("--precision", precision, "--step", step)
            of_this_kind = partial(measure_kind, of_kind, data, Path(folder))
            measure = partial(in_own_process, of_this_kind)
            try:
                if found := attempt(kind, measure, failures):
                    record["kinds"][kind] = found
            except UserError as error:  # this GPU lacks the precision
                record["left_out"].append(f"{kind}: {error}")
            seconds = time.monotonic() - began
            longest = max(longest, seconds)
            print(f"{kind}: {seconds:.0f} s", flush=True)
    measured = next(iter(record["kinds"]), "float32, graph")
    fast = settings.with_flags("--precision", measured.split(",")[0])
    compare = partial(compare_with_plain, fast)
    record["images_per_second"] = attempt("the plain loop", compare, failures)
    return record


def report(record: dict) -> str:
    """Returns a record as text: a row for each kind and phase, the projected seconds of the recipe,
    and the comparison with the plain loop."""
    lines, rows = [], []
    for kind, phases in record["kinds"].items():
        names = list(next(iter(phases.values())))
        rows = rows or [["precision, step", "phase", *names]]
        for phase, found in phases.items():
            rows.append([kind, phase, *(f"{found[name]:.4g}" for name in names)])
        total = sum(found["projected_seconds"] for found in phases.values())
        rows.append([kind, "recipe", *[""] * (len(names) - 1), f"{total:.4g}"])
    lines += [markdown(rows) if rows else "no kind was measured", ""]
    for phase, rates in record["images_per_second"].items():
        each = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        ratio = list(rates.values())[-1] / rates[PLAIN]
        lines.append(f"{phase}, images/s: {each}: ratio {ratio:.2f}")
    if record["left_out"]:
        lines.append(f"left out: {'; '.join(record['left_out'])}")
    lines += [f"failed: {name}: {error}" for name, error in record["failures"].items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 if all tests passed and nothing failed, 1 if not, 2 if there
    is no GPU or the input is bad."""
    parser = Parser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        epilog="The other flags are main.py's: --data_root (default: ./data, else made-up images).",
    )
    text = "the JSON file (default: gpu_check.json)"
    parser.add_argument("--output", type=values.path, default=Path("gpu_check.json"), help=text)

    def program() -> int:
        arguments, flags = parser.parse_known_args(argv)
        settings = settings_of([*flags, "--gpu", "0"])
        if not torch.cuda.is_available():
            raise UserError("no CUDA device here: nothing to check")
        record = check(settings)
        write_json(arguments.output, record)
        print(report(record))
        tests = record["tests"]
        have_passed = tests.get("status") == 0 and "passed" in tests
        return 0 if have_passed and not record["failures"] else 1

    return run_program("gpu_check", program)


if __name__ == "__main__":
    sys.exit(main())
