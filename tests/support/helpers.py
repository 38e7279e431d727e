"""Helpers for tests of whole runs: tiny data, commands, and comparisons to the last bit."""

import contextlib
import csv
import errno
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from tests.support import small_images
from tests.support.small_images import images_of_any_side
from utils.options.parse import parse_options
from utils.options.run_names import run_name

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN_IMAGES_PER_CLASS = 24
TEST_IMAGES_PER_CLASS = 4
CLASS_COUNTS = [24, 20, 16, 14, 11, 9, 8, 6, 5, 4]
"""Training images of each of ten classes with 24 images, at --imb_factor 0.2."""

HAS_TENSORBOARD = importlib.util.find_spec("tensorboardX") is not None
"""Runs write events for TensorBoard only with this package."""

VOLATILE = {"seconds", "images_per_second", "machine"}
"""Keys that may differ between two runs of one seed, because they depend on the clock."""


@dataclass(frozen=True)
class Outcome:
    """The result of a command: its status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines of standard error that are not warnings of the program."""
        return [line for line in self.err.splitlines() if not line.startswith("main.py: warning: ")]

    @property
    def warnings(self) -> list[str]:
        return [w for w in self.err.splitlines() if w.startswith("main.py: warning: ")]


@contextlib.contextmanager
def without_gpus() -> Iterator[None]:
    """Inside, this process and its children find no GPU. On a GPU, two runs of one seed would not
    end with equal bits."""
    with (
        patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""),
        patch("torch.cuda.is_available", return_value=False),
        patch("torch.cuda.device_count", return_value=0),
    ):
        yield


def outcome_of(program: Callable[[list[str]], int], argv: Iterable[object]) -> Outcome:
    """Runs a program's `main` in this process and returns the outcome."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = program([str(argument) for argument in argv])
    return Outcome(status, out.getvalue(), err.getvalue())


def call(argv: Sequence[object], on_gpu: bool = False) -> Outcome:
    """Runs `main.main` in this process and returns the outcome."""
    import main

    with contextlib.nullcontext() if on_gpu else without_gpus(), images_of_any_side():
        return outcome_of(main.main, argv)


def succeed(argv: Sequence[object], on_gpu: bool = False) -> Outcome:
    """Does what `call` does, and asserts that the run ended well."""
    outcome = call(argv, on_gpu)
    assert outcome.status == 0, outcome.err
    return outcome


def fork(
    argv: Sequence[object], output: Path | None = None, before: Callable[[], None] | None = None
) -> multiprocessing.Process:
    """Starts the command in a forked process, which need not spend seconds on imports. The process
    calls `before` first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "main",
            "utils.commands.train",
            "utils.commands.evaluate",
            "torchvision",
            "tests.support.helpers",
        ]
    )
    arguments = ([str(argument) for argument in argv], output, before)
    process = context.Process(target=_run_child, args=arguments, daemon=True)
    process.start()
    return process


def _run_child(argv: list[str], output: Path | None, before: Callable[[], None] | None) -> None:
    # This must come before anything looks for a device.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import main

    target = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    if before is not None:
        before()
    with images_of_any_side():
        os._exit(main.main(argv))


def fill_disk_of_events() -> None:
    """Makes the disk full from the fifth TensorBoard record on."""
    from tensorboardX.record_writer import RecordWriter

    original, count = RecordWriter.write, 0

    def write(self, data: bytes) -> None:
        nonlocal count
        count += 1
        if count >= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, data)

    RecordWriter.write = write


def write_tree(
    folder: Path, train: int, test: int, classes: int = 10, side: int = small_images.SIDE
) -> Path:
    """Writes a PNG tree `folder/cifar10/{train,test}/<class>/*.png`. A class is a colour with noise
    that differs between images."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            target = folder / "cifar10" / split / f"class_{label}"
            target.mkdir(parents=True)
            colour = np.random.default_rng(label).integers(88, 168, 3)
            for i in range(count):
                tint = generator.normal(0, 14, 3)
                pixels = colour + tint + generator.normal(0, 30, (side, side, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(target / f"{i:03}.png")
    return folder


def make_data(folder: Path) -> Path:
    """Returns a data root with a learnable CIFAR-10 of 24 training and 4 test images per class,
    which is already decoded into its cache."""
    from datasets.sources.cifar import load_cifar

    write_tree(folder, TRAIN_IMAGES_PER_CLASS, TEST_IMAGES_PER_CLASS)
    with images_of_any_side():
        load_cifar("cifar10", folder)
    return folder


def common(tree: Path, root: Path) -> list[object]:
    """Returns flags for both stages."""
    return [
        *("--dataset", "cifar10", "--data_root", tree, "--imb_factor", 0.2, "-a", "resnet8"),
        *("-b", 32, "--seed", 3, "--root_log", root, "--root_model", root),
    ]


def stage_1(tree: Path, root: Path, *extra: object) -> list[object]:
    """Returns the command of a stage 1 of two epochs. If a flag is there twice, the later one
    counts."""
    return [*common(tree, root), "--epochs", 2, "--schedule", "scaled", *extra]


STAGE_1_NAME = run_name(parse_options([str(word) for word in stage_1(Path(), Path())]))
RELEASED_NAME = STAGE_1_NAME[:-9]
"""The folder of that stage 1, and its name without the digest, which stands for these flags."""


def stage_2(tree: Path, root: Path, *extra: object) -> list[object]:
    """Returns the command of a stage 2 of two feature epochs and one classifier epoch, from the
    stage 1 in `root`."""
    return [
        *common(tree, root),
        *("--pretrained", STAGE_1_NAME, "--epochs", 3, "--balanced_clf_nepochs", 1),
        *("--feat_loss", "ce_lt,robust_loss", "--feat_sampler", "resample,4", "--feat_lr", 0.05),
        *("--cls_loss", "ce", "--cls_sampler", "none", "--cls_lr", 0.01),
        *("--temperature", 1, "--margin", 1, "--augment", "crop_flip"),
        *extra,
    ]


def without(argv: list[object], flag: str) -> list[object]:
    """Returns a command without a flag and its value."""
    at = argv.index(flag)
    return [*argv[:at], *argv[at + 2 :]]


def stage_1_folder(root: Path) -> Path:
    """Returns the only stage-1 folder below `root`."""
    (folder,) = root.glob("cifar10_*")
    return folder


def stage_2_folder(root: Path) -> Path:
    """Returns the only stage-2 folder below `root`."""
    (folder,) = root.glob("*/robust_*")
    return folder


def stage_2_folder_with(root: Path, **options: object) -> Path:
    """Returns the only stage-2 folder below `root` whose run has these options."""
    records = {path.parent: json.loads(path.read_text()) for path in root.glob("*/*/args.json")}
    (folder,) = (f for f, found in records.items() if options.items() <= found.items())
    return folder


def snapshot(folder: Path) -> dict[str, tuple]:
    """Returns kind, mode and hash of everything below the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = (content, path.lstat().st_mode)
    return found


def load(path: Path) -> dict:
    """Returns a checkpoint, which is read without running code from it."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Returns where two nested structures differ, to the last bit. `VOLATILE` keys are left out."""
    import torch

    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))} in one only"]
        keys = [key for key in a if key not in VOLATILE]
        return [d for key in keys for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: lengths {len(a)} and {len(b)}"]
        pairs = zip(a, b, strict=True)
        return [d for i, (x, y) in enumerate(pairs) for d in differences(x, y, f"{where}/{i}")]
    if isinstance(a, torch.Tensor):
        is_same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if is_same else [f"{where}: other values"]
    is_same = a == b or (a != a and b != b)
    return [] if is_same else [f"{where}: {a!r} and {b!r}"]


def read_csv(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def read_records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def differences_of_runs(a: Path, b: Path) -> list[str]:
    """Returns where checkpoints, summary and logs of two runs differ, apart from the clock."""
    found = []
    names = [{p.name for p in folder.glob("ckpt*.pth.tar")} for folder in (a, b)]
    if names[0] != names[1]:
        found.append(f"checkpoints {sorted(names[0])} and {sorted(names[1])}")
    for name in sorted(names[0] & names[1]):
        found += differences(load(a / name), load(b / name), name)
    found += differences(read_summary(a), read_summary(b), "summary.json")
    found += differences(read_csv(a), read_csv(b), "log.csv")
    found += differences(read_records(a), read_records(b), "log.jsonl")
    return found


CLASSIFIER_ONLY = ("--epochs", 1, "--balanced_clf_nepochs", 1)
FEATURES_ONLY = ("--epochs", 1, "--balanced_clf_nepochs", 0)
NOTHING = ("--epochs", 0, "--balanced_clf_nepochs", 0)
"""Flags of a stage 2 with only one phase, or with none."""


def features_of(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if not name.startswith("linear.")}


def head_of(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if name.startswith("linear.")}


def weights_of(folder: Path, name: str = "ckpt.pth.tar") -> dict:
    return load(folder / name)["state_dict"]


def seeded(seed: int = 0):
    """Returns a generator with this seed."""
    import torch

    return torch.Generator().manual_seed(seed)


def noise(n: int, side: int = 32, seed: int = 0):
    """Returns images of independent pixels, uint8 ``[n, 3, side, side]``."""
    import torch

    return torch.randint(256, (n, 3, side, side), generator=seeded(seed), dtype=torch.uint8)


def augmented(name: str, images, indices, generator):
    """Returns the images at these indices, augmented as in a run with `--augment name`."""
    from datasets.loading.augmentation import AUGMENTATIONS

    augmentation = AUGMENTATIONS[name]
    draws = augmentation.draw(len(indices), *images.shape[2:], generator)
    return augmentation.apply(images, indices, draws)
