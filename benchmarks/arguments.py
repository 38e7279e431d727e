"""The command line of `benchmarks.throughput`, checked without importing torch."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.settings import Settings, check_choice, choices_of, default_workers
from utils.errors import UserError
from utils.options import values
from utils.options.flags import ARCHITECTURES
from utils.options.parse import Parser
from utils.runs.run_folder import check_writable

RECIPE = {"pretraining": 200, "features": 80, "classifier": 20}
QUICK = {"dataset": "cifar10", "imb_factor": 0.5, "arch": "resnet20", "batch_size": 16}


def parse_arguments(argv: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: something in it is unknown or out of bounds.
    """
    parser = Parser(
        prog="python -m benchmarks.throughput",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", choices=("cifar10", "cifar100"), default="cifar100")
    add("--imb_factor", type=values.fraction, default=0.01, metavar="F", help="as main.py's")
    add("-a", "--arch", choices=ARCHITECTURES, default="resnet32")
    add("-b", "--batch-size", type=values.positive_count, default=128, metavar="N")
    add("--data_root", metavar="DIR", help="with the images (default: ./data, else made-up ones)")
    add("--budget", type=values.positive, default=500.0, metavar="S", help="seconds to spend")
    add("--fraction", type=values.fraction, metavar="F", help="part of the images that is size 1")
    add("--quick", action="store_true", help="few made-up images, once: tries the program")
    add("--precision", default="auto", help="ours: auto is bf16 where it is native")
    add("--step", help="ours, as main.py's flag")
    add("--gpu", type=values.count, metavar="N")
    add("-j", "--workers", type=values.count, default=default_workers(), help="of plain loaders")
    add("--persistent_workers", action="store_true", help="plain loaders keep their workers")
    add("--output", type=Path, metavar="DIR", help="writes throughput.json and throughput.md there")
    add("--end_to_end", action="store_true", help="instead: both stages at full length (for GPUs)")
    add("--lengths", default="200,80,20", metavar="P,F,C", help="of --end_to_end, in epochs")
    add("--plain_epochs", type=values.positive_count, default=2, metavar="N")
    add("--plain_full", action="store_true", help="plain at full length too, not projected")
    arguments = parser.parse_args(argv)
    check_choice("precision", arguments.precision, ("auto", *choices_of("precision")))
    check_choice("step", arguments.step, choices_of("step"))
    arguments.lengths = _lengths(arguments.lengths)
    if arguments.output is not None:
        check_writable(arguments.output)
    return arguments


def _lengths(text: str) -> dict[str, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"--lengths {text}: it is three whole numbers of epochs, such as 200,80,20")
    return dict(zip(RECIPE, map(int, parts), strict=True))


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What both sides are told.

    Raises:
        UserError: a precision that the device does not have.
    """
    from benchmarks.measure import process_settings_kept
    from benchmarks.our_side import native_precision
    from utils.machine.device import choose_machine

    with process_settings_kept():
        precision = arguments.precision
        if precision == "auto":
            precision = native_precision(arguments.gpu, choices_of("precision"))
        device = choose_machine(arguments.gpu, precision).device
    told = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    # The device that was found, so that no later look at the machine warns again.
    told |= {"precision": precision, "gpu": device.index}
    return Settings(**(told | QUICK if arguments.quick else told))
