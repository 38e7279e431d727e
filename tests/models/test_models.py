"""Networks against the released code's golden vectors, and their heads."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from models import ARCHITECTURES, NormedLinear, build_model, resnet20, resnet32
from models.folding import fold_batch_norm
from models.resnet_cifar import BasicBlock
from utils.machine.device import has_native_bf16
from utils.options import flags

BLOCKS = {
    "resnet8": 1,
    "resnet20": 3,
    "resnet32": 5,
    "resnet44": 7,
    "resnet56": 9,
    "resnet110": 18,
    "resnet1202": 200,
}


def golden_model(arrays, num_classes, device):
    model = resnet32(num_classes)
    prefix = "state/"
    state = {
        key.removeprefix(prefix): torch.tensor(array)
        for key, array in arrays.items()
        if key.startswith(prefix)
    }
    model.load_state_dict(state)
    return model.to(device)


# arch -> blocks of the four groups, width of the features.
IMAGENET = {
    "resnet10": ([1, 1, 1, 1], 512),
    "resnet18": ([2, 2, 2, 2], 512),
    "resnet34": ([3, 4, 6, 3], 512),
    "resnet50": ([3, 4, 6, 3], 2048),
    "resnext50": ([3, 4, 6, 3], 2048),
}
# Networks of other families: arch -> side of the images, width of the features.
OTHERS: dict[str, tuple[int, int]] = {}


def random_images(size=4, side=32):
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("num_classes", "memory_format"),
    [
        (10, torch.contiguous_format),
        (10, torch.channels_last),  # as in training
        (100, torch.contiguous_format),
    ],
    ids=str,
)
def test_features_and_logits_equal_the_golden_vectors(golden, num_classes, memory_format, device):
    arrays = golden(f"resnet32_c{num_classes}")
    model = golden_model(arrays, num_classes, device).to(memory_format=memory_format)
    images = torch.tensor(arrays["images"], device=device).to(memory_format=memory_format)
    # Eval mode first: a pass in train mode moves the running statistics.
    for mode in ("eval", "train"):
        with torch.no_grad():
            features, logits = model.train(mode == "train")(images)
        for result, name in ((features, "feats"), (logits, "logits")):
            expected = torch.tensor(arrays[f"{mode}_{name}"])
            assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        expected = torch.tensor(arrays[f"after_train_bn1_{name}"])
        assert_close(getattr(model.bn1, name).cpu(), expected, rtol=1e-4, atol=1e-6)


def test_resnet32_has_464154_parameters_at_10_classes():
    assert sum(parameter.numel() for parameter in resnet32(10).parameters()) == 464_154


@pytest.mark.parametrize("arch", BLOCKS)
def test_every_architecture_has_the_parameters_and_shapes_of_its_depth(arch):
    """On the meta device, which has shapes but no numbers."""
    blocks = BLOCKS[arch]
    assert arch == f"resnet{6 * blocks + 2}"
    with torch.device("meta"):
        model = build_model(arch, 7)
        if blocks < 100:  # with 600 blocks it takes seconds and shows nothing more
            # Not by `model(...)`, since autocast does not know this device.
            features = model.features(torch.empty(2, 3, 32, 32))
            assert features.shape == (2, 64) and model.linear(features).shape == (2, 7)
    # Weights of the 3x3 convolutions and a scale and a shift per channel behind each.
    convolutions = [(3, 16), *[(16, 16)] * (2 * blocks)]
    for before, after in ((16, 32), (32, 64)):
        convolutions += [(before, after), *[(after, after)] * (2 * blocks - 1)]
    expected = sum(9 * before * after + 2 * after for before, after in convolutions) + 64 * 7 + 7
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_every_architecture_is_listed():
    assert ARCHITECTURES.keys() == {*BLOCKS, *IMAGENET, *OTHERS} == {*flags.ARCHITECTURES}


@pytest.mark.parametrize(
    ("arch", "side", "width"),
    [("resnet8", 32, 64), ("resnet10", 64, 512), *[(name, *of) for name, of in OTHERS.items()]],
)
def test_a_network_has_features_of_its_width_and_either_head(arch, side, width):
    for head_scale in (None, 30.0):
        with torch.device("meta"):
            model = build_model(arch, 7, head_scale)
            features = model.features(torch.empty(2, 3, side, side))
            assert features.shape == (2, width) and model.num_features == width
            assert model.linear(features).shape == (2, 7)
        assert isinstance(model.linear, NormedLinear) == (head_scale is not None)


@pytest.mark.parametrize("arch", IMAGENET)
def test_the_networks_for_large_images_have_the_blocks_and_widths_of_their_names(arch):
    blocks, width = IMAGENET[arch]
    model = build_model(arch, 7).eval()
    images = random_images(2, side=64)
    features, logits = model(images)
    groups = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert [len(group) for group in groups] == blocks
    assert (features.shape, logits.shape) == ((2, width), (2, 7))
    assert model.num_features == width and not hasattr(model, "fc")
    assert torch.equal(model.classify(features), logits)
    assert torch.equal(model.features(images), features)


@pytest.mark.parametrize("arch", ["resnet10", "resnet50"])
def test_features_and_head_of_the_networks_for_large_images_are_float32_under_autocast(arch):
    model = build_model(arch, 3)
    seen = []
    model.layer4.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = model(random_images(2, side=64))
    assert seen == [torch.bfloat16]
    assert features.dtype == logits.dtype == torch.float32


def test_resnet10_takes_a_cosine_head():
    model = build_model("resnet10", 3, head_scale=30.0)
    features = torch.randn(4, 512)
    cosines = F.normalize(features) @ F.normalize(model.linear.weight, dim=0)
    assert_close(model.classify(features), 30 * cosines)


@pytest.mark.parametrize("side", [32, 28, 8])
def test_a_forward_pass_gives_features_and_logits_in_float32(side, device):
    model = resnet20(5).to(device)
    features, logits = model(random_images(3, side).to(device))
    assert features.shape == (3, 64) and logits.shape == (3, 5)
    assert features.dtype == logits.dtype == torch.float32
    assert (features >= 0).all()  # an average of rectified values
    assert_close(logits, model.linear(features))


def expected_state_names(blocks):
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {
        "conv1.weight",
        "linear.weight",
        "linear.bias",
        *(f"bn1.{part}" for part in batch_norm),
    }
    for group in (1, 2, 3):
        for block in range(blocks):
            for k in (1, 2):
                prefix = f"layer{group}.{block}."
                names.add(f"{prefix}conv{k}.weight")
                names.update(f"{prefix}bn{k}.{part}" for part in batch_norm)
    return names


def test_state_dict_has_the_released_names_and_shapes():
    state = resnet32(10).state_dict()
    assert set(state) == expected_state_names(5)
    assert state["linear.weight"].shape == (10, 64) and state["linear.bias"].shape == (10,)


def test_state_dict_of_a_cosine_head_is_that_of_ldam():
    state = build_model("resnet32", 10, head_scale=1.0).state_dict()
    assert set(state) == expected_state_names(5) - {"linear.bias"}
    assert state["linear.weight"].shape == (64, 10)


def test_shortcuts_are_every_second_pixel_between_zero_channels(device):
    block = BasicBlock(16, 32, stride=2).to(device).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].count_nonzero() == 0 and y[:, 24:].count_nonzero() == 0
    assert sum(p.numel() for p in block.parameters()) == 9 * 32 * (16 + 32) + 4 * 32


def test_a_block_of_equal_shape_has_the_identity_as_shortcut(device):
    block = BasicBlock(16, 16, stride=1).to(device).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(block(x), before)
    assert torch.equal(x, before)


def test_weights_are_kaiming_normal():
    torch.manual_seed(0)
    model = resnet32(100)
    kurtoses = []
    for name, fan_in in (("layer3.4.conv2", 9 * 64), ("layer2.1.conv1", 9 * 32), ("linear", 64)):
        weight = model.get_submodule(name).weight.detach().flatten()
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.04)
        kurtoses.append(((weight / weight.std()) ** 4).mean().item())
    assert kurtoses == pytest.approx([3, 3, 3], abs=0.3)  # 1.8 were they uniform


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_cosine_head_gives_scaled_cosines(scale, device):
    torch.manual_seed(0)
    head = NormedLinear(64, 10, scale).to(device)
    with torch.no_grad():
        head.weight *= torch.arange(1.0, 11.0, device=device)  # lengths must not matter
    features = 5 * torch.randn(6, 64)
    f, w = features.double().numpy(), head.weight.detach().cpu().double().numpy()
    cosines = f @ w / np.outer(np.linalg.norm(f, axis=1), np.linalg.norm(w, axis=0))
    logits = head(features.to(device)).detach().cpu()
    assert_close(logits, torch.tensor(scale * cosines).float(), rtol=1e-5, atol=1e-6 * scale)


def test_a_cosine_head_starts_with_directions_of_length_one():
    directions = NormedLinear(64, 100).weight.detach()
    assert_close(directions.norm(dim=0), torch.ones(100))
    assert directions.mean(dim=1).norm() < 0.3  # about 0.1; 0.9 if all lay in one orthant


def test_a_cosine_head_gives_zero_for_features_of_zero():
    assert NormedLinear(64, 10)(torch.zeros(2, 64)).count_nonzero() == 0


def test_build_model_chooses_the_head():
    assert type(build_model("resnet20", 10).linear) is nn.Linear
    head = build_model("resnet20", 10, head_scale=30.0).linear
    assert type(head) is NormedLinear and head.scale == 30.0


@pytest.mark.parametrize("head_scale", [None, 30.0], ids=["linear head", "cosine head"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_features_and_logits_are_float32_under_bf16_autocast(mode, head_scale, device):
    if device.type == "cuda" and not has_native_bf16(device):
        pytest.skip("cuDNN has no bfloat16 convolutions for this GPU")
    model = build_model("resnet20", 5, head_scale).to(device).train(mode == "train")
    with torch.autocast(device.type, torch.bfloat16):
        features, logits = model(random_images().to(device))
    assert features.dtype == logits.dtype == torch.float32
    # Pooled and classified in float32: not every number has bfloat16's eight bits.
    assert not torch.equal(features, features.bfloat16().float())
    assert_close(logits, model.linear(features), rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["resnet20", "resnet10", "resnet50"])
def test_folding_leaves_no_batch_norm_and_the_same_features(arch):
    torch.manual_seed(0)
    model = build_model(arch, 7).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                tensor.data.normal_()
            module.running_var.uniform_(0.5, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    folded = fold_batch_norm(model)
    assert model.training and not folded.training
    assert fold_batch_norm(folded) is folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval().features(images)
        scale = expected.abs().max()
        # The pooled features are float32, whatever the network computes in.
        assert (folded.features(images) - expected).abs().max() < 1e-6 * scale


def test_folding_takes_a_batch_norm_with_the_convolution_before_it_alone():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
    kinds = [type(module) for module in fold_batch_norm(model)]
    assert kinds == [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
