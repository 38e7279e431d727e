"""Whether another program computes what a network does, up to the rounding of float32."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from utils.predict.network import NormalisedNetwork

FACTOR = 4
"""Sums in another order have other rounding errors, but of one size. Over eight batches, the
largest error of ONNX Runtime was at most 1.2 times that of torch."""

SMALLEST = 1e-6
"""What the networks of the tests may always be off by: a few roundings of numbers near 1."""


def assert_as_accurate(outputs: Sequence, network: NormalisedNetwork, images: Tensor) -> None:
    """Asserts that `outputs`, another program's features and logits of the images, are about as
    near to those of the network in float64 as the network itself is in float32.

    A fixed tolerance would not do: each layer adds rounding errors, and how large they are depends
    on the network, on its weights and on the machine.

    Args:
        outputs: what the other program made of the images.
        network: the network in float32.
        images: float images ``[B, 3, S, S]`` in [0, 1].
    """
    with torch.no_grad():
        own, true = network(images), in_float64(network)(images.double())
    for found, plain, wanted in zip(outputs, own, true, strict=True):
        found = torch.as_tensor(found)
        assert found.dtype == plain.dtype and found.shape == wanted.shape
        allowed = FACTOR * float((plain - wanted).abs().max()) + SMALLEST
        error = float((found - wanted).abs().max())
        assert error <= allowed, f"{error:.2g} from float64, of {allowed:.2g} allowed"


def in_float64(network: NormalisedNetwork) -> NormalisedNetwork:
    """Returns the network with normalisation, convolutions and batch-norm in float64. Its features
    and its classifier are float32, as always."""
    exact = copy.deepcopy(network).double()
    exact.network.linear.float()
    return exact
