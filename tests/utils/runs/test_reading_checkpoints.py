"""Which files are read as checkpoints, and the errors for the others."""

import numpy as np
import pytest
import torch

from models import build_model
from utils.errors import UserError
from utils.runs import checkpoint

CLASSES = 3


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_model("resnet20", CLASSES).state_dict()


def written(tmp_path, content):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    return path


def assert_same_network(path, weights):
    read = checkpoint.load(path)
    model = checkpoint.build_from(read, path, "resnet20", CLASSES)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "net."],
)
def test_the_prefixes_of_wrappers_are_taken_off(prefix, tmp_path, weights):
    named = {prefix + name: weight for name, weight in weights.items()}
    assert_same_network(written(tmp_path, {"state_dict": named}), weights)


def test_weights_of_a_compiled_and_a_data_parallel_network(tmp_path, weights):
    model = build_model("resnet20", CLASSES)
    model.load_state_dict(weights)
    for wrapped in (torch.compile(model), torch.nn.DataParallel(model)):
        assert_same_network(written(tmp_path, {"state_dict": wrapped.state_dict()}), weights)


@pytest.mark.parametrize("key", [None, "model", "net", "model_state_dict"])
def test_weights_alone_or_under_another_key(key, tmp_path, weights):
    content = weights if key is None else {key: weights, "epoch": 3}
    path = written(tmp_path, content)
    assert_same_network(path, weights)
    assert checkpoint.load(path).get("epoch") == (None if key is None else 3)


@pytest.mark.parametrize("number", [np.float64(61.5), np.float32(61.5), np.int64(7), np.bool_(1)])
def test_numbers_of_numpy_become_plain(number, tmp_path, weights):
    content = {"state_dict": weights, "best_acc1": number, "more": {"list": [number]}}
    read = checkpoint.load(written(tmp_path, content))
    assert read["best_acc1"] == number and type(read["best_acc1"]) is type(number.item())
    assert type(read["more"]["list"][0]) is type(number.item())


def test_weights_of_another_program_are_named(tmp_path, weights):
    named = {f"tower.{name}": weight for name, weight in weights.items()}
    path = written(tmp_path, named)
    with pytest.raises(UserError) as error:
        checkpoint.build_from(checkpoint.load(path), path, "resnet20", CLASSES)
    assert "linear.weight" in str(error.value) and "tower.conv1.weight" in str(error.value)


def test_a_file_without_weights_says_what_it_has(tmp_path):
    with pytest.raises(UserError, match=r"no 'state_dict'.*epoch, history"):
        checkpoint.load(written(tmp_path, {"epoch": 3, "history": [1.0]}))


def test_a_whole_network_is_refused_in_plain_words(tmp_path):
    path = written(tmp_path, build_model("resnet20", CLASSES))
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    text = str(error.value)
    assert "the Python object models.resnet_cifar." in text
    assert "\x1b" not in text and "\n" not in text and "weights_only" not in text


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_what_torch_did_not_write_is_refused_in_one_line_without_escape_codes(content, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    text = str(error.value)
    assert "file.pth" in text and "\x1b" not in text and "\n" not in text
    assert "weights_only" not in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weight: weight.double() * 1e39, "conv1.weight is not finite"),
        (lambda weight: weight.to(torch.complex64), "of the type torch.complex64"),
        (lambda weight: weight.to(torch.int64), "of the type torch.int64"),
    ],
)
def test_numbers_that_the_network_cannot_hold_are_refused(change, says, tmp_path, weights):
    changed = weights | {"conv1.weight": change(weights["conv1.weight"])}
    path = written(tmp_path, changed)
    with pytest.raises(UserError, match=says):
        checkpoint.build_from(checkpoint.load(path), path, "resnet20", CLASSES)


def test_the_count_of_batches_may_have_any_type(tmp_path, weights):
    is_count = {name: name.endswith("num_batches_tracked") for name in weights}
    changed = {name: w.double() if is_count[name] else w for name, w in weights.items()}
    assert_same_network(written(tmp_path, changed), weights)
