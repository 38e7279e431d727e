"""Checks of `--data_root` by the names of its files and folders. They run before torch is imported,
so a wrong path is reported at once."""

import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.options.flags import BENCHMARK_LISTS, CIFAR_DATASETS, Options, default_of
from utils.text import listed

SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
OUTPUTS = (
    {
        *("args.json", "log.csv", "ckpt.pth.tar", "ckpt.best.pth.tar"),
        *("log.jsonl", "summary.json", "predictions.npz"),
    },
    {"table.json", "RESULTS.md"},
)
"""Files of a run or of its records in a comparison, and of a comparison. Two of either tell its
folder; one may be anybody's."""
OF_SYSTEMS = (
    *("__MACOSX", "@eaDir", "#recycle", "#snapshot"),
    *("$RECYCLE.BIN", "System Volume Information", "lost+found"),
)
"""Folders that operating systems and network storage put beside a user's own."""
OF_SEEDS = "summary.json"
"""The only file beside the folders of several seeds."""


@dataclass(frozen=True)
class Tree:
    """The folders of a tree of images: `splits` maps `train`, `test` and `val` to their folders,
    `others` has the names of the other folders. A tree without splits has only class folders, and
    both are empty."""

    splits: dict[str, Path]
    others: list[str]


def split_called(name: str) -> str | None:
    """Returns the split that the name of a folder, or a cell of a table, stands for; None if it
    stands for none."""
    return next((s for s, names in SPLIT_NAMES.items() if name.lower() in names), None)


def is_hidden(name: str) -> bool:
    """Returns True for files and folders that operating systems put beside a user's own."""
    return name.startswith(".") or name in OF_SYSTEMS


def check_data(options: Options) -> None:
    """Checks that the data set of the options is at `--data_root`.

    Raises:
        UserError: it is not there; the message says what is there instead.
    """
    root = expanded(options.data_root)
    if options.dataset == "folder":
        read_tree(root, run_roots(options))
    elif options.dataset in ("npz", "csv"):
        _check_file(root, options.dataset)
    elif options.dataset in BENCHMARK_LISTS:
        _check_folder(root, "the folder that the lists' paths start from")
    elif options.dataset in CIFAR_DATASETS:
        _check_not_own(root, options.dataset)


def run_roots(options: Options) -> tuple[str, ...]:
    """Returns the real paths of `--root_log` and `--root_model`. They are no part of the data, even
    if they lie below `--data_root`."""
    return tuple(os.path.realpath(root) for root in (options.root_log, options.root_model))


def holds_outputs(folder: str | Path) -> bool:
    """Returns True for a folder that this program wrote: of a run, of a comparison, or with nothing
    but such folders in it. Its pictures are no photographs, even if it lies among them."""
    inside = [name for name in names_in(Path(folder)) if not is_hidden(name)]
    if any(len(files.intersection(inside)) > 1 for files in OUTPUTS):
        return True
    # The runs of several seeds, and a stage 2 whose stage 1 is elsewhere, lie one folder deeper.
    below = [name for name in inside if name != OF_SEEDS]
    return bool(below) and all(holds_outputs(Path(folder, name)) for name in below)


def expanded(path: str) -> Path:
    """Returns the path with `~` replaced.

    Raises:
        UserError: the path has a zero byte, which no path can have.
    """
    if "\0" in path:
        raise UserError(f"{path!r} is not a path: it has a zero byte")
    return Path(os.path.expanduser(path))


def split_folders(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Returns the folders of splits: from the name of each to its split; empty for class folders.

    A folder is a split if it has the name of one, and if any folder with such a name has folders
    in it. Otherwise it is a class: a class of pictures of trains is not a training set.

    Args:
        root: the folder of the tree.
        folders: the names of the folders in it.
    """
    named = {name: split for name in folders if (split := split_called(name)) is not None}
    if len(named) < len(folders) and not any(_folders_in(root / name) for name in named):
        return {}
    return named


def read_tree(root: Path, without: Sequence[str] = ()) -> Tree:
    """Returns the splits of the tree, under any of their names; no splits for class folders.

    Args:
        root: the folder of the tree.
        without: real paths of folders in it that are no part of the data.

    Raises:
        UserError: there is no such folder, the tree is one level higher or lower, a split is there
            twice, or splits lie inside classes.
    """
    _check_folder(root, "a folder that holds train and test, or one folder for each class")
    folders = [
        name
        for name in _folders_in(root)
        if os.path.realpath(root / name) not in without and not holds_outputs(root / name)
    ]
    named = split_folders(root, folders)
    others = [name for name in folders if name not in named]
    splits: dict[str, Path] = {}
    for name, split in named.items():
        if split in splits:
            both = f"{splits[split].name} and {name}"
            raise UserError(f"--data_root {root}: {both} are both a folder of the {split} split")
        splits[split] = root / name
    if splits and "train" not in splits:
        raise UserError(
            f"--data_root {root}: no folder train (or training) beside {listed(list(named))}; if "
            "these are classes, move all class folders into a new folder train"
        )
    if not splits:
        _check_classes(root, folders)
        others = []
    return Tree(splits, others)


def _check_classes(root: Path, folders: list[str]) -> None:
    """Refuses folders that are not the class folders of a tree without splits."""
    siblings = names_in(root.parent) if root.parent != root else []
    if split_called(root.name) and any(
        split_called(name) not in (None, split_called(root.name)) for name in siblings
    ):
        raise UserError(
            f"--data_root {root} is one split of a tree, beside "
            f"{listed([n for n in siblings if split_called(n) and n != root.name])}: "
            f"did you mean --data_root {root.parent}?"
        )
    inner = [
        (name, split)
        for name in folders
        for split in filter(split_called, _folders_in(root / name))
    ]
    # A split of a tree holds folders, one for each class. One inside a class holds its images.
    tree = next((name for name, split in inner if _folders_in(root / name / split)), None)
    if tree is not None:
        raise UserError(
            f"--data_root {root}: neither train nor test is there, but {tree} holds "
            f"{listed(_folders_in(root / tree))}: did you mean --data_root {root / tree}?"
        )
    if inner:
        name, split = inner[0]
        raise UserError(
            f"--data_root {root}: the split {name}/{split} lies inside a class: move its images to "
            f"{split}/{name}, or, if they are no split, give the folder another name"
        )
    if len(folders) == 1:
        raise UserError(
            f"--data_root {root}: {folders[0]} is the only folder there; a data set has two "
            f"classes or more (did you mean --data_root {root / folders[0]}?)"
        )
    if not folders:
        raise UserError(
            f"--data_root {root}: neither train and test nor class folders are there; "
            f"{root} holds {listed(names_in(root))}"
        )


def _check_folder(path: Path, wanted: str) -> None:
    if not path.exists():
        raise UserError(f"--data_root {path}: no such folder; {_nearest(path)}")
    if not path.is_dir():
        raise UserError(f"--data_root {path} is a file; give {wanted}")
    try:
        os.listdir(path)
    except OSError as error:
        raise UserError(f"--data_root {path}: {error.strerror}") from None


def _check_not_own(path: Path, dataset: str) -> None:
    """Refuses a user's own images where CIFAR would be looked for and downloaded to: a folder, not
    the default one, whose folders are all class folders, or splits of them, and where no name
    has `cifar` in it."""
    if path.is_file():
        kind = path.suffix.lower().removeprefix(".")
        hint = f"; did you mean --dataset {kind}?" if kind in ("csv", "npz") else ""
        raise UserError(f"--data_root {path} is a file; --dataset {dataset} needs a folder{hint}")
    is_default = os.path.realpath(path) == os.path.realpath(default_of("data_root"))
    if is_default or any("cifar" in name for name in names_in(path)):
        return
    folders = _folders_in(path)
    if folders and all(_has_pictures(path / name) for name in folders):
        raise UserError(
            f"--data_root {path}: no {dataset} there, but folders of images; did you mean "
            f"--dataset folder? (to download {dataset} here, make a folder {path / dataset})"
        )


def _has_pictures(folder: Path) -> bool:
    """Returns True if a file right in the folder has the suffix of an image; for the folder of a
    split, also if a file in one of its folders has."""
    places = [folder]
    if split_called(folder.name) is not None:
        places += [folder / name for name in _folders_in(folder)]
    kinds = (mimetypes.guess_type(name)[0] or "" for place in places for name in names_in(place))
    return any(kind.startswith("image/") for kind in kinds)


def _check_file(path: Path, kind: str) -> None:
    """Refuses a path without a file."""
    if path.is_dir():
        inside = [name for name in names_in(path) if name.lower().endswith(f".{kind}")]
        there = f"which holds {listed(inside)}" if inside else f"which has no {kind} file"
        raise UserError(f"--data_root {path}: --dataset {kind} needs a file, not a folder, {there}")
    if not path.exists():
        raise UserError(
            f"--data_root {path}: no such file; --dataset {kind} needs one; {_nearest(path)}"
        )


def _nearest(path: Path) -> str:
    """Returns what the nearest existing folder above the path holds, as a clause."""
    above = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    return f"{above} holds {listed([n for n in names_in(above) if not is_hidden(n)])}"


def names_in(folder: Path) -> list[str]:
    """Returns the names in a folder, sorted; empty if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not is_hidden(e.name) and e.is_dir())
    except OSError:
        return []
