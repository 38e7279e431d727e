"""The folded network of a model is made once, and then refilled in place."""

import copy
import gc
import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models import build_model
from models.folding import fold_batch_norm
from models.layers import LayerFeatures
from tests.support.helpers import noise
from tests.support.stages import OperationLog


def network(arch="resnet20", seed=0):
    """Gives a network with weights, statistics and memory layout as after training."""
    torch.manual_seed(seed)
    model = build_model(arch, 5).to(memory_format=torch.channels_last)
    disturb(model)
    return model


@torch.no_grad()
def disturb(model):
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))


def fused(model):
    """Returns a copy of the model that torch folds layer after layer."""
    network = copy.deepcopy(model).eval()
    for module in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return network


def assert_same_bits(a, b):
    for (name, x), (other, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other and x.stride() == y.stride() and torch.equal(x, y), name


@pytest.mark.parametrize("arch", ["resnet20", "resnet10"])
def test_filling_gives_the_bits_of_torchs_folding_in_the_same_memory(arch):
    model = network(arch)
    folded = fold_batch_norm(model)
    assert_same_bits(folded, fused(model))
    where = [tensor.data_ptr() for tensor in folded.state_dict().values()]
    for _ in range(2):
        disturb(model)
        assert fold_batch_norm(model) is folded
        assert [tensor.data_ptr() for tensor in folded.state_dict().values()] == where
        assert_same_bits(folded, fused(model))


def test_convolutions_with_a_bias_keep_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    folded = fold_batch_norm(model)
    disturb(model)
    fold_batch_norm(model)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(folded(images), model(images))
    assert_same_bits(folded, fused(model))


def test_refilling_takes_a_few_operations_on_all_layers_at_once():
    model = network("resnet32")
    fold_batch_norm(model)
    with OperationLog() as log:
        fold_batch_norm(model)
    assert log.counts.total() <= 12, log.counts


@pytest.mark.parametrize("arch", ["resnet20", "resnet10"])
def test_weights_cast_once_give_the_bits_of_autocast_and_no_casts_of_weights(arch):
    torch.manual_seed(0)
    model, images = build_model(arch, 5), noise(2, 8) / 255
    found, casts = [], []
    for dtype in (None, torch.bfloat16):
        for _ in range(2):  # a new copy, and a refilled one
            folded = fold_batch_norm(model, dtype)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), OperationLog() as log:
                found.append(folded(images))
        casts.append(log.counts["_to_copy.default"])
    assert found[0][1].isfinite().all()
    for features, logits in found[1:]:
        assert torch.equal(features, found[0][0]) and torch.equal(logits, found[0][1])
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in folded.modules())
    assert casts[0] - casts[1] == 2 * convolutions  # weights and biases
    assert folded.linear.weight.dtype == torch.float32
    assert fold_batch_norm(model).conv1.weight.dtype == torch.float32


def test_a_changed_network_gets_a_copy_of_its_own():
    model = network()
    folded = fold_batch_norm(model)
    model.linear = nn.Linear(64, 7)
    other = fold_batch_norm(model)
    assert other is not folded and other.linear.out_features == 7
    model.double()
    assert fold_batch_norm(model).conv1.weight.dtype == torch.float64


def test_representations_at_layers_have_a_copy_of_their_own_and_copies_end_with_their_model():
    model = network()
    layers = LayerFeatures(model, ["layer2", "layer3"])
    folded, of_layers = fold_batch_norm(model), fold_batch_norm(layers)
    disturb(model)
    assert fold_batch_norm(layers) is of_layers is not folded
    assert_same_bits(of_layers, fold_batch_norm(copy.deepcopy(layers)))
    reference = weakref.ref(folded)
    del model, layers, folded, of_layers
    gc.collect()
    assert reference() is None
