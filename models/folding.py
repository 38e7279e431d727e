"""Inference without batch-norm: its affine map becomes part of the convolution before it."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy for inference, in eval mode, that computes the same with fewer operations; the model
    itself where it is such a copy.

    Batch-norm with running mean m and variance v maps y = W * x to γ (y − m) / √(v + ϵ) + β, which
    is a convolution with the weights γ W / √(v + ϵ) and the bias β − γ m / √(v + ϵ). It is taken to
    follow the convolution that was registered right before it in the same module, as in every
    ResNet here.
    """
    if not (model.training or any(isinstance(m, _BatchNorm) for m in model.modules())):
        return model
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return folded
