"""How small a batch may be for a network's batch-norm."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def values_per_channel(model: nn.Module, height: int, width: int) -> int:
    """Returns the smallest number of values that a channel has in front of any batch-norm, for one
    image of this size."""
    found: list[int] = []

    def look(module: nn.Module, inputs: tuple) -> None:
        found.append(inputs[0][0, 0].numel())

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    was_training = model.training
    model.eval()  # so that no running statistics move
    try:
        image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
        model(image.contiguous(memory_format=torch.channels_last))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return min(found, default=2)


def smallest_batch(model: nn.Module, height: int, width: int, parts: int) -> int:
    """Returns how many images a batch needs at least, to be normalised in so many parts.

    Where a network has shrunk an image to one value per channel, a single image has no variance,
    and batch-norm refuses it in training. Every part then needs two images. Everywhere else one
    image is enough for the whole batch.
    """
    return 2 * parts if values_per_channel(model, height, width) == 1 else 1
