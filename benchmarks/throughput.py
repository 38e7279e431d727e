"""Measures how fast this project is on this machine, beside a plain loop that works as the released
code does.

    python -m benchmarks.throughput [--output DIR]

It measures images a second (training, evaluation, augmentation), seconds of an epoch on one, two
and four times the same images, start-up and memory. All sides take turns, so that other work on the
machine slows all of them. If epochs of all images take too long, it takes a part of the images, and
the plain loop keeps its workers between epochs. With --step compile it measures no such epochs,
because each size of a last batch would have to be compiled. It ends within ten minutes on two
cores. The last two lines are `training ratio: N.NN` and `augmentation ratio: N.NN`, our speed
divided by that of the plain loop.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.settings import RECIPE, Settings, on_this_machine, settings_of
from utils.errors import UserError, run_program
from utils.files import check_writable
from utils.options import values
from utils.options.flags import PRECISIONS
from utils.options.parse import Parser

MEMORY_PART = 0.02
RATE_PARTS = {0.25: ("pretraining", "evaluation"), 0.05: ("features", "augmentation")}
"""The parts of the images on which rates are measured. An epoch of the phase, on CIFAR-100-LT, then
has about `TRAINING_BATCHES` batches."""
RATE_SHARE = 0.35
"""The share of the remaining time that the rates of each part may take."""


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Returns the flags of the benchmark, and the settings that the flags of `main.py` stand for.

    Raises:
        UserError: a flag is unknown, or its value is out of bounds.
    """
    parser = Parser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        epilog="The other flags are main.py's: --dataset (cifar10 or cifar100, the default), "
        "--imb_factor, -a, -b, --data_root (default: ./data, else made-up images), --gpu, --step "
        "(ours), -j (of plain loaders; default: one a core, at most 20).",
    )
    add = parser.add_argument
    text = "seconds to spend, S > 0 (default: 500)"
    add("--budget", type=values.positive, default=500.0, metavar="S", help=text)
    text = (
        "part of the images in an epoch of size x1, 0 < F <= 1 (default: all on a GPU, what the "
        "budget allows on a CPU)"
    )
    add("--fraction", type=values.above_0_to_1, metavar="F", help=text)
    add("--quick", action="store_true", help="few made-up images: shows that the program works")
    precisions = ("auto", *PRECISIONS)
    text = "of ours; auto: bf16 where it is native, else float32 (default: auto)"
    add("--precision", choices=precisions, default="auto", help=text)
    text = "the plain loop keeps its workers between epochs"
    add("--persistent_workers", action="store_true", help=text)
    add(
        "--output",
        type=values.path,
        metavar="DIR",
        help="writes throughput.json and throughput.md there; with --end_to_end, end_to_end.json "
        "(default: writes no file)",
    )
    text = "measures only both stages at full length, on real images (for GPUs)"
    add("--end_to_end", action="store_true", help=text)
    text = "epochs of stage 1, features and classifier for --end_to_end (default: 200,80,20)"
    add("--lengths", type=_lengths, default=RECIPE, metavar="P,F,C", help=text)
    text = "epochs of each phase from which --end_to_end projects the plain loop (default: 2)"
    add("--plain_epochs", type=values.positive_count, default=2, metavar="N", help=text)
    text = "--end_to_end trains the plain loop at full length and projects nothing"
    add("--plain_full", action="store_true", help=text)
    arguments, flags = parser.parse_known_args(argv)
    if arguments.output is not None:
        check_writable(arguments.output)
    settings = settings_of(flags, arguments.persistent_workers, arguments.quick)
    return arguments, on_this_machine(settings, arguments.precision)


def _lengths(text: str) -> dict[str, int]:
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three whole numbers of epochs, such as 200,80,20"
        )
    return {phase: int(values.count(part)) for phase, part in zip(RECIPE, parts, strict=True)}


def throughput(arguments: argparse.Namespace, settings: Settings) -> None:
    """Measures, prints the results, and writes them if `--output` asks for it."""
    # Imported here, because the processes of the sides import this module too when they start.
    from benchmarks import rounds
    from benchmarks.data import benchmark_data
    from benchmarks.measurements import Measurements
    from benchmarks.report import Report
    from benchmarks.side_process import SIZES, both_sides

    quick, fraction = arguments.quick, arguments.fraction
    deadline = time.perf_counter() + (0 if quick else arguments.budget)
    is_whole = quick or settings.options.gpu != "cpu" or fraction == 1
    if not is_whole:
        # In an epoch of few images, the start of workers would weigh more than in a whole epoch.
        settings = replace(settings, persistent_workers=True)
    data, images = benchmark_data(settings)
    found = Measurements()
    with both_sides(settings) as sides:
        rounds.measure_processes(
            found, sides, 1.0 if quick else MEMORY_PART, others=0 if quick else 2
        )
        for part, quantities in RATE_PARTS.items():
            of_data = 1.0 if is_whole else part
            now = time.perf_counter()
            until = now + RATE_SHARE * max(0, deadline - now)
            most = 2 if quick else 5
            rounds.measure_rates(found, sides, of_data, quantities, most, until)
        if fraction is None and is_whole:
            fraction = 1.0
        elif fraction is None and settings.options.step != "compile":
            fraction = rounds.affordable(sides, SIZES, deadline)
        parts = {} if fraction is None else {size: fraction * size for size in SIZES}
        report = Report(settings, images, data, parts, found)
        print(report.introduction(), flush=True)
        if parts:
            rounds.measure_epochs(found, sides, parts, deadline)
    print(f"\n{report.text()}\n")
    if arguments.output is not None:
        report.write(arguments.output)
    print(report.ratio_lines())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 if it is done, 1 if it failed, 2 for bad input."""

    def program() -> None:
        arguments, settings = parse_arguments(argv)
        if not arguments.end_to_end:
            throughput(arguments, settings)
            return
        if arguments.quick:
            raise UserError(
                "--end_to_end and --quick cannot be combined; --end_to_end --lengths 1,1,1 is short"
            )
        from benchmarks.end_to_end import end_to_end

        end_to_end(arguments, settings)

    return run_program("throughput", program)


if __name__ == "__main__":
    sys.exit(main())
