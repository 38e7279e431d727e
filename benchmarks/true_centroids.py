"""What few training images cost after the features are trained: classifiers that are fitted to the
training images, beside the same classifiers fitted to images that the network has never seen.

    python -m benchmarks.true_centroids NAME=CHECKPOINT... [--output FILE.json] [flags of main.py]

The long-tailed subset of CIFAR leaves most images of rare classes out. The mean features of these
images are nearly what the robust loss calls the true centroids. The flags are those of the
checkpoints' data and network (--dataset, --data_root, --imb_factor, --arch, ...).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.settings import DATASETS
from datasets import LongTailedData, Split, load_data
from datasets.loading.resident import Normalise
from datasets.loading.streamed import make_loader
from datasets.long_tail import left_out_indices
from datasets.sources.cifar import load_cifar
from models.network import Network
from utils.errors import UserError, run_program
from utils.evaluation.classifiers import FeatureBank, fit, read
from utils.evaluation.evaluator import PIXELS_A_PASS, extract_features
from utils.evaluation.shot_groups import GROUPS
from utils.files import write_json
from utils.machine.device import Machine, choose_machine
from utils.machine.provenance import commit
from utils.options.data_paths import data_root
from utils.options.flags import Options
from utils.options.parse import Parser, parse_options
from utils.runs import checkpoint

CLASSIFIERS = {
    "ncm_cosine": "NCM, cosine",
    "ncm_euclidean": "NCM, Euclidean",
    "crt": "linear, fitted with equal weight for each class",
}
OF_TRAINING, OF_UNSEEN = "training", "unseen"

Features = tuple[Tensor, Tensor]
"""Features ``[N, D]`` and labels ``[N]``."""


def unseen_images(options: Options, data: LongTailedData) -> Split:
    """Returns the training images that the long-tailed subset leaves out. For a class that keeps
    all its images, they are these images.

    Args:
        options: the options of CIFAR's data.
        data: what `load_data` returns for them.
    """
    everything = cast(Split, load_cifar(options.dataset, data_root(options)).train)
    labels = everything.labels.numpy()
    left_out = left_out_indices(labels, data.class_counts, options.rand_number)
    whole = np.setdiff1d(np.arange(data.num_classes), labels[left_out])
    return everything.subset(np.concatenate([np.flatnonzero(np.isin(labels, whole)), left_out]))


def compare(
    head: Any, features: dict[str, Features], test: Features, class_counts: Sequence[int]
) -> dict[str, dict[str, dict]]:
    """Returns the accuracies on the test images, by classifier and by the images that it was fitted
    to: ``{classifier: {images: record}}``, with the records of `classifiers.read`.

    Args:
        head: the network's last layer.
        features: the features of each kind of images.
        test: those of the test images.
        class_counts: training images of each class, for many, medium and few.
    """
    found: dict[str, dict[str, dict]] = {name: {} for name in CLASSIFIERS}
    for images, (own, labels) in features.items():
        counts = torch.bincount(labels, minlength=len(class_counts)).tolist()
        bank = FeatureBank(own, labels, head, counts)
        for name, record in read(fit(list(CLASSIFIERS), bank), *test, class_counts).items():
            found[name][images] = record
    return found


def measure(
    network: nn.Module, splits: dict[str, Split], data: LongTailedData, machine: Machine
) -> dict[str, dict[str, dict]]:
    """Returns what `compare` returns for a network.

    Args:
        network: the network, on the CPU.
        splits: the images to fit to, by name, and those named `test`.
        data: gives the normalisation and the class counts.
        machine: the device.
    """
    layout = torch.channels_last
    network = network.to(machine.device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    normalise = Normalise(data.mean, data.std, machine.device)
    features = {}
    for name, split in splits.items():
        size = PIXELS_A_PASS[machine.device.type] // split.area
        features[name] = extract_features(network, make_loader(split, normalise, size), machine)
    test = features.pop("test")
    return compare(cast(Network, network).linear, features, test, data.class_counts)


def table(found: dict[str, dict[str, dict[str, dict]]]) -> str:
    """Returns the accuracies of all networks as a table in Markdown."""
    lines = [
        "| network | classifier | fitted to training images: top-1 (many / medium / few) | "
        "to unseen images | difference |",
        "|---|---|---|---|---|",
    ]
    for network, classifiers in found.items():
        for name, records in classifiers.items():
            before, after = records[OF_TRAINING], records[OF_UNSEEN]
            gain = after["top1"] - before["top1"]
            cells = (network, CLASSIFIERS[name], _shown(before), _shown(after), f"{gain:+.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(record: dict) -> str:
    shares = [record[group] for group in GROUPS]
    groups = " / ".join("n/a" if share is None else f"{share:.1f}" for share in shares)
    return f"{record['top1']:.2f} ({groups})"


def run(arguments: argparse.Namespace, flags: list[str]) -> None:
    """Measures the networks of the command line and prints the table.

    Raises:
        UserError: an argument is not NAME=CHECKPOINT, a checkpoint is missing or of another
            network, or the data are not CIFAR's.
    """
    options = parse_options(flags)
    if options.dataset not in DATASETS:
        raise UserError(f"--dataset must be one of {', '.join(DATASETS)}, not {options.dataset}")
    checkpoints = {}
    for text in arguments.networks:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise UserError(f"{text!r} is not NAME=CHECKPOINT")
        checkpoints[name] = checkpoint.load(Path(place)), Path(place)
    data = load_data(options)
    networks = {
        name: checkpoint.build_from(content, path, options.arch, data.num_classes)
        for name, (content, path) in checkpoints.items()
    }
    machine = choose_machine(options.gpu, options.precision)
    unseen = unseen_images(options, data)
    splits: Any = {OF_TRAINING: data.train, OF_UNSEEN: unseen, "test": data.test}
    print(f"{len(data.train)} training images, {len(unseen)} unseen ones, {len(data.test)} test")
    found = {name: measure(network, splits, data, machine) for name, network in networks.items()}
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
        "--output", type=Path, metavar="FILE", help="also write all accuracies to this JSON file"
    )
    return run_program("true_centroids", lambda: run(*parser.parse_known_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
