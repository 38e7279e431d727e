"""What few training images cost after the features are trained: classifiers that are fitted to the
training images, beside the same classifiers fitted to as many unseen images of every class.

    python -m benchmarks.true_centroids NAME=CHECKPOINT... [--output FILE.json] [flags of main.py]

The unseen images are test images. The test set is split into ten parts with equal shares of each
class, and the images of a part are classified by what is fitted to the other nine. The mean
features of nine parts are nearly what the robust loss calls the true centroids. Nothing is chosen
by these accuracies. The flags are those of the checkpoints' data and network (--dataset,
--data_root, --imb_factor, --arch, ...).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from benchmarks.report import markdown
from datasets import LongTailedData, load_data
from models.network import Network
from utils.errors import UserError, run_program
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.fitting import FeatureBank, fit
from utils.evaluation.metrics import accuracy_record
from utils.evaluation.shot_groups import GROUPS
from utils.files import write_json
from utils.machine.device import Machine, choose_machine
from utils.machine.provenance import commit
from utils.options import values
from utils.options.parse import Parser, parse_options
from utils.runs import checkpoint

CLASSIFIERS = {
    "ncm_cosine": "NCM, cosine",
    "ncm_euclidean": "NCM, Euclidean",
    "crt": "linear, fitted with equal weight for each class",
}
OF_TRAINING, OF_UNSEEN = "training", "unseen"
FOLDS = 10

Features = tuple[Tensor, Tensor]
"""Features ``[N, D]`` and labels ``[N]``."""


def compare(
    head: Any, training: Features, test: Features, class_counts: Sequence[int]
) -> dict[str, dict[str, dict]]:
    """Returns the accuracies on the test images, by classifier and by the images that it was fitted
    to: ``{classifier: {images: record}}``, with the records of `accuracy_record`.

    Args:
        head: the network's last layer.
        training: the features of the training images.
        test: those of the test images.
        class_counts: training images of each class, for many, medium and few.
    """
    features, labels = test
    fitted = fit(list(CLASSIFIERS), FeatureBank(*training, head, class_counts))
    by_training = {name: classifier(features) for name, classifier in fitted.items()}
    by_unseen = {name: torch.empty_like(scores) for name, scores in by_training.items()}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for others, part in folds.split(np.zeros(len(labels)), labels.cpu()):
        counts = torch.bincount(labels[others], minlength=len(class_counts)).tolist()
        bank = FeatureBank(features[others], labels[others], head, counts)
        for name, classifier in fit(list(CLASSIFIERS), bank).items():
            by_unseen[name][part] = classifier(features[part])
    return {
        name: {
            OF_TRAINING: accuracy_record([(by_training[name], labels)], class_counts),
            OF_UNSEEN: accuracy_record([(by_unseen[name], labels)], class_counts),
        }
        for name in CLASSIFIERS
    }


def measure(
    network: nn.Module, data: LongTailedData, machine: Machine
) -> dict[str, dict[str, dict]]:
    """Returns what `compare` returns for a network, which is on the CPU."""
    network = network.to(machine.device).to(memory_format=torch.channels_last)
    evaluator = Evaluator(data, machine)
    evaluator.extract(network)
    head = cast(Network, network).linear
    return compare(
        head, evaluator.training_features(), evaluator.features_of("test"), data.class_counts
    )


def table(found: dict[str, dict[str, dict[str, dict]]]) -> str:
    """Returns the accuracies of all networks as a table in Markdown."""
    fitted_to = ["fitted to training images: top-1 (many / medium / few)", "to unseen images"]
    rows = [["network", "classifier", *fitted_to, "difference"]]
    for network, classifiers in found.items():
        for name, records in classifiers.items():
            before, after = records[OF_TRAINING], records[OF_UNSEEN]
            gain = after["top1"] - before["top1"]
            accuracies = [_shown(before), _shown(after)]
            rows.append([network, CLASSIFIERS[name], *accuracies, f"{gain:+.2f}"])
    return markdown(rows)


def _shown(record: dict) -> str:
    shares = [record[group] for group in GROUPS]
    groups = " / ".join("n/a" if share is None else f"{share:.1f}" for share in shares)
    return f"{record['top1']:.2f} ({groups})"


def run(arguments: argparse.Namespace, flags: list[str]) -> None:
    """Measures the networks of the command line and prints the table.

    Raises:
        UserError: an argument is not NAME=CHECKPOINT; a checkpoint is missing, or of another
            network or other images; or a class has too few test images.
    """
    options = parse_options(flags)
    checkpoints = {}
    for text in arguments.networks:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise UserError(f"{text!r} is not NAME=CHECKPOINT")
        checkpoints[name] = checkpoint.load(Path(place)), Path(place)
    data = load_data(options)
    if (fewest := int(data.test.labels.bincount(minlength=data.num_classes).min())) < FOLDS:
        raise UserError(f"a class has {fewest} test images, and {FOLDS} are needed")
    for content, path in checkpoints.values():
        if not data.has_fingerprint(content.get("fingerprint")):
            raise UserError(f"{path} was trained on other images than those of the flags")
    networks = {
        name: checkpoint.build_from(content, path, options.arch, data.num_classes)
        for name, (content, path) in checkpoints.items()
    }
    machine = choose_machine(options.gpu, options.precision)
    print(f"{len(data.train)} training images, {len(data.test)} test images in {FOLDS} parts")
    found = {name: measure(network, data, machine) for name, network in networks.items()}
    print(table(found))
    if arguments.output is not None:
        about = {"commit": commit(), "arguments": sys.argv[1:], "fingerprint": data.fingerprint}
        write_json(arguments.output, about | {"networks": found})
        print(arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a failure such as a full disk, 2 bad input."""
    parser = Parser(prog="python -m benchmarks.true_centroids", description=__doc__)
    parser.add_argument(
        "networks", nargs="+", metavar="NAME=CHECKPOINT", help="a network and its file"
    )
    parser.add_argument(
        "--output",
        type=values.path,
        metavar="FILE",
        help="also write all accuracies to this JSON file",
    )
    return run_program("true_centroids", lambda: run(*parser.parse_known_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
