"""Made-up sets of JPEG files of various sizes, with lists in the field's format, and commands that
train on them."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets import load_data
from datasets.splits import LongTailedData
from utils.options.parse import parse_options
from utils.runs.folders import run_folder

CLASSES = 12
SIDE = 32
"""Pixels of a side of the images that networks train on. The files have 40 to 110."""


def write_jpeg(path: Path, label: int, seed: int) -> None:
    """Writes a picture with sides of 40 to 110 pixels; its class is its colour."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(40, 110, 2)
    colour = np.random.default_rng(1000 + label).integers(40, 216, 3)
    pixels = colour + generator.normal(0, 20, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=80)


def training_counts(classes: int) -> list[int]:
    """Returns class counts that fall from 12 images to 2."""
    return [max(2, round(12 * 0.9**label)) for label in range(classes)]


def write_imagenet_lt(root: Path, classes: int = CLASSES) -> Path:
    """Writes ImageNet-LT's layout: `train/<synset>/*.JPEG`, `val/*.JPEG`, and three lists."""
    seed = 0
    for split, counts in (
        ("train", training_counts(classes)),
        ("val", [1] * classes),
        ("test", [2] * classes),
    ):
        lines = []
        for label, count in enumerate(counts):
            for i in range(count):
                folder = f"train/n{label:08}" if split == "train" else "val"
                name = f"{folder}/{split}_{label:02}_{i:03}.JPEG"
                write_jpeg(root / name, label, seed := seed + 1)
                lines.append(f"{name} {label}\n")
        (root / f"ImageNet_LT_{split}.txt").write_text("".join(lines))
    return root


def write_inaturalist(root: Path, lists: Path, classes: int = 5) -> Path:
    """Writes iNaturalist's layout, with its two lists in a separate folder."""
    lists.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 4), ("val", 2)):
        lines = []
        for label in range(classes):
            for i in range(count):
                name = f"train_val2018/Plantae/{label + 70}/{split}_{i}.jpg"
                write_jpeg(root / name, label, 100 * label + 10 * i + (split == "val"))
                lines.append(f"{name} {label}\n")
        (lists / f"iNaturalist18_{split}.txt").write_text("".join(lines))
    return root


def _flags(data: Path, root: Path, arch: str = "resnet10", workers: int = 2) -> list:
    """Returns the flags of both stages."""
    return [
        *("--dataset", "imagenet_lt", "--data_root", data, "--image_size", SIDE, "--stream", True),
        *("-a", arch, "-b", 32, "--seed", 1, "-j", workers),
        *("--root_log", root, "--root_model", root),
    ]


def stage_1(data: Path, root: Path, *extra: object, **settings) -> list[str]:
    """Returns the command of a stage 1 on images in ImageNet-LT's layout."""
    schedule = ("--epochs", 2, "--schedule", "cosine", "--lr", 0.05)
    return [str(flag) for flag in (*_flags(data, root, **settings), *schedule, *extra)]


def stage_2(data: Path, root: Path, *extra: object, **settings) -> list[str]:
    """Returns the command of a stage 2 that starts from `stage_1`."""
    pretrained = run_folder(parse_options(stage_1(data, root, **settings))).models
    flags = [
        *(*_flags(data, root, **settings), "--pretrained", pretrained.name, "--epochs", 2),
        *("--balanced_clf_nepochs", 1, "--feat_loss", "ce_lt,robust_loss", "--cls_loss", "ce"),
        *("--feat_sampler", "resample,2", "--temperature", 1, "--margin", 1, *extra),
    ]
    return [str(flag) for flag in flags]


def records_of(command: list[str]) -> Path:
    return run_folder(parse_options(command)).records


def data_of(root: Path, *flags: object, dataset: str = "imagenet_lt") -> LongTailedData:
    """Returns the listed set as a run with these flags gets it."""
    argv = ("--dataset", dataset, "--data_root", root, "--image_size", 64, "-j", 0, *flags)
    return load_data(parse_options([str(flag) for flag in argv]))
