"""Checkpoints: they are written whole, and reading one runs no code from it."""

import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import COSINE_SCALE, build_model
from utils.errors import UserError, is_out_of_memory
from utils.files import atomic_write
from utils.text import listed

WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "encoder")
"""Prefixes that wrappers of a network put before the names of its weights."""

CORES = ("core", "_core")  # names of the package in NumPy 1 and 2
# NumPy's type hints lack its private package.
_SCALAR = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
NUMBERS_OF_NUMPY: list = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in CORES),
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
]
"""The objects that the pickle of a NumPy number names. Loading them makes numbers and runs no other
code."""

ESCAPE_CODE = re.compile(r"\x1b\[[0-9;]*m")
REFUSED = re.compile(r"Unsupported global: GLOBAL (\S+)")


def save(path: Path, checkpoint: dict) -> None:
    """Writes a checkpoint of tensors, numbers, strings, lists, tuples and dicts. If the process is
    killed meanwhile, either the previous file or this one is there, whole.

    Raises:
        OSError: the file cannot be written; the previous one is still there.
    """
    save_all({path: checkpoint})


def save_all(checkpoints: dict[Path, dict]) -> None:
    """Writes checkpoints that belong together, as `save` does. The first file is replaced when all
    are on the disk; the others follow in their order.

    Raises:
        OSError: a file cannot be written; the previous ones are all still there, or, if only a
            replacement failed, those from that one on.
    """
    with ExitStack() as stack:
        for path in reversed(checkpoints):  # the stack replaces the file opened last first
            serialised = io.BytesIO()
            # torch.save writes to memory first, because it would hide the error of a full disk.
            torch.save(checkpoints[path], serialised)
            file = stack.enter_context(atomic_write(path))
            file.write(serialised.getbuffer())
            file.flush()
            os.fsync(file.fileno())


def load(path: Path) -> dict:
    """Returns a checkpoint of this program, of the released code or of other code, on the CPU.

    A file that holds only weights becomes a checkpoint with nothing else in it. The weights may lie
    under another key than `state_dict`. Prefixes of wrappers in their names (`module.` of
    data-parallel training, `_orig_mod.` of a compiled network) are removed. NumPy's numbers become
    Python's.

    Raises:
        UserError: the file is missing or damaged, has no weights, or has anything but plain data.
    """
    checkpoint, weights = read(path)
    counts = checkpoint.get("class_counts")
    if counts is not None and not (
        isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    ):
        raise UserError(f"{path}: its class_counts must be a list of whole numbers")
    if not isinstance(checkpoint.get("arch"), (str, type(None))):
        raise UserError(f"{path}: its arch must be a name")
    return _with_plain_numbers(checkpoint) | {"state_dict": _without_wrappers(weights)}


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Returns the content of a file by `torch.save`, and the weights in it by the names that they
    have there. The content is empty if the file holds only weights.

    Raises:
        UserError: the file is missing or damaged, has no weights, or has anything but plain data.
    """
    content = content_of(path)
    weights = _weights_in(content)
    if weights is None:
        keys = [str(key) for key in content] if isinstance(content, dict) else []
        there = f" (it has {listed(keys)})" if keys else ""
        raise UserError(f"{path}: no 'state_dict' of weights in this file{there}")
    rest = content if isinstance(content, dict) and weights is not content else {}
    return rest, {str(name): weight for name, weight in weights.items()}


def content_of(path: Path) -> Any:
    """Returns the content of a file by `torch.save`, on the CPU, after a look at its checksums,
    which torch ignores.

    Raises:
        UserError: the file is missing or damaged, or has anything but plain data.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path}: damaged checkpoint (checksum of {damaged})")
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS_OF_NUMPY):
            warnings.simplefilter("ignore")  # the error below says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a checkpoint") from None
    except Exception as error:  # torch.load raises errors of many types for other files
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path}: not a readable checkpoint ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Returns why torch could not read a file, in one line and without torch's advice."""
    text = ESCAPE_CODE.sub("", str(error)).strip()
    if refused := REFUSED.search(text):
        name = refused.group(1)
        return f"it holds the Python object {name}, which could run code when it is read"
    if "Weights only load failed" in text or not text:
        return "torch.save did not write this file, or it is cut off"
    return text.split("\n")[0][:200]


def _weights_in(content: object) -> dict | None:
    """Returns the first of these that is a dictionary of dense tensors: the entry `state_dict` or,
    if there is none, the whole content or any other entry. None if there is none."""
    if not isinstance(content, dict):
        return None
    if "state_dict" in content:
        return content["state_dict"] if _are_weights(content["state_dict"]) else None
    # An empty dictionary under another name says nothing.
    parts = (part for part in (content, *content.values()) if _are_weights(part) and part)
    return next(parts, None)


def _are_weights(part: object) -> bool:
    return isinstance(part, dict) and all(map(_is_plain, part.values()))


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights without the prefixes of wrappers that all names have."""
    while weights:
        first = next(iter(weights)).partition(".")[0]
        prefix = f"{first}."
        if first not in WRAPPERS or not all(name.startswith(prefix) for name in weights):
            break
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return weights


def _with_plain_numbers(content: Any) -> Any:
    """Returns the content with Python's numbers instead of NumPy's."""
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, dict):
        return {key: _with_plain_numbers(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_with_plain_numbers(value) for value in content)
    return content


def _is_plain(weight: object) -> bool:
    """Returns True for a dense tensor with its values in memory."""
    is_tensor = isinstance(weight, Tensor)
    return is_tensor and weight.layout == torch.strided and weight.device.type == "cpu"


def build_from(
    checkpoint: dict, path: Path, arch: str, num_classes: int, head: str | None = None
) -> nn.Module:
    """Returns the network of a checkpoint, with the kind of head that the checkpoint has: linear,
    or cosine (without bias, scale 30).

    Args:
        checkpoint: what `load` returned.
        path: its file, for messages.
        arch: the architecture.
        num_classes: K.
        head: the kind of head that is expected, `linear` or `cosine`; None for either.

    Raises:
        UserError: the checkpoint has another architecture, number of classes or kind of head, or
            weights that are not finite.
    """
    weights = checkpoint["state_dict"]
    if checkpoint.get("arch", arch) != arch:
        raise UserError(f"{path}: a checkpoint of {checkpoint['arch']}, not of --arch {arch}")
    kind, classes = head_of(weights, path)
    if head not in (None, kind):
        raise UserError(f"{path}: a checkpoint with a {kind} head, not --head {head}")
    if classes != num_classes:
        raise UserError(
            f"{path}: a checkpoint of {classes} classes, but the data have {num_classes}"
        )
    model = build_model(arch, num_classes, COSINE_SCALE if kind == "cosine" else None)
    load_weights(model, weights, path)
    return model


def head_of(weights: dict[str, Tensor], path: Path) -> tuple[str, int]:
    """Returns the kind of head that weights have, `linear` or `cosine`, and the number of classes.

    Args:
        weights: the `state_dict` of a checkpoint.
        path: its file, for messages.

    Raises:
        UserError: the weights have no head.
    """
    weight = weights.get("linear.weight")
    if weight is None or weight.ndim != 2:
        raise UserError(
            f"{path}: no linear.weight among the weights ({listed(list(weights))}); "
            "--backbone starts from weights with another classifier"
        )
    # A cosine head has a column for each class, and no bias.
    is_linear = "linear.bias" in weights
    return ("linear", weight.shape[0]) if is_linear else ("cosine", weight.shape[1])


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Loads weights into a network.

    Args:
        model: the network.
        weights: its `state_dict`, with the same names and shapes.
        path: their file, for messages.

    Raises:
        UserError: names or shapes differ, or what `check_weight` raises.
    """
    expected = model.state_dict()
    differing = {"missing": expected.keys() - weights, "unknown": weights.keys() - expected}
    if any(differing.values()):
        parts = [f"{len(n)} {kind} ({listed(sorted(n))})" for kind, n in differing.items() if n]
        raise UserError(f"{path}: weights of another network: {', '.join(parts)}")
    for name, weight in weights.items():
        check_weight(name, weight, expected[name], path)
    model.load_state_dict(weights)


def check_weight(name: str, weight: Tensor, expected: Tensor, path: Path) -> None:
    """Checks that a weight from a file may take the place of the network's own.

    Raises:
        UserError: it has another shape or kind of numbers, or is not finite in the network's type.
    """
    if weight.shape != expected.shape:
        raise UserError(
            f"{path}: {name} has shape {list(weight.shape)}, not {list(expected.shape)}"
        )
    # Other programs' files may have a count of batches in any type; no network here uses it.
    if expected.is_floating_point() and not weight.is_floating_point():
        raise UserError(f"{path}: the numbers of {name} are of the type {weight.dtype}")
    if not torch.isfinite(weight.to(expected.dtype)).all():
        raise UserError(f"{path}: {name} is not finite")


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Returns a SHA-256 of a `state_dict`: weights and batch-norm statistics. It tells whether a
    saved classifier was fitted on this network, or whether a stage 2 began with it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
