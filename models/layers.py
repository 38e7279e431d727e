"""The pooled outputs of several layers of a network, from one forward pass."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class LayerFeatures(nn.Module):
    """A network whose features are the pooled outputs of some of its layers, side by side.

    Args:
        model: returns ``(features, logits)``.
        layers: names of sub-modules with outputs ``[B, C, H, W]``, such as `layer2`.

    `forward(images)` returns features ``[B, C_1 + C_2 + ...]`` (float32) and the model's logits
    ``[B, K]``. `columns` has the columns of each layer, by its name.

    Raises:
        ValueError: the model has no layer with one of the names.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        children = dict(model.named_children())
        unknown = [name for name in layers if name not in children]
        if unknown:
            known = ", ".join(name for name in children if name.startswith("layer"))
            raise ValueError(f"the network has no {', '.join(unknown)} (it has {known})")
        self.model = model
        self.columns: dict[str, slice] = {}
        start = 0
        for name in layers:
            norms = [m for m in children[name].modules() if isinstance(m, _BatchNorm)]
            self.columns[name] = slice(start, start := start + norms[-1].num_features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled: dict[str, Tensor] = {}
        # Hooks that stay would keep the outputs of every later pass.
        hooks = [
            self.model.get_submodule(name).register_forward_hook(partial(_pool, pooled, name))
            for name in self.columns
        ]
        try:
            _, logits = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([pooled[name] for name in self.columns], dim=1), logits

    def features(self, images: Tensor) -> Tensor:
        return self.forward(images)[0]


def _pool(
    pooled: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple, output: Tensor
) -> None:
    pooled[name] = output.mean(dim=(2, 3), dtype=torch.float32)
