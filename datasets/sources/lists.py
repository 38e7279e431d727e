"""ImageNet-LT and iNaturalist 2018 from the list files that the field uses. A line of a list has a
path, relative to `--data_root`, and a label.

Sources: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019; Van Horn et
al., "The iNaturalist Species Classification and Detection Dataset", CVPR 2018.
"""

from collections import defaultdict
from pathlib import Path

from datasets.files.trees import FileList
from datasets.sources.from_files import load_files
from datasets.splits import BalancedData
from utils.errors import UserError
from utils.options.flags import Options

# iNaturalist's test labels are not public, so its validation images are the test set.
LISTS = {
    "imagenet_lt": {
        "train": "ImageNet_LT_train.txt",
        "test": "ImageNet_LT_test.txt",
        "heldout": "ImageNet_LT_val.txt",
    },
    "inaturalist18": {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
}


def load_lists(options: Options) -> BalancedData:
    """Returns the images that the data set's lists in `--list_root` name, below `--data_root`.

    Raises:
        UserError: a list or an image is missing or unreadable, a line is not a path and a label, an
            image is listed twice, or a class has no training images.
    """
    images = Path(options.data_root)
    folder = images if options.list_root is None else Path(options.list_root)
    lists = {split: folder / name for split, name in LISTS[options.dataset].items()}
    missing = [str(path) for path in lists.values() if not path.is_file()]
    if missing:
        raise UserError(
            f"--dataset {options.dataset}: there is no list {', '.join(missing)}; give the lists' "
            "folder with --list_root"
        )
    faults: list[str] = []
    splits = {split: _read_list(path, images, faults) for split, path in lists.items()}
    faults += _duplicates(lists, splits)
    trained = set(splits["train"].labels)
    for split, path in lists.items():
        labels = set(splits[split].labels)
        expected = set(range(max(labels, default=0) + 1)) if split == "train" else labels
        for label in sorted(expected - trained):
            faults.append(f"{path}: class {label} has no training images")
    loaded = load_files(splits, options, faults)
    classes = _class_names(splits["train"])
    return BalancedData(loaded["train"], loaded["test"], classes, loaded.get("heldout"))


def _read_list(path: Path, images: Path, faults: list[str]) -> FileList:
    """Returns the files of a list; adds what is wrong with its lines to `faults`."""
    names, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text of paths and labels") from None
    for number, line in enumerate(lines, 1):
        name, _, label = line.rstrip().rpartition(" ")
        if not line.strip():
            continue
        if name and label.isascii() and label.isdigit() and len(label) < 7:
            names.append(name)
            labels.append(int(label))
        else:
            faults.append(
                f"{path}, line {number}: {line[-60:]!r} is not a path, a space and a label"
            )
    if not names:
        faults.append(f"{path}: no images")
    return FileList(images, names, labels)


def _duplicates(lists: dict[str, Path], splits: dict[str, FileList]) -> list[str]:
    """Returns a message for each image that is listed twice, in one list or in two."""
    first: dict[str, str] = {}
    found = []
    for split, path in lists.items():
        for name in splits[split].names:
            if name in first:
                found.append(f"{name} is listed in {first[name]} and again in {path.name}")
            first[name] = path.name
    return found


def _class_names(train: FileList) -> list[str]:
    """Returns the names of the classes' folders if each class has one folder of its own; else the
    numbers of the classes."""
    folders = defaultdict(set)
    for name, label in zip(train.names, train.labels, strict=True):
        folders[label].add(Path(name).parent.name)
    names = [min(folders[label]) for label in range(len(folders))]
    are_own = all(len(found) == 1 for found in folders.values()) and len(set(names)) == len(names)
    return names if are_own else [str(label) for label in range(len(names))]
