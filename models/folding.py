"""Inference without batch-norm: its affine map becomes part of the convolution before it."""

import copy
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_torch: Any = torch
"""torch's functions on lists of tensors have no public types."""


def fold_batch_norm(model: nn.Module, conv_dtype: torch.dtype | None = None) -> nn.Module:
    """Returns a copy for inference, in eval mode, that computes the same with fewer operations. If
    the model is such a copy, returns the model.

    Batch-norm with running mean m and variance v maps y = W * x to γ (y − m) / √(v + ϵ) + β. This
    equals a convolution with the weights γ W / √(v + ϵ) and the bias β − γ m / √(v + ϵ). Batch-norm
    is assumed to follow the convolution that was registered right before it in the same module, as
    in every ResNet here.

    A model has one copy. Each call updates it in place to the model's current weights, so the
    result of an earlier call changes too.

    Args:
        model: the network.
        conv_dtype: type of the convolutions' weights, or None for that of the model. The type of
            autocast gives the same results: autocast would cast the weights in each pass.
    """
    if not (model.training or any(isinstance(m, _BatchNorm) for m in model.modules())):
        return model
    kind, folding = _kind(model, conv_dtype), _FOLDINGS.get(model)
    if folding is None or folding.kind != kind:
        folding = _FOLDINGS[model] = _Folding(model, conv_dtype, kind)
    folding.fill(model)
    return folding.network


class _Folding:
    """The copy of a model, and the pairs of a convolution and the batch-norm that it took over.
    The copy's weights are those of the model after `fill`."""

    def __init__(self, model: nn.Module, conv_dtype: torch.dtype | None, kind: list[tuple]) -> None:
        self.kind = kind
        self.network = copy.deepcopy(model).eval()
        self.pairs: list[tuple[str, str]] = []
        for prefix, module in list(self.network.named_modules()):
            for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
                    conv.bias = nn.Parameter(torch.zeros_like(norm.bias), requires_grad=False)
                    setattr(module, norm_name, nn.Identity())
                    start = f"{prefix}." if prefix else ""
                    self.pairs.append((start + conv_name, start + norm_name))
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                module.to(conv_dtype)

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Computes the weights, in place, by a few operations on all layers at once. The order of
        operations is that of torch's `fuse_conv_bn_eval`, for the same bits."""
        layers: dict[str, Any] = dict(model.named_modules())
        folded: dict[str, Any] = dict(self.network.named_modules())
        convs = [layers[conv] for conv, _ in self.pairs]
        norms = [layers[norm] for _, norm in self.pairs]
        targets = [folded[conv] for conv, _ in self.pairs]
        gammas, betas = [norm.weight for norm in norms], [norm.bias for norm in norms]
        if norms:
            factors = _torch._foreach_add([n.running_var for n in norms], [n.eps for n in norms])
            _torch._foreach_rsqrt_(factors)
            shifts = _torch._foreach_neg([norm.running_mean for norm in norms])
            biased = [i for i, conv in enumerate(convs) if conv.bias is not None]
            if biased:
                biases = [convs[i].bias for i in biased]
                _torch._foreach_add_([shifts[i] for i in biased], biases)
            _torch._foreach_mul_(shifts, factors)
            _torch._foreach_mul_(shifts, gammas)
            _torch._foreach_add_(shifts, betas)
            _torch._foreach_copy_([target.bias for target in targets], shifts)
            scales = _torch._foreach_mul(gammas, factors)
            scales = [scale.view(-1, 1, 1, 1) for scale in scales]
            weights = _torch._foreach_mul([conv.weight for conv in convs], scales)
            _torch._foreach_copy_([target.weight for target in targets], weights)
        held = {f"{conv}." for conv, _ in self.pairs}
        rest = {
            name: tensor
            for name, tensor in self.network.state_dict().items()
            if not name.startswith(tuple(held))
        }
        if rest:
            sources = model.state_dict()
            _torch._foreach_copy_(list(rest.values()), [sources[name] for name in rest])


def _kind(model: nn.Module, conv_dtype: torch.dtype | None) -> list[tuple]:
    """Returns what a copy depends on beside the values: the type of its convolutions, the layers,
    and shape, type and device of their tensors."""
    layers = [(name, type(layer)) for name, layer in model.named_modules()]
    tensors: list[tuple[str, Tensor]] = list(model.state_dict().items())
    return [(conv_dtype,), *layers, *((name, t.shape, t.dtype, t.device) for name, t in tensors)]


_FOLDINGS: WeakKeyDictionary[nn.Module, _Folding] = WeakKeyDictionary()
