"""Checkpoints: written whole, read without running anything in them."""

import copy
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import COSINE_SCALE, build_model
from utils.errors import UserError
from utils.files import atomic_write

WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "encoder")
"""What wrappers of a network put before the names of its weights."""

CORES = ("core", "_core")  # as NumPy 1 and 2 call the package
# The types of NumPy leave its private package out.
_SCALAR = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
NUMBERS_OF_NUMPY: list = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in CORES),
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
]
"""What the pickle of a number of NumPy's names: a number is made of them, and nothing is run."""

ESCAPE_CODE = re.compile(r"\x1b\[[0-9;]*m")
REFUSED = re.compile(r"Unsupported global: GLOBAL (\S+)")


def save(path: Path, checkpoint: dict) -> None:
    """Writes tensors, numbers, strings, lists, tuples and dicts: a kill at any instant leaves the
    previous file or this one, whole.

    Raises:
        OSError: the file cannot be written; the previous one is still there.
    """
    serialised = io.BytesIO()
    # Into memory first: torch hides what the disk answers in an error of its own.
    torch.save(checkpoint, serialised)
    with atomic_write(path) as file:
        file.write(serialised.getbuffer())


def on_host(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy in the host's memory that shares no tensor and no container with the original.

    Tensors on a device come over in one buffer: hundreds of small copies would each wait for it.
    """
    tensors = list({id(tensor): tensor for tensor in _tensors_in(checkpoint)}.values())
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    there = [tensor for tensor in tensors if tensor.device.type != "cpu"]
    copies = [tensor.detach().clone() for tensor in here] + through_one_buffer(there)
    by_id = dict(zip(map(id, here + there), copies, strict=True))
    return _copy_with(checkpoint, by_id)


def through_one_buffer(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns copies of the tensors, which are on one device, in the host's memory and in the same
    memory layouts (contiguous or channels-last). Only one copy leaves the device."""
    if not tensors:
        return []
    # The largest elements first, so that each part begins at a multiple of its elements' size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    parts = [_flat(tensors[i].detach()).view(torch.uint8) for i in order]
    buffer = torch.cat(parts).cpu()
    copies: dict[int, Tensor] = {}
    for i, part in zip(order, buffer.split([len(part) for part in parts]), strict=True):
        # With memory of its own, or each would be saved with the whole buffer.
        copies[i] = _unflat(part.view(tensors[i].dtype), tensors[i]).clone()
    return [copies[i] for i in range(len(tensors))]


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _flat(tensor: Tensor) -> Tensor:
    """Returns the values in the order of the memory, ``[number of values]``."""
    return (tensor.permute(0, 2, 3, 1) if _is_channels_last(tensor) else tensor).reshape(-1)


def _unflat(values: Tensor, like: Tensor) -> Tensor:
    """Returns what `_flat` made these values of."""
    if not _is_channels_last(like):
        return values.view(like.shape)
    n, c, h, w = like.shape
    return values.view(n, h, w, c).permute(0, 3, 1, 2)


def _tensors_in(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors_in(part)


def _copy_with(content: Any, copies: dict[int, Tensor]) -> Any:
    """Returns the content with copies in the place of its tensors, by their identity."""
    if isinstance(content, Tensor):
        return copies[id(content)]
    if isinstance(content, dict):
        copied = copy.copy(content)  # of the same kind, with a state_dict's metadata
        copied.update({key: _copy_with(value, copies) for key, value in content.items()})
        return copied
    if isinstance(content, (list, tuple)):
        return type(content)(_copy_with(part, copies) for part in content)
    return content


def load(path: Path) -> dict:
    """Returns a checkpoint, of this program, of the released code or of another one, on the CPU.

    A file of bare weights is read as a checkpoint with nothing else in it; the weights may also lie
    under another key than `state_dict`, and have names with the prefixes of wrappers (`module.` of
    data-parallel training, `_orig_mod.` of a compiled network), which are taken off. Numbers of
    NumPy become plain ones.

    Raises:
        UserError: the file is missing, damaged, holds anything but plain data, or no weights.
    """
    content = _read(path)
    checkpoint = dict(content) if isinstance(content, dict) else {}
    weights = _weights_in(content)
    if weights is None:
        found = f" (it has {_some([str(key) for key in checkpoint])})" if checkpoint else ""
        raise UserError(f"{path}: no 'state_dict' of weights in this file{found}")
    if weights is content:
        checkpoint = {}
    counts = checkpoint.get("class_counts")
    if counts is not None and not (
        isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    ):
        raise UserError(f"{path}: its class_counts are no list of whole numbers")
    return _with_plain_numbers(checkpoint) | {"state_dict": _without_wrappers(weights)}


def _read(path: Path) -> object:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path}: damaged checkpoint (checksum of {damaged})")
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS_OF_NUMPY):
            warnings.simplefilter("ignore")  # the one line of an error says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a checkpoint") from None
    except Exception as error:  # whatever the bytes made of the reader
        raise UserError(f"{path}: not a readable checkpoint ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Why torch could not read a file, in one line and without its advice."""
    text = ESCAPE_CODE.sub("", str(error)).strip()
    if refused := REFUSED.search(text):
        name = refused.group(1)
        return f"it holds a Python object, {name}, and not only weights: reading it could run code"
    if "Weights only load failed" in text or not text:
        return "not a file that torch.save wrote, or one that is cut off"
    return text.split("\n")[0][:200]


def _weights_in(content: object) -> dict | None:
    """The first dictionary of dense tensors: under `state_dict`, else the whole, else under any
    other key."""
    if not isinstance(content, dict):
        return None
    if "state_dict" in content:
        candidates = [content["state_dict"]]
    else:
        candidates = [content, *content.values()]
    for candidate in candidates:
        is_empty = isinstance(candidate, dict) and not candidate and "state_dict" in content
        if is_empty or (
            isinstance(candidate, dict) and candidate and all(map(_is_plain, candidate.values()))
        ):
            return candidate
    return None


def _without_wrappers(weights: dict) -> dict[str, Tensor]:
    """The weights without the prefixes of wrappers that all their names have."""
    named = {str(name): weight for name, weight in weights.items()}
    while named:
        first = next(iter(named)).partition(".")[0]
        prefix = f"{first}."
        if first not in WRAPPERS or not all(name.startswith(prefix) for name in named):
            break
        named = {name.removeprefix(prefix): weight for name, weight in named.items()}
    return named


def _with_plain_numbers(content: Any) -> Any:
    """The same with Python's numbers in the place of NumPy's."""
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, dict):
        return {key: _with_plain_numbers(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_with_plain_numbers(value) for value in content)
    return content


def _is_plain(weight: object) -> bool:
    """Whether it is a dense tensor with its values in memory."""
    is_tensor = isinstance(weight, Tensor)
    return is_tensor and weight.layout == torch.strided and weight.device.type == "cpu"


def build_from(
    checkpoint: dict, path: Path, arch: str, num_classes: int, head: str | None = None
) -> nn.Module:
    """The network of a checkpoint, with a head of the checkpoint's kind: linear, or a cosine head,
    which has no bias and scales by 30.

    Raises:
        UserError: another architecture, number of classes or kind of head (if one is asked for), or
            weights that are not finite.
    """
    weights = checkpoint["state_dict"]
    if checkpoint.get("arch", arch) != arch:
        raise UserError(f"{path}: a checkpoint of {checkpoint['arch']}, not of --arch {arch}")
    weight = weights.get("linear.weight")
    if weight is None or weight.ndim != 2:
        raise UserError(
            f"{path}: no linear.weight among the weights, which are {_some(list(weights))}; "
            "--backbone starts from weights with another classifier"
        )
    is_normed = "linear.bias" not in weights
    kind = "cosine" if is_normed else "linear"
    if head not in (None, kind):
        raise UserError(f"{path}: a checkpoint with a {kind} head, not --head {head}")
    classes = weight.shape[1] if is_normed else weight.shape[0]
    if classes != num_classes:
        raise UserError(f"{path}: a checkpoint of {classes} classes, the data have {num_classes}")
    model = build_model(arch, num_classes, head_scale=COSINE_SCALE if is_normed else None)
    load_weights(model, weights, path)
    return model


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Loads weights of the same names and shapes.

    Raises:
        UserError: other names or shapes, or weights that are not finite.
    """
    expected = model.state_dict()
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    if missing or unknown:
        raise UserError(
            f"{path}: weights of another network: {len(missing)} missing ({_some(missing)}), "
            f"{len(unknown)} unknown ({_some(unknown)})"
        )
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} has shape {list(weight.shape)}, not {list(expected[name].shape)}"
            )
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: {name} is not finite")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"
