"""Packs one long-tailed set into one file, which `main.py` reads like the set itself. The
command

    python -m datasets.pack --dataset cifar100 --imb_factor 0.01 --output packed

writes `packed/cifar100_exp_0.01_0.npz`. `main.py --data_root packed` with the same flags reads it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, run_program, unwritable
from utils.options import values
from utils.options.flags import CIFAR_DATASETS
from utils.options.parse import Parser, parse_options


def pack(argv: Sequence[str] | None = None) -> Path:
    """Writes the file and returns its path.

    Raises:
        UserError: `main.py` would refuse the flags or the data too, the data set is not one of
            CIFAR, or the file cannot be written.
        RunError: the disk is full.
    """
    parser = Parser(
        prog="python -m datasets.pack",
        description=__doc__,
        epilog="These flags of main.py choose the set: --dataset (cifar100 or "
        "cifar10, the default), --data_root, --imb_type, --imb_factor, --rand_number.",
    )
    parser.add_argument(
        "--output",
        type=values.path,
        default=Path("."),
        metavar="DIR",
        help="folder for the file (default: .)",
    )
    arguments, flags = parser.parse_known_args(argv)
    options = parse_options(flags)
    if options.dataset not in CIFAR_DATASETS:
        raise UserError(f"--dataset {options.dataset} cannot be packed; cifar10 and cifar100 can")
    if options.heldout_fraction > 0:
        raise UserError(
            f"--heldout_fraction {options.heldout_fraction}: a packed set has images that the "
            "subset leaves out as its held-out ones; leave the flag out"
        )

    from datasets import load_data
    from datasets.sources.packed import packed_name, write_packed

    path = arguments.output / packed_name(options)
    data = load_data(options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_packed(data, options, path)
    except OSError as error:
        raise unwritable(f"cannot write {path}: {error.strerror or error}", error) from error
    heldout = 0 if data.heldout is None else len(data.heldout)
    print(
        f"{path}: {len(data.train)} training, {len(data.test)} test and {heldout} held-out images, "
        f"{path.stat().st_size / 2**20:.1f} MiB"
    )
    return path


def main() -> None:
    pack()


if __name__ == "__main__":
    sys.exit(run_program("datasets.pack", main))
