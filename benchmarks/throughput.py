"""How fast this project is on this machine, and a plain loop in the released code's manner.

    python -m benchmarks.throughput [--output DIR]

Both sides are measured in turns, so that other work on the machine meets both: the images a second
of training, of the evaluation pass and of the augmentation, the seconds of an epoch on one, two and
four times the same images, start-up and memory. Where all images would take too long, it is on a
part of them, and the plain loop's workers persist (its option). Ends within ten minutes on two
cores, with `training ratio: N.NN` and `augmentation ratio: N.NN`, ours over plain.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.arguments import parse_arguments, settings_of
from utils.errors import RunError, UserError

SIZES = (1, 2, 4)
MEMORY_FRACTION = 0.02
PASSES = {0.25: ("pretraining", "evaluation"), 0.05: ("features", "augmentation")}
"""What is measured apart from whole epochs, on which part of the images: an epoch of CIFAR-100-LT's
stage 1 and of its features is then about `TRAINING_BATCHES` long."""


def throughput(arguments) -> None:
    """Measures, prints, and writes what `--output` asks for."""
    from benchmarks import rounds
    from benchmarks.data import benchmark_data, scaled
    from benchmarks.measure import Measurements
    from benchmarks.report import Report
    from benchmarks.sides import Sides

    quick = arguments.quick
    deadline = time.perf_counter() + (0 if quick else arguments.budget)
    settings = settings_of(arguments)
    is_whole = quick or settings.gpu is not None or arguments.fraction == 1
    if not is_whole:
        # Their start would weigh on a part of the images more than it does on all of them.
        settings = replace(settings, persistent_workers=True)
    data, images = benchmark_data(settings)
    found = Measurements()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(settings, Path(folder))
        starts, part = (1, 1.0) if quick else (3, MEMORY_FRACTION)
        rounds.measure_processes(found, settings, part, repetitions=starts)
        for part, quantities in PASSES.items():
            of_data = data if is_whole else scaled(data, part)
            rounds.measure_passes(found, sides, of_data, quantities, repetitions=2 if quick else 5)
        fraction = arguments.fraction
        if fraction is None:
            fraction = 1.0 if is_whole else rounds.affordable(sides, data, SIZES, deadline)
        parts = {size: scaled(data, fraction * size) for size in SIZES}
        report = Report(settings, images, data, parts, found, sides.device)
        print(report.introduction(), flush=True)
        rounds.measure_epochs(found, sides, parts, deadline)
        sides.close()
    print(report.text())
    if arguments.output is not None:
        report.write(arguments.output)
    print(report.ratio_lines())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 done, 1 it failed, 2 bad input."""
    try:
        arguments = parse_arguments(argv, __doc__)
        if arguments.end_to_end:
            from benchmarks.end_to_end import end_to_end

            end_to_end(arguments)
        else:
            throughput(arguments)
    except UserError as error:
        return _fail(2, error)
    except (RunError, OSError) as error:
        return _fail(1, error)
    return 0


def _fail(status: int, error: Exception) -> int:
    print(f"throughput: error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
