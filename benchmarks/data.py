"""The images that both sides of a benchmark see."""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.settings import Settings
from datasets import BalancedData, LongTailedData, Split, load_data, make_long_tailed
from datasets.splits import AnySplit
from utils.errors import UserError
from utils.options.parse import parse_options

CIFAR_FILES = {
    "cifar10": ("cifar10/train", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar100/train", "cifar-100-python", "cifar-100-python.tar.gz"),
}


def has_images(settings: Settings) -> bool:
    """Whether `--data_root` holds the data set, so that nothing would be downloaded."""
    root = Path(settings.data_root or "data")
    return any((root / name).exists() for name in CIFAR_FILES[settings.dataset])


def benchmark_data(settings: Settings) -> tuple[LongTailedData, str]:
    """The long-tailed data, and what they are.

    Raises:
        UserError: `--data_root` was given and does not hold the data set.
    """
    if settings.quick:
        return _made_up(settings, train=4, test=2), "quick: few made-up images, made-up numbers"
    if has_images(settings):
        data = load_data(parse_options(settings.data_flags()))
        return data, f"{settings.dataset} of {settings.data_root or './data'}"
    if settings.data_root is not None:
        expected = ", ".join(CIFAR_FILES[settings.dataset])
        raise UserError(f"--data_root {settings.data_root}: holds none of {expected}")
    train, test = (5000, 1000) if settings.dataset == "cifar10" else (500, 100)
    return _made_up(settings, train, test), f"made-up images in the sizes of {settings.dataset}"


def _made_up(settings: Settings, train: int, test: int) -> LongTailedData:
    """Noise, with as many images of a class as told."""
    generator = torch.Generator().manual_seed(0)
    classes = 100 if settings.dataset == "cifar100" and not settings.quick else 10

    def noise(per_class: int) -> Split:
        labels = torch.arange(classes).repeat_interleave(per_class)
        shape = (len(labels), 3, 32, 32)
        return Split(torch.randint(256, shape, dtype=torch.uint8, generator=generator), labels)

    balanced = BalancedData(noise(train), noise(test), [f"class {c}" for c in range(classes)])
    return make_long_tailed(parse_options(settings.data_flags()), balanced)


def scaled(data: LongTailedData, factor: float) -> LongTailedData:
    """The same data with `factor` times the images of each training class (rounded up) and of the
    evaluated sets: a part of them, or all of them `factor` times."""
    positions = [(data.train.labels == c).nonzero().squeeze(1) for c in range(data.num_classes)]
    chosen = torch.cat([p[_spread(len(p), factor)] for p in positions])

    def part(split: AnySplit | None) -> AnySplit | None:
        return None if split is None else _take(split, _spread(len(split), factor))

    return replace(
        data, train=_take(data.train, chosen), test=part(data.test), heldout=part(data.heldout)
    )


def _spread(count: int, factor: float) -> torch.Tensor:
    """ceil(count · factor) positions, evenly spread over 0..count−1."""
    wanted = -int(-(count * factor) // 1)
    return torch.arange(wanted) * count // wanted


def _take(split: AnySplit, positions: torch.Tensor) -> AnySplit:
    return split.subset(positions.numpy())
