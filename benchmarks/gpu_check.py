"""Checks the program on a GPU, in one command that ends within eight minutes.

    python -m benchmarks.gpu_check [--data_root DIR] [--output gpu_check.json]

It runs the tests that need CUDA. For each precision and kind of step it measures epochs and, under
the profiler, steps of each phase, and projects the time of the paper's recipe (200 + 80 + 20
epochs). It measures images a second beside the plain loop. At the end it prints a table. Each
measurement has a process of its own and a limit of time. If one fails, the check prints why, keeps
what it had measured, and goes on with the next. The JSON file is written whenever something has
been measured. Without a GPU the check says so, and its status is 2.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.data import benchmark_data
from benchmarks.gpu_kinds import measure_kind
from benchmarks.gpu_tests import CUDA_TESTS, run_tests
from benchmarks.measurements import Measurements
from benchmarks.own_process import Measure, Take, in_own_process
from benchmarks.report import markdown
from benchmarks.rounds import measure_rates
from benchmarks.settings import RECIPE, Settings, settings_of
from benchmarks.side_process import PLAIN, both_sides
from utils.errors import RunError, UserError, run_program
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit
from utils.options import values
from utils.options.parse import Parser

KINDS = (("bf16", "graph"), ("bf16", "eager"), ("float32", "graph"), ("tf32", "graph"))
SECONDS, TEST_SECONDS, MACHINE_SECONDS, PLAIN_SECONDS = 450, 220, 60, 60
LEAST_SECONDS = 20
"""A kind of step that has less time than this is left out."""
COLUMNS = (
    *("kernels", "busy_ms", "step_ms", "steps"),
    *("epoch_seconds", "other_seconds", "idle_seconds", "projected_seconds"),
)


class Check:
    """A check, whose record also names what was left out and what failed.

    Args:
        settings: the settings of the measurements.
        output: the file in which the record is, from the beginning on.

    Raises:
        UserError: there are no such images.
        OSError: the file cannot be written.
    """

    def __init__(self, settings: Settings, output: Path) -> None:
        self.settings, self.output = settings, output
        self.kinds, self.left_out, self.failures = {}, [], {}
        self.record = {"commit": commit(), "images": benchmark_data(settings)[1]}
        self.record |= {"machine": {}, "tests": {}, "kinds": self.kinds, "images_per_second": {}}
        self.record |= {"left_out": self.left_out, "failures": self.failures}
        self._save()

    def run(self) -> None:
        """Measures as much as there is time for."""
        end = time.monotonic() + SECONDS
        self.attempt("tests", partial(run_tests, CUDA_TESTS), TEST_SECONDS, self.record)
        self.attempt("machine", describe_machine, MACHINE_SECONDS, self.record)
        with tempfile.TemporaryDirectory() as folder:
            for i, (precision, step) in enumerate(KINDS, 1):
                # If a kind hangs, as much time is left for the others. The last has no others.
                shares = 2 if i < len(KINDS) else 1
                seconds = (end - PLAIN_SECONDS - time.monotonic()) / shares
                kind = f"{precision}, {step}"
                if seconds < LEAST_SECONDS:
                    self.left_out.append(kind)
                    continue
                of_kind = self.settings.with_flags("--precision", precision, "--step", step)
                measure = partial(measure_kind, of_kind, Path(folder))
                self.attempt(kind, measure, seconds, self.kinds)
        measured = next(iter(self.kinds), "float32, graph")
        fast = self.settings.with_flags("--precision", measured.split(",")[0])
        compare = partial(compare_with_plain, fast)
        self.attempt("images_per_second", compare, end - time.monotonic(), self.record)

    def attempt(self, name: str, measure: Measure, seconds: float, place: dict) -> None:
        """Puts the record of a measurement into `place`, also what a failed one had measured by
        then. What no CPU shows may fail on a first GPU, and the other measurements are wanted all
        the same."""

        def take(found: dict) -> None:
            place[name] = found
            self._save()

        began = time.monotonic()
        try:
            in_own_process(measure, seconds, take)
        except UserError as error:  # this GPU lacks the precision
            self.left_out.append(f"{name}: {error}")
        except RunError as error:
            self.failures[name] = str(error)
        self._save()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)

    def _save(self) -> None:
        write_json(self.output, self.record)


def describe_machine(take: Take) -> None:
    """Hands over the description of the first GPU."""
    take(choose_machine(0, "float32").description())


def compare_with_plain(settings: Settings, take: Take) -> None:
    """Measures images a second of the training of both stages, of the plain loop and of this
    project in the precision of the settings, by phase and side."""
    measurements, found = Measurements(), {}
    with both_sides(settings) as (plain, *_, ours):
        sides = [plain, ours]
        for phase in ("pretraining", "features"):
            measure_rates(measurements, sides, 1.0, [phase], rounds=1)
            quantity = f"{phase} images/s"
            found[phase] = {s.name: measurements.median(quantity, s.name) for s in sides}
            take(found)


def report(record: dict) -> str:
    """Returns a record as text: a row for each kind and phase, the projected seconds of the recipe
    of a kind all of whose phases were measured, and the comparison with the plain loop."""
    tests, rows = record["tests"], [["precision, step", "phase", *COLUMNS]]
    for kind, phases in record["kinds"].items():
        for phase, found in phases.items():
            cells = [f"{found[name]:.4g}" if name in found else "" for name in COLUMNS]
            rows.append([kind, phase, *cells])
        if phases.keys() == RECIPE.keys():
            total = sum(found["projected_seconds"] for found in phases.values())
            rows.append([kind, "recipe", *[""] * (len(COLUMNS) - 1), f"{total:.4g}"])
    lines = [markdown(rows) if record["kinds"] else "no kind was measured", ""]
    for phase, rates in record["images_per_second"].items():
        each = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        ratio = list(rates.values())[-1] / rates[PLAIN]
        lines.append(f"{phase}, images/s: {each}: ratio {ratio:.2f}")
    counts = [f"{n} {name}" for name, n in tests.items() if name in ("passed", "failed", "error")]
    lines.append(f"tests on CUDA: {', '.join(counts) or 'none'}")
    if "running" in tests:
        lines.append(f"the tests ended in {tests['running']}")
    if record["left_out"]:
        lines.append(f"left out: {'; '.join(record['left_out'])}")
    failures = record["failures"] | tests.get("failures", {})
    lines += [f"failed: {name}: {' '.join(error.split())}" for name, error in failures.items()]
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
        check = Check(settings, arguments.output)
        try:
            check.run()
        finally:
            print(report(check.record))
        tests = check.record["tests"]
        have_passed = tests.get("status") == 0 and "passed" in tests
        return 0 if have_passed and not check.failures else 1

    return run_program("gpu_check", program)


if __name__ == "__main__":
    sys.exit(main())
