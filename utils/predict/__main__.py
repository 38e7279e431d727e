"""Classifies images with a trained network. Writes a CSV file with one row for each image: the
file, the likeliest class, its confidence, and the five likeliest classes with their probabilities.

    python -m utils.predict RUN_OR_CHECKPOINT IMAGE_OR_FOLDER... [--output predictions.csv]
        [--classifier NAME] [--root_log DIR] [--html page.html] [--gpu N]

Class names, image size and normalisation come from the checkpoint. Files that are not images are
listed and skipped. Memory use does not grow with the number of files.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, run_program
from utils.options import values
from utils.options.flags import READINGS
from utils.options.parse import Parser
from utils.predict.targets import check_targets, is_standard_output
from utils.text import shown


def build_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(
        prog="python -m utils.predict",
        description=__doc__,
    )
    parser.add_argument(
        "run",
        type=values.path,
        metavar="RUN_OR_CHECKPOINT",
        help="a run folder, its name below checkpoint or pretrained, a folder above a single run, "
        "or a .pth.tar file",
    )
    parser.add_argument(
        "images",
        type=values.path,
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="files, and folders with files at any depth",
    )
    parser.add_argument(
        "--output",
        type=values.path,
        default=Path("predictions.csv"),
        metavar="CSV",
        help="the file to write, or /dev/stdout (default: predictions.csv)",
    )
    parser.add_argument(
        "--classifier",
        choices=READINGS,
        default="linear",
        metavar="NAME",
        help="the network's own classifier (linear), or one that an evaluation with --readings "
        f"has fitted: {', '.join(READINGS)} (default: linear)",
    )
    parser.add_argument(
        "--root_log",
        type=values.path,
        metavar="DIR",
        help="the --root_log of the run or, with --classifier, of its evaluation (default: the "
        "folder of the checkpoints)",
    )
    parser.add_argument(
        "--html",
        type=values.path,
        metavar="PAGE",
        help="also write a page with the 200 least certain images",
    )
    parser.add_argument(
        "--gpu",
        type=values.device,
        metavar="N",
        help="number of a CUDA device, or cpu (default: the first CUDA device, or else the CPU)",
    )
    return parser


def predict(arguments: argparse.Namespace) -> None:
    """Writes the CSV file and, if it is asked for, the page.

    Raises:
        UserError: there is no such network, image or folder, the network cannot be used, no file
            can be read as an image, or a file cannot be written.
    """
    targets = [path for path in (arguments.output, arguments.html) if path is not None]
    for path in arguments.images:
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
    check_targets(targets)
    # Torch is imported only after the arguments have been checked.
    from utils.evaluation.classifiers import has_confidence
    from utils.machine.device import choose_machine
    from utils.predict.images import image_paths
    from utils.predict.network import load_network, with_classifier
    from utils.predict.page import write_page
    from utils.predict.predictions import Predictor
    from utils.predict.table import write_table
    from utils.runs.records import records_below, warn_of_unfinished

    trained = load_network(arguments.run)
    folder = trained.path.parent
    folders = [*records_below(arguments.root_log, folder), folder]
    warn_of_unfinished(trained.path, folders, "predict")
    machine = choose_machine(arguments.gpu, "float32")
    trained = with_classifier(trained, arguments.classifier, arguments.root_log)
    predictor = Predictor(trained, machine)
    results = predictor(image_paths(arguments.images, without=targets))
    number = predictor.likeliest
    kept, count, skipped = write_table(arguments.output, results, number, arguments.images)
    if skipped:
        print(
            f"predict: warning: {skipped} of {count + skipped} files could not be read as images "
            "and were skipped",
            file=sys.stderr,
        )
    by = "" if arguments.classifier == "linear" else f", classifier {arguments.classifier}"
    # The remarks would be rows of a table that goes to standard output.
    remarks = sys.stderr if any(map(is_standard_output, targets)) else sys.stdout
    print(f"{arguments.output}: {count} images, by {trained.path}{by}", file=remarks)
    note = ""
    if not has_confidence(arguments.classifier):
        note = (
            f"{arguments.classifier}: its scores are cosines or distances; their softmax puts "
            "images in an order but is not a probability"
        )
        print(note, file=remarks)
    if arguments.html is not None:
        title = f"Predictions by {shown(trained.path.parent.name)}{by}"
        write_page(arguments.html, kept, count, skipped, title, note)
        print(f"{arguments.html}: the least certain of them", file=remarks)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a failure such as a full disk, 2 bad input."""
    return run_program("predict", lambda: predict(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
