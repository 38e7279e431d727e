"""Copies of checkpoints in the host's memory, which training no longer changes."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def on_host(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy in the host's memory that shares no tensor and no container with the original.

    Tensors on a device are copied in one buffer, because each of hundreds of small copies would
    wait for the device.
    """
    tensors = list({id(tensor): tensor for tensor in _tensors_in(checkpoint)}.values())
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    there = [tensor for tensor in tensors if tensor.device.type != "cpu"]
    copies = [tensor.detach().clone() for tensor in here] + through_one_buffer(there)
    # `deepcopy` takes a copy that it finds by the id of the original.
    return copy.deepcopy(checkpoint, dict(zip(map(id, here + there), copies, strict=True)))


def through_one_buffer(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns copies of the tensors in the host's memory, with only one copy from the device. All
    tensors must be on one device; their memory layouts (contiguous or channels-last) are kept."""
    if not tensors:
        return []
    # The largest elements first, so that each part begins at a multiple of its elements' size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    parts = [_flat(tensors[i].detach()).view(torch.uint8) for i in order]
    buffer = torch.cat(parts).cpu()
    copies: dict[int, Tensor] = {}
    for i, part in zip(order, buffer.split([len(part) for part in parts]), strict=True):
        # Each needs its own memory; otherwise it would be saved with the whole buffer.
        copies[i] = _unflat(part.view(tensors[i].dtype), tensors[i]).clone()
    return [copies[i] for i in range(len(tensors))]


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _flat(tensor: Tensor) -> Tensor:
    """Returns the values in the order of the memory, as a vector."""
    return (tensor.permute(0, 2, 3, 1) if _is_channels_last(tensor) else tensor).reshape(-1)


def _unflat(values: Tensor, like: Tensor) -> Tensor:
    """Returns the tensor of which `_flat` made these values; `like` has its shape and layout."""
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
