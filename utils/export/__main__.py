"""Writes the network of a run as small checkpoints, or as a file for other programs.

    python -m utils.export RUN [--format checkpoint] [--output DIR] [--last]
    python -m utils.export RUN --format {onnx,pt2,safetensors} [--output DIR]

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
from utils.files import made_folder
from utils.options import values
from utils.options.parse import Parser
from utils.runs.lookup import PRETRAINED, checkpoint_of_run
from utils.runs.run_folder import check_writable

FORMATS = ("checkpoint", "onnx", "pt2", "safetensors")


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
    return parser


def export(arguments: argparse.Namespace) -> list[Path]:
    """Writes the files and returns their paths.

    Raises:
        UserError: there is no such run, the folder cannot be written, a file is there that may be
            another network's, or a package that the format needs is missing.
    """
    if arguments.format == "checkpoint":
        from utils.export.checkpoints import export_checkpoints

        folder = checkpoint_of_run(arguments.run).parent
        return export_checkpoints(folder, arguments.output or PRETRAINED, arguments.last)
    if arguments.last:
        raise UserError(f"--last works with --format checkpoint, not with {arguments.format}")
    from utils.export.programs import PACKAGES, WRITERS
    from utils.predict.network import load_network
    from utils.runs.records import warn_of_unfinished

    for package in PACKAGES[arguments.format]:
        optional_module(package, package, f"--format {arguments.format}")
    trained = load_network(arguments.run)
    folder = arguments.output or trained.path.parent
    check_writable(folder)
    path = folder / f"model.{arguments.format}"
    if path.exists() and not folder.samefile(trained.path.parent):
        raise UserError(
            f"{path} is there already, maybe from another network: delete it, or give another "
            "--output"
        )
    warn_of_unfinished(trained.path, [trained.path.parent], "export")
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
