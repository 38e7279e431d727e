"""One's own images as a tree: ``root/{train,test,val}/<class>/<image>``."""

from pathlib import Path

from datasets.files.decode import load_files
from datasets.files.images import IMAGE_SUFFIXES, class_folders, list_tree
from datasets.splits import BalancedData
from utils.errors import UserError
from utils.options.flags import Options


def load_folder(options: Options) -> BalancedData:
    """The tree below `--data_root`, classes and files in sorted order. `test/` is the test set, and
    `val/` the held-out one; where there is only one of the two, it is the test set.

    Raises:
        UserError: folders or images that are missing, empty or unreadable, or a class that
            training lacks.
    """
    root = Path(options.data_root)
    folders = {"train": root / "train"} | _evaluated(root)
    classes = class_folders(folders["train"])
    faults = [] if classes else [f"no class folders in {folders['train']}"]
    splits = {}
    for split, folder in folders.items():
        found = class_folders(folder)
        splits[split] = list_tree(folder, classes, IMAGE_SUFFIXES)
        present = set(splits[split].labels)
        known = {name: label for label, name in enumerate(classes)}
        for name in found:
            if name not in known:
                faults.append(f"{folder / name}: a class that {folders['train']} lacks")
            elif known[name] not in present:
                faults.append(f"{folder / name}: no images")
    side = options.image_side
    # Of 32 pixels the same as CIFAR's trees have.
    cache = root / ("decoded.npz" if side == 32 else f"decoded-{side}.npz")
    loaded = load_files(splits, options, faults, cache)
    return BalancedData(loaded["train"], loaded["test"], classes, loaded.get("heldout"))


def _evaluated(root: Path) -> dict[str, Path]:
    test, val = root / "test", root / "val"
    if test.is_dir():
        return {"test": test} | ({"heldout": val} if val.is_dir() else {})
    if val.is_dir():
        return {"test": val}
    raise UserError(f"--data_root {root}: neither of the folders test and val is there")
