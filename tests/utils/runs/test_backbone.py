"""Public weights as the start of a network."""

import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from models import build_model, resnet20
from tests.support.bad_input.checkpoints import Hostile
from utils.errors import UserError
from utils.runs.backbone import load_backbone


def saved(content, path):
    torch.save(content, path)
    return path


def random_weights(arch="resnet20", num_classes=7, seed=5):
    torch.manual_seed(seed)
    model = build_model(arch, num_classes)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return model.state_dict()


def with_prefix(prefix, weights):
    return {prefix + name: w for name, w in weights.items()}


def assert_taken(model, weights):
    own = model.state_dict()
    for name, tensor in weights.items():
        if not name.startswith("linear."):
            assert torch.equal(own[name], tensor), name


@pytest.mark.parametrize(
    ("arch", "theirs"),
    [
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("resnet50", "resnet50"),
        ("resnext50", "resnext50_32x4d"),
    ],
)
def test_torchvisions_weights_give_torchvisions_features(arch, theirs, tmp_path):
    torch.manual_seed(0)
    source = getattr(torchvision.models, theirs)(weights=None)
    source.train()(torch.randn(4, 3, 64, 64))  # so that running statistics are not trivial
    path = saved(source.state_dict(), tmp_path / "weights.pth")
    model = build_model(arch, 3)
    head = {name: w.clone() for name, w in model.linear.state_dict().items()}

    loaded = load_backbone(model, path)

    source.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(model.eval().features(images), source.eval()(images), rtol=0, atol=1e-5)
    assert loaded.left == ["fc.weight", "fc.bias"]
    assert len(loaded.taken) == len(model.state_dict()) - 2
    assert all(torch.equal(w, head[name]) for name, w in model.linear.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.model."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_wrappers_and_checkpoints_around_the_weights_are_understood(prefix, key, tmp_path):
    weights = random_weights()
    named = with_prefix(prefix, weights)
    content = named if key is None else {"epoch": 3, "arch": "resnet20", key: named}
    model = resnet20(10)
    loaded = load_backbone(model, saved(content, tmp_path / "weights.pth"))
    assert_taken(model, weights)
    assert loaded.left == [f"{prefix}linear.weight", f"{prefix}linear.bias"]


@pytest.mark.parametrize("head", ["fc", "head.fc", "classifier.0"])
def test_a_classifier_by_any_usual_name_is_left(head, tmp_path):
    weights = {n.replace("linear.", f"{head}."): w for n, w in random_weights().items()}
    loaded = load_backbone(resnet20(10), saved(weights, tmp_path / "weights.pth"))
    assert loaded.left == [f"{head}.weight", f"{head}.bias"]


def test_a_cosine_head_keeps_its_own_weights(tmp_path):
    model = build_model("resnet20", 4, head_scale=30.0)
    before = model.linear.weight.detach().clone()
    load_backbone(model, saved(random_weights(), tmp_path / "weights.pth"))
    assert torch.equal(model.linear.weight, before)


def test_parts_of_the_file_outside_the_network_are_left(tmp_path):
    projection = {"projection.0.weight": torch.ones(2, 2)}
    content = with_prefix("encoder.", random_weights()) | projection
    loaded = load_backbone(resnet20(10), saved(content, tmp_path / "weights.pth"))
    assert "projection.0.weight" in loaded.left and len(loaded.left) == 3


def test_half_precision_and_missing_counters_are_no_obstacle(tmp_path):
    weights = {
        name: w.half() if w.is_floating_point() else w
        for name, w in random_weights().items()
        if not name.endswith("num_batches_tracked")
    }
    model = resnet20(10)
    load_backbone(model, saved(weights, tmp_path / "weights.pth"))
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight.half(), weights["conv1.weight"])


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = random_weights()
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(weights, path)
    model = resnet20(10)
    load_backbone(model, path)
    assert_taken(model, weights)


def test_without_the_package_a_safetensors_file_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"weights.safetensors needs the package safetensors"):
        load_backbone(resnet20(10), path)


def test_the_line_says_what_was_taken_and_what_left(tmp_path):
    loaded = load_backbone(resnet20(10), saved(random_weights(), tmp_path / "weights.pth"))
    assert str(loaded) == (
        f"took {len(loaded.taken)} tensors (conv1.weight to layer3.2.bn2.num_batches_tracked), "
        "left 2 (linear.weight, linear.bias)"
    )


def shallower(weights):
    return {n: w for n, w in weights.items() if not n.startswith("layer3.2.")}


def deeper(weights):
    return weights | {"layer3.3.conv1.weight": torch.ones(64, 64, 3, 3)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (shallower, "tensors are missing (layer3.2.conv1.weight"),
        (deeper, "1 tensors that this network lacks (layer3.3.conv1.weight)"),
        (lambda w: w | {"bn1.weight": torch.ones(17)}, "bn1.weight has shape [17], not [16]"),
        (lambda w: w | {"bn1.weight": torch.full((16,), torch.nan)}, "bn1.weight is not finite"),
        (lambda w: w | {"bn1.bias": torch.ones(16, dtype=torch.int64)}, "type torch.int64"),
        (lambda w: with_prefix("a.", w) | with_prefix("b.", w), "several networks in one file"),
        (lambda w: {"epoch": 3}, "no 'state_dict' of weights"),
        (lambda w: [1, 2], "no 'state_dict' of weights"),
        (lambda w: {"only": torch.ones(2)}, "the file has only"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_the_network_unchanged(change, says, tmp_path):
    model = resnet20(10)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    path = saved(change(random_weights()), tmp_path / "weights.pth")
    with pytest.raises(UserError) as refused:
        load_backbone(model, path)
    assert says in str(refused.value) and str(path) in str(refused.value)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_file_of_weights_is_refused(name, tmp_path):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    with pytest.raises(UserError, match="no such file"):
        load_backbone(resnet20(10), path)
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="not a readable"):
        load_backbone(resnet20(10), path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights_beyond_memory_are_not_called_unreadable(name, tmp_path, monkeypatch):
    def allocate(*_, **__):
        raise MemoryError

    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors.torch")
        monkeypatch.setattr("safetensors.torch.load_file", allocate)
    monkeypatch.setattr(torch, "load", allocate)
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(MemoryError):
        load_backbone(resnet20(10), tmp_path / name)


def test_nothing_in_the_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved({"state_dict": Hostile()}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not a readable"):
        load_backbone(resnet20(10), path)
    assert list(tmp_path.iterdir()) == [path]
