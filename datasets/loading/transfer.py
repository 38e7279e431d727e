"""Copies from the host to the device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a CPU tensor's copy on the device. The tensor is pinned first, so that the copy joins
    the device's queue; a copy from other memory would wait until the device has finished."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
