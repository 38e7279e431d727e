"""Start a network, except its classifier, from public weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import UserError, is_out_of_memory, optional_module
from utils.runs import checkpoint
from utils.runs.run_folder import BEST_CHECKPOINT
from utils.text import listed

HEADS = ("fc", "linear", "head", "classifier")
"""Names of the last layer in torchvision, this project, timm and others."""

COUNTER = "num_batches_tracked"
"""Batch-norm's count of batches. Older files lack it, and no network here uses it."""


@dataclass(frozen=True)
class Loaded:
    """Names of the tensors in a file: those that the network took, and those that it did not."""

    taken: list[str]
    left: list[str]

    def __str__(self) -> str:
        left = f"left {len(self.left)} ({listed(self.left)})" if self.left else "left none"
        return f"took {len(self.taken)} tensors ({self.taken[0]} to {self.taken[-1]}), {left}"


def load_backbone(model: nn.Module, path: Path) -> Loaded:
    """Loads a file's weights into the network except its head, in place.

    Args:
        model: a network with its head in `linear`.
        path: a `.pth` or `.safetensors` file with a `state_dict` of the same network, from
            torchvision, timm or this project. It may be a checkpoint that contains the weights.
            Their names may have the prefixes of wrappers such as `DataParallel` and
            `torch.compile`.

    Returns:
        The names of the tensors that were taken and of those that were not.

    Raises:
        UserError: the file cannot be read, or its tensors do not fit; the message names some that
            are missing.
    """
    weights = _weights_of(path)
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("linear.")
    }
    prefix = _prefix(weights, expected, path)
    own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    _check(own, expected, path)
    taken = [name for name in own if name in expected]
    with torch.no_grad():
        for name in taken:
            expected[name].copy_(own[name])
    known = {prefix + name for name in taken}
    return Loaded(taken, [name for name in weights if name not in known])


def check_backbone(path: Path) -> None:
    """Checks that the file of `--backbone` is there.

    Raises:
        UserError: it is not, or it is a folder.
    """
    if path.is_dir():
        raise UserError(
            f"--backbone {path} is a folder; give a file, such as {path / BEST_CHECKPOINT}"
        )
    if not path.is_file():
        raise UserError(f"--backbone {path}: no such file")


def _weights_of(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a `.safetensors` file, or of a file by `torch.save`, by name.

    Raises:
        UserError: the file is missing, unreadable, or holds no weights.
    """
    check_backbone(path)
    if path.suffix != ".safetensors":
        _, weights = checkpoint.read(path)
        return weights
    reader = optional_module("safetensors.torch", "safetensors", f"reading {path.name}")
    try:
        return reader.load_file(path)
    except Exception as error:  # damaged bytes can raise anything in the reader
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path}: not a readable file of weights ({reason})") from None


def _prefix(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> str:
    """Returns the prefix of the network's tensors in the file.

    The name of the first convolution shows it, so the prefix of any wrapper works. Other parts of
    the file, such as a projection head, are ignored.

    Raises:
        UserError: no part of the file has all of the network's tensors, or several have.
    """
    first = next(iter(expected))
    starts = [name.removesuffix(first) for name in weights if name.endswith(first)]
    missing = {
        start: [n for n in expected if start + n not in weights and not n.endswith(COUNTER)]
        for start in starts or [""]
    }
    fitting = [start for start in missing if not missing[start]]
    if len(fitting) > 1:
        raise UserError(f"{path}: several networks in one file, under {', '.join(fitting)}")
    if fitting:
        return fitting[0]
    lacks = min(missing.values(), key=len)
    raise UserError(
        f"{path}: weights of another network: {len(lacks)} of {len(expected)} tensors are missing "
        f"({listed(lacks)}); the file has {listed(list(weights))}"
    )


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Checks that the weights fit the network.

    Raises:
        UserError: a tensor belongs neither to the network nor to a classifier, has another shape or
            type than the network's, or has values that are not finite.
    """
    unknown = [n for n in weights if n not in expected and n.split(".")[0] not in HEADS]
    if unknown:
        raise UserError(
            f"{path}: weights of another network: it has {len(unknown)} tensors that this network "
            f"lacks ({listed(unknown)})"
        )
    for name in (name for name in weights if name in expected):
        checkpoint.check_weight(name, weights[name], expected[name], path)
