"""Checkpoints: written whole, read without running anything in them."""

import copy
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import COSINE_SCALE, build_model
from utils.errors import UserError
from utils.files import atomic_write


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
    """A checkpoint, of this program or of the released code, on the CPU.

    A `module.` prefix (from data-parallel training) is taken off the names of the weights.

    Raises:
        UserError: the file is missing, damaged, holds anything but plain data, or no weights.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path}: damaged checkpoint (checksum of {damaged})")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the one line of an error says it all
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except Exception as error:  # whatever the bytes made of the reader
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(map(_is_plain, weights.values())):
        raise UserError(f"{path}: no 'state_dict' of weights in this file")
    counts = checkpoint.get("class_counts")
    if counts is not None and not (
        isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    ):
        raise UserError(f"{path}: its class_counts are no list of whole numbers")
    checkpoint["state_dict"] = {
        str(name).removeprefix("module."): weight for name, weight in weights.items()
    }
    return checkpoint


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
        raise UserError(f"{path}: no linear.weight among the weights")
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
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "none"
