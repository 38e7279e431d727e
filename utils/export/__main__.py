"""Writes the network of a run as small checkpoints, or as a file for other programs.

    python -m utils.export RUN [--format checkpoint] [--output DIR] [--last]
    python -m utils.export RUN --format {onnx,pt2,safetensors} [--output DIR] [--root_log DIR]
        [--classifier NAME]

checkpoint: the best checkpoints of a finished run, without the state that only a resumed run needs.
They go to a folder with the run's name below DIR (default: pretrained), and a stage 2 goes inside
the folder of its stage 1. There --pretrained and --evaluation find them. Checkpoints of another
run, and those with which a run can be resumed, are never replaced.

onnx, pt2, safetensors: DIR/model.onnx, an ONNX model; DIR/model.pt2, a program of torch.export; or
DIR/model.safetensors, the weights. Each has the class names, the image size and the normalisation
in it. DIR is the folder of the checkpoint by default; in another folder no file is replaced.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, optional_module, run_program
from utils.files import check_writable, made_folder
from utils.options import values
from utils.options.flags import READINGS
from utils.options.parse import Parser
from utils.runs.lookup import PRETRAINED, checkpoint_of_run

FORMATS = ("checkpoint", "onnx", "pt2", "safetensors")
FORMATS_OF = {"last": ("checkpoint",), "classifier": ("onnx", "pt2"), "root_log": FORMATS[1:]}
"""The formats with which a flag works."""
# A program cannot have `torch.cdist`: neither format takes it for a batch of any size.
CLASSIFIERS = [name for name in READINGS if name != "ncm_euclidean"]


def build_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(
        prog="python -m utils.export",
        description=__doc__,
    )
    parser.add_argument(
        "run",
        type=values.path,
        metavar="RUN",
        help="a run folder, its name below checkpoint or pretrained, or a .pth.tar file in it",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="checkpoint", help="see above (default: checkpoint)"
    )
    parser.add_argument(
        "--output",
        type=values.path,
        metavar="DIR",
        help="the folder to write into (default: see above)",
    )
    parser.add_argument(
        "--last",
        action="store_true",
        help="also write the checkpoint of the last epoch (only with --format checkpoint)",
    )
    parser.add_argument(
        "--classifier",
        choices=CLASSIFIERS,
        metavar="NAME",
        help="for onnx and pt2: a classifier that an evaluation with --readings has fitted, in "
        f"place of the network's own (linear): {', '.join(CLASSIFIERS)} (default: linear)",
    )
    parser.add_argument(
        "--root_log",
        type=values.path,
        metavar="DIR",
        help="the --root_log of the run or, with --classifier, of its evaluation (default: the "
        "folder of the checkpoints; not with --format checkpoint)",
    )
    return parser


def export(arguments: argparse.Namespace) -> list[Path]:
    """Writes the files and returns their paths.

    Raises:
        UserError: there is no such run or classifier, the folder cannot be written, a file is there
            that may be another network's, a flag does not work with the format, or a package that
            the format needs is missing.
    """
    for flag, formats in FORMATS_OF.items():
        if getattr(arguments, flag) and arguments.format not in formats:
            works = ", ".join(formats)
            raise UserError(f"--{flag} works with --format {works}, not with {arguments.format}")
    if arguments.format == "checkpoint":
        from utils.export.checkpoints import export_checkpoints

        folder = checkpoint_of_run(arguments.run).parent
        return export_checkpoints(folder, arguments.output or PRETRAINED, arguments.last)
    from utils.export.programs import PACKAGES, WRITERS
    from utils.predict.network import load_network, with_classifier
    from utils.runs.records import records_below, warn_of_unfinished

    for package in PACKAGES[arguments.format]:
        optional_module(package, package, f"--format {arguments.format}")
    trained = load_network(arguments.run)
    trained = with_classifier(trained, arguments.classifier or "linear", arguments.root_log)
    own = trained.path.parent
    folder = arguments.output or own
    check_writable(folder)
    path = folder / f"model.{arguments.format}"
    if path.exists() and not folder.samefile(own):
        raise UserError(
            f"{path} is there already, maybe from another network: delete it, or give another "
            "--output"
        )
    warn_of_unfinished(trained.path, [*records_below(arguments.root_log, own), own], "export")
    with made_folder(folder):
        WRITERS[arguments.format](trained, path)
    return [path]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a file could not be written, 2 bad input."""

    def program() -> None:
        for path in export(build_parser().parse_args(argv)):
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")

    return run_program("export", program)


if __name__ == "__main__":
    sys.exit(main())
