"""Writes the official files of CIFAR as a tree of PNG files, under the names that they have there.

    python -m datasets.png_tree --dataset cifar100 --data_root data --output png

`main.py --data_root png` then reads the images in the order of their names. This is the order of
the runs in `results/`, and so the long-tailed subset is theirs.
"""

import pickle
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import UserError, run_program, unwritable
from utils.options import values
from utils.options.flags import CIFAR_DATASETS
from utils.options.parse import Parser


def write_tree(name: str, root: Path, output: Path) -> Path:
    """Writes ``output/name/{train,test}/<class>/<file name>``, and returns ``output/name``.

    Args:
        name: `cifar10` or `cifar100`.
        root: where the official files are; they are downloaded there if they are missing.
        output: an existing folder or a new one.

    Raises:
        UserError: the official files are missing or damaged, or there is such a tree already.
        OSError: a file cannot be written; then no tree is left.
    """
    from PIL import Image
    from tqdm import tqdm

    from datasets.sources.cifar import official_sets

    tree = output / name
    if tree.exists():
        raise UserError(f"--output {output}: {tree} is already there")
    splits = official_sets(name, root)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".png_tree.") as unfinished:
        for split, source in splits.items():
            folders = [Path(unfinished, split, label) for label in source.classes]
            for folder in folders:
                folder.mkdir(parents=True)
            images = zip(source.data, source.targets, file_names(source), strict=True)
            for pixels, label, file in tqdm(images, split, len(source), unit="image", disable=None):
                with open(folders[label] / file, "xb") as png:
                    Image.fromarray(pixels).save(png, "PNG")
        whole = Path(unfinished, name)
        whole.mkdir()
        for split in splits:
            Path(unfinished, split).rename(whole / split)
        whole.rename(tree)
    return tree


def file_names(source) -> Iterator[str]:
    """Yields the name of each image of torchvision's CIFAR, in its order. torchvision has checked
    the files, but keeps no names."""
    parts = source.train_list if source.train else source.test_list
    for part, _ in parts:
        with open(Path(source.root, source.base_folder, part), "rb") as file:
            yield from pickle.load(file, encoding="latin1")["filenames"]


def run(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m datasets.png_tree", description=__doc__)
    parser.add_argument(
        "--dataset",
        choices=CIFAR_DATASETS,
        default="cifar100",
        help="(default: cifar100)",
    )
    parser.add_argument(
        "--data_root",
        type=values.path,
        default=Path("data"),
        metavar="DIR",
        help="folder of the official files, which are downloaded there if they are missing "
        "(default: data)",
    )
    parser.add_argument(
        "--output",
        type=values.path,
        required=True,
        metavar="DIR",
        help="folder for the tree, new or without a tree of this data set",
    )
    arguments = parser.parse_args(argv)
    try:
        tree = write_tree(arguments.dataset, arguments.data_root, arguments.output)
    except OSError as error:
        message = f"--output {arguments.output}: cannot write ({error.strerror or error})"
        raise unwritable(message, error) from error
    print(f"{tree}: main.py --dataset {arguments.dataset} --data_root {arguments.output} reads it")


if __name__ == "__main__":
    sys.exit(run_program("datasets.png_tree", run))
