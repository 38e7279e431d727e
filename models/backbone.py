"""Public weights as the start of a network: everything but the classifier."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from utils.errors import UserError, optional_module

CLASSIFIERS = ("fc", "linear", "head", "classifier")
"""What torchvision, this project, timm and others call the last layer."""

COUNTER = "num_batches_tracked"
"""Batch-norm's count of batches, which older files lack and no network here reads."""

SHOWN = 4


@dataclass(frozen=True)
class Loaded:
    """Names of the tensors of a file, by what became of them: those that the network took, and
    those that it left."""

    taken: list[str]
    left: list[str]

    def __str__(self) -> str:
        left = f"left {len(self.left)} ({_some(self.left)})" if self.left else "left none"
        return f"took {len(self.taken)} tensors ({self.taken[0]} to {self.taken[-1]}), {left}"


def load_backbone(model: nn.Module, path: Path) -> Loaded:
    """Loads a file's weights into all of the network but its head, in place.

    Args:
        model: a network with its head in `linear`.
        path: a `state_dict` of the same network in a `.pth` file or a `.safetensors` file, of
            torchvision, timm or this project, bare or within a checkpoint, with or without the
            prefixes that wrappers such as `DataParallel` and `torch.compile` put before the names.

    Returns:
        The names of the tensors that were taken and of those that were left.

    Raises:
        UserError: the file cannot be read, or its tensors do not fit; it names some that miss.
    """
    weights = read_weights(path)
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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or those of a file that `torch.save` wrote, by name.

    Within a checkpoint the weights are the first dictionary that holds only tensors, such as the
    one under `state_dict` or `model`. Nothing in the file is run.

    Raises:
        UserError: the file is missing, unreadable, or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"--backbone {path}: no such file")
    try:
        content = _read(path)
    except UserError:
        raise
    except Exception as error:  # whatever the bytes made of the reader
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path}: not a readable file of weights ({reason})") from None
    for candidate in (content, *(content.values() if isinstance(content, Mapping) else ())):
        if _holds_weights(candidate):
            return {str(name): tensor for name, tensor in candidate.items()}
    raise UserError(f"{path}: no 'state_dict' of weights in this file")


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        reader = optional_module("safetensors.torch", "safetensors", f"reading {path.name}")
        return reader.load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the one line of an error says it all
        return torch.load(path, map_location="cpu", weights_only=True)


def _holds_weights(candidate: object) -> TypeGuard[Mapping[str, Tensor]]:
    if not isinstance(candidate, Mapping) or not candidate:
        return False
    return all(isinstance(w, Tensor) and w.layout == torch.strided for w in candidate.values())


def _prefix(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> str:
    """What stands before the names of the network's tensors in the file.

    It is found by the first convolution, so any wrapper's prefix is understood, and parts of the
    file that are no part of the network, such as a projection head, are left.

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
        f"({_some(lacks)}); the file has {_some(list(weights))}"
    )


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """
    Raises:
        UserError: tensors that neither the network nor a classifier has, or others than the
            network's in shape or type, or values that are not finite.
    """
    unknown = [n for n in weights if n not in expected and n.split(".")[0] not in CLASSIFIERS]
    if unknown:
        raise UserError(
            f"{path}: weights of another network: it has {len(unknown)} tensors that this network "
            f"lacks ({_some(unknown)})"
        )
    for name in expected.keys() & weights.keys():
        wanted, found = expected[name], weights[name]
        if found.shape != wanted.shape:
            raise UserError(
                f"{path}: {name} has shape {list(found.shape)}, not {list(wanted.shape)}"
            )
        if wanted.is_floating_point() != found.is_floating_point():
            raise UserError(f"{path}: the numbers of {name} are of the type {found.dtype}")
        if not torch.isfinite(found).all():
            raise UserError(f"{path}: {name} is not finite")


def _some(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
