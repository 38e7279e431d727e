"""A user's own images in a tree: ``root/{train,test,val}/<class>/**``, or ``root/<class>/**``."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from datasets.files.trees import (
    FileList,
    Remarks,
    class_folders,
    count_by_suffix,
    list_classes,
)
from datasets.sources.from_files import load_files
from datasets.sources.own_splits import with_test_split
from datasets.splits import BalancedData
from utils.errors import warn
from utils.options.data_paths import Tree, read_tree, run_roots
from utils.options.flags import Options
from utils.text import listed, shown


def load_folder(options: Options, recorded: Mapping) -> BalancedData:
    """Returns the images of the tree below `--data_root`. Classes and files are in sorted order;
    images may lie at any depth below their class.

    `test` is the test set and `val` has the held-out images. If there is only one of the two, it is
    the test set. If there is neither, a test set is split off (`own_splits.with_test_split`).

    Raises:
        UserError: a folder or an image is missing, empty or unreadable, or a class has no training
            images.
    """
    root = Path(options.data_root)
    runs = run_roots(options)
    tree = read_tree(root, runs)
    beside = _beside_splits(root, tree)
    remarks = Remarks()
    folders = class_folders(root, remarks, runs)  # with splits, only for the files beside them
    if tree.splits:
        classes, lists = _list_splits(tree, remarks)
    else:
        classes, lists = _list_flat(root, folders, remarks)
    names = {split: f"{folder.name}/" for split, folder in tree.splits.items()}
    lists, origin = with_test_split(classes, lists, names, options, recorded, remarks.faults)
    loaded = load_files(lists, options, remarks.faults, beside=root)
    origin = replace(origin, ignored=(*remarks.ignored(), *beside))
    return BalancedData(**loaded, class_names=classes, origin=origin)


def _beside_splits(root: Path, tree: Tree) -> list[str]:
    """Returns the folders beside the splits and the number of images in each, in words. Warns if
    images lie beside `train` alone: neither `test` nor `val` shows that it is a split, so it may be
    a class, and the others are classes too."""
    counts = {shown(name): count_by_suffix(root / name) for name in tree.others}
    others = listed([name for name, count in counts.items() if count])
    if tree.splits.keys() == {"train"} and any(counts.values()):
        name = tree.splits["train"].name
        warn(
            f"--data_root {shown(root)}: {name} has folders in it, so it is taken for the training "
            f"split, and the {sum(counts.values())} images of {others} are not used. If {name} is "
            "a class, move all class folders into a new folder train; if a test set is among "
            f"{others}, rename it to test"
        )
    return [f"folder {name} ({n} image{'s' * (n != 1)})" for name, n in counts.items()]


def _list_splits(tree: Tree, remarks: Remarks) -> tuple[list[str], dict[str, FileList]]:
    """Returns the class names and the files of each split; adds what is wrong to the remarks."""
    folders = {split: class_folders(folder, remarks) for split, folder in tree.splits.items()}
    training = tree.splits["train"]
    classes = list(folders["train"])
    for split, folder in tree.splits.items():
        if not folders[split]:
            remarks.faults.append(f"no class folders in {shown(folder)} ({_what_to_do(split)})")
    lists = {}
    for split, folder in tree.splits.items():
        lists[split] = list_classes(folder, classes, folders[split], remarks, f"{folder.name}/")
        present = {classes[label] for label in lists[split].labels}
        for name, places in folders[split].items():
            if name not in folders["train"]:
                fault = f"a class without a folder in {shown(training)}"
            elif name not in present:
                fault = _no_images(folder / places[0], remarks)
            else:
                continue
            remarks.faults.append(f"{shown(folder / places[0])}: {fault}")
    return classes, lists


def _what_to_do(split: str) -> str:
    """Returns what a user may do with the images of a split that has no class folders."""
    if split == "train":
        return "if a table has the labels of its images, give that to --dataset csv"
    return (
        "images without labels are no test set: move them out of the tree and give them to python "
        "-m utils.predict"
    )


def _list_flat(
    root: Path, folders: dict[str, list[str]], remarks: Remarks
) -> tuple[list[str], dict[str, FileList]]:
    """Returns the class names and all files of a tree without splits, as the split `train`."""
    classes = list(folders)
    files = list_classes(root, classes, folders, remarks)
    for label in set(range(len(classes))) - set(files.labels):
        place = root / folders[classes[label]][0]
        remarks.faults.append(f"{shown(place)}: {_no_images(place, remarks)}")
    return classes, {"train": files}


def _no_images(folder: Path, remarks: Remarks) -> str:
    """Returns what is wrong with a class without images, and what its folder has instead."""
    inside = [name for name in remarks.other_files if name.startswith(shown(folder) + os.sep)]
    others = f", but files that Pillow cannot open ({listed(inside, 1)})" if inside else ""
    return f"no images{others}"
