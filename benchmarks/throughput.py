"""How fast this project is on this machine, and a plain loop in the released code's manner.

    python -m benchmarks.throughput [--output DIR]

Both sides are measured in turns, so that other work on the machine meets both: the images a second
of training, of the evaluation pass and of the augmentation, the seconds of an epoch on one, two and
four times the same images, start-up and memory. Where all images would take too long, it is on a
part of them, and the plain loop's workers persist (its option). Ends within ten minutes on two
cores, with `training ratio: N.NN` and `augmentation ratio: N.NN`, ours over plain.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.settings import RECIPE, Settings, on_this_machine, settings_of
from utils.errors import UserError, run_program
from utils.options import values
from utils.options.flags import PRECISIONS
from utils.options.parse import Parser
from utils.runs.run_folder import check_writable

MEMORY_PART = 0.02
RATE_PARTS = {0.25: ("pretraining", "evaluation"), 0.05: ("features", "augmentation")}
"""Which images a second are measured on which part of the images: an epoch of CIFAR-100-LT's stage
1 and of its features is then about `TRAINING_BATCHES` long."""


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Returns the benchmark's own flags, and those that it shares with `main.py`.

    Raises:
        UserError: something in it is unknown or out of bounds.
    """
    parser = Parser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        epilog="The other flags are main.py's: --dataset (cifar10 or cifar100, the default), "
        "--imb_factor, -a, -b, --data_root (default: ./data, else made-up images), --gpu, --step "
        "(ours), -j (of plain loaders; default: one a core, at most 20).",
    )
    add = parser.add_argument
    add("--budget", type=values.positive, default=500.0, metavar="S", help="seconds to spend")
    add("--fraction", type=values.fraction, metavar="F", help="part of the images that is size 1")
    add("--quick", action="store_true", help="few made-up images, once: tries the program")
    precisions = ("auto", *PRECISIONS)
    text = "ours: auto is bf16 where it is native (default: auto)"
    add("--precision", choices=precisions, default="auto", help=text)
    add("--persistent_workers", action="store_true", help="plain loaders keep their workers")
    add("--output", type=Path, metavar="DIR", help="writes throughput.json and throughput.md there")
    add("--end_to_end", action="store_true", help="instead: both stages at full length (for GPUs)")
    text = "of --end_to_end, in epochs (default: 200,80,20)"
    add("--lengths", type=_lengths, default=RECIPE, metavar="P,F,C", help=text)
    add("--plain_epochs", type=values.positive_count, default=2, metavar="N")
    add("--plain_full", action="store_true", help="plain at full length too, not projected")
    arguments, flags = parser.parse_known_args(argv)
    if arguments.output is not None:
        check_writable(arguments.output)
    settings = settings_of(flags, arguments.persistent_workers, arguments.quick)
    precision = None if arguments.precision == "auto" else arguments.precision
    return arguments, on_this_machine(settings, precision)


def _lengths(text: str) -> dict[str, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text}: it is three whole numbers of epochs, such as 200,80,20"
        )
    return dict(zip(RECIPE, map(int, parts), strict=True))


def throughput(arguments: argparse.Namespace, settings: Settings) -> None:
    """Measures, prints, and writes what `--output` asks for."""
    # Imported here, because a side's process imports this module too, before its clock stops.
    from benchmarks import rounds
    from benchmarks.data import benchmark_data
    from benchmarks.measurements import Measurements
    from benchmarks.report import Report
    from benchmarks.sides import SIZES, both_sides

    quick, fraction = arguments.quick, arguments.fraction
    deadline = time.perf_counter() + (0 if quick else arguments.budget)
    is_whole = quick or settings.options.gpu != "cpu" or fraction == 1
    if not is_whole:
        # Their start would weigh on a part of the images more than it does on all of them.
        settings = replace(settings, persistent_workers=True)
    data, images = benchmark_data(settings)
    found = Measurements()
    with both_sides(settings) as sides:
        rounds.measure_processes(
            found, sides, 1.0 if quick else MEMORY_PART, others=0 if quick else 2
        )
        for part, quantities in RATE_PARTS.items():
            of_data = 1.0 if is_whole else part
            rounds.measure_rates(found, sides, of_data, quantities, repetitions=2 if quick else 5)
        if fraction is None:
            fraction = 1.0 if is_whole else rounds.affordable(sides, SIZES, deadline)
        parts = {size: fraction * size for size in SIZES}
        report = Report(settings, images, data, parts, found)
        print(report.introduction(), flush=True)
        rounds.measure_epochs(found, sides, parts, deadline)
    print(report.text())
    if arguments.output is not None:
        report.write(arguments.output)
    print(report.ratio_lines())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 done, 1 it failed, 2 bad input."""

    def program() -> None:
        arguments, settings = parse_arguments(argv)
        if not arguments.end_to_end:
            throughput(arguments, settings)
            return
        if arguments.quick:
            raise UserError("--end_to_end --quick: short ones are --end_to_end --lengths 1,1,1")
        from benchmarks.end_to_end import end_to_end

        end_to_end(arguments, settings)

    return run_program("throughput", program)


if __name__ == "__main__":
    sys.exit(main())
