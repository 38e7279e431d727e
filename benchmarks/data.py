"""The images that all sides of a benchmark train on."""

import math
from dataclasses import replace

import torch

from benchmarks.settings import PHASES, Settings
from datasets import BalancedData, LongTailedData, Split, load_data, make_long_tailed
from datasets.sources.cifar import NUM_CLASSES, is_here
from datasets.sources.packed import packed_name
from datasets.splits import AnySplit
from utils.errors import UserError
from utils.options.data_paths import expanded
from utils.options.flags import Options


def has_images(options: Options) -> bool:
    """Returns True if `--data_root` holds the data set, so that nothing must be downloaded."""
    root = expanded(options.data_root)
    return is_here(options.dataset, root) or (root / packed_name(options)).is_file()


def benchmark_data(settings: Settings) -> tuple[LongTailedData, str]:
    """Returns the long-tailed data, and a text that says what they are.

    Raises:
        UserError: `--data_root` was given and does not hold the data set.
    """
    options = settings.options
    if settings.quick:
        return _made_up(options, train=4, test=2), "quick: few made-up images, made-up numbers"
    if has_images(options):
        return load_data(options), f"{options.dataset} of {options.data_root}"
    if not options.is_at_default("data_root"):
        raise UserError(
            f"--data_root {options.data_root}: holds no {options.dataset}, neither the official "
            "files nor a tree of PNG files nor a packed set"
        )
    classes = NUM_CLASSES[options.dataset]
    data = _made_up(options, train=50_000 // classes, test=10_000 // classes)
    return data, f"made-up images in the sizes of {options.dataset}"


def _made_up(options: Options, train: int, test: int) -> LongTailedData:
    """Returns noise, with `train` and `test` images of a class before the subset is chosen."""
    generator = torch.Generator().manual_seed(0)
    classes = NUM_CLASSES[options.dataset]

    def noise(per_class: int) -> Split:
        labels = torch.arange(classes).repeat_interleave(per_class)
        shape = (len(labels), 3, 32, 32)
        return Split(torch.randint(256, shape, dtype=torch.uint8, generator=generator), labels)

    names = [f"class {c}" for c in range(classes)]
    return make_long_tailed(options, BalancedData(noise(train), noise(test), names))


def scaled(data: LongTailedData, factor: float) -> LongTailedData:
    """Returns the data with `factor` times the images of each training class, of the test set and
    of the held-out set, rounded up. Above 1, images are there several times."""
    positions = [(data.train.labels == c).nonzero().squeeze(1) for c in range(data.num_classes)]
    chosen = torch.cat([p[_spread(len(p), factor)] for p in positions])

    def part(split: AnySplit) -> AnySplit:
        return split.subset(_spread(len(split), factor).numpy())

    heldout = None if data.heldout is None else part(data.heldout)
    train = data.train.subset(chosen.numpy())
    return replace(data, train=train, test=part(data.test), heldout=heldout)


def _spread(count: int, factor: float) -> torch.Tensor:
    """Returns ceil(count · factor) positions, evenly spread over 0..count−1."""
    wanted = math.ceil(count * factor)
    return torch.arange(wanted) * count // wanted


def epoch_images(data: LongTailedData) -> dict[str, int]:
    """Returns the number of images in an epoch of each phase. In stage 2 each class has as many as
    the largest class."""
    balanced = max(data.class_counts) * data.num_classes
    return dict(zip(PHASES, (len(data.train), balanced, balanced), strict=True))
