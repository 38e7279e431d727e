"""The smallest batch that a network's batch-norm can train on."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def values_per_channel(model: nn.Module, side: int) -> int:
    """Returns the smallest number of values per channel that any batch-norm layer gets for one
    image; 2 if the network has no batch-norm.

    Args:
        model: the network.
        side: width and height of the image in pixels.
    """
    found: list[int] = []

    def look(module: nn.Module, inputs: tuple) -> None:
        found.append(inputs[0][0, 0].numel())

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    was_training = model.training
    model.eval()  # keeps the running statistics
    try:
        image = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)
        model(image.contiguous(memory_format=torch.channels_last))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return min(found, default=2)


def smallest_batch(model: nn.Module, side: int, parts: int) -> int:
    """Returns the smallest number of images that a training batch may have.

    If a network shrinks an image to one value per channel, a single image has no variance, and
    batch-norm refuses it. Then each part of the batch needs two images. Otherwise one image is
    enough for the whole batch.

    Args:
        model: the network.
        side: width and height of the images in pixels.
        parts: the number of parts of a batch that are normalised each by itself.
    """
    return 2 * parts if values_per_channel(model, side) == 1 else 1
