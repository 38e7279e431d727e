"""Copies of checkpoints in the host's memory: they share nothing, and are written equally."""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.helpers import differences, load
from utils.runs import checkpoint
from utils.runs.host_copy import on_host, through_one_buffer


def several_kinds() -> list[Tensor]:
    """Returns tensors of all kinds that a checkpoint has; one has an odd number of bytes."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 3, 3, generator=generator)
    return [
        torch.tensor([True, False, True]),
        kernel,
        kernel.to(memory_format=torch.channels_last),
        kernel.to(memory_format=torch.channels_last)[:, :2],
        torch.tensor(7),
        torch.arange(5, dtype=torch.uint8),
        torch.randn(3, 2, generator=generator, dtype=torch.float64).T,
        torch.randn(3, generator=generator).bfloat16(),
        torch.empty(0, 4),
        nn.Parameter(torch.ones(2)),
    ]


def test_one_buffer_gives_equal_tensors_of_the_same_layout_with_memory_of_their_own():
    tensors = several_kinds()
    copies = through_one_buffer(tensors)
    assert not differences([t.detach() for t in tensors], copies)
    for tensor, copied in zip(tensors, copies, strict=True):
        assert copied.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert not copied.requires_grad
        if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last):
            assert copied.stride() == tensor.stride()


def test_no_tensors_need_no_buffer():
    assert through_one_buffer([]) == []


def content_of(model: nn.Module) -> dict:
    shared = {"test": {"linear": {"per_class": [1.0, None]}}}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "results": shared,
        "best": {"last": {"results": shared}},
        "pair": (torch.ones(1), None),
    }


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return layers.to(memory_format=torch.channels_last)


def test_a_copy_on_the_host_stays_as_it_is_while_training_goes_on():
    model = network()
    content = content_of(model)
    copied = on_host(content)
    before = copy.deepcopy(copied)
    assert not differences(content, copied)
    assert type(copied["state_dict"]) is OrderedDict
    assert copied["state_dict"]._metadata == content["state_dict"]._metadata
    with torch.no_grad():
        for tensor in [*model.state_dict().values(), content["pair"][0]]:
            tensor.add_(1)
    content["results"]["test"]["linear"]["per_class"][0] = 9.0
    assert differences(content, copied)
    assert not differences(before, copied)


def test_a_written_checkpoint_is_read_without_running_code_and_continues_equally(tmp_path):
    model = network()
    content = content_of(model)
    checkpoint.save(tmp_path / "plain", content)
    checkpoint.save(tmp_path / "copied", on_host(content))
    read = load(tmp_path / "copied")
    assert not differences(load(tmp_path / "plain"), read)
    assert not differences(dict(content["state_dict"]), dict(read["state_dict"]))
    network().load_state_dict(read["state_dict"])


class CopiesToHost(TorchDispatchMode):
    """Counts the operations that bring a tensor to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_copy = function is torch.ops.aten._to_copy.default
        self.count += is_copy and torch.device(kwargs.get("device")).type == "cpu"
        return function(*args, **kwargs)


def test_one_copy_leaves_the_device_however_many_tensors_there_are(fake_cuda):
    sizes = [((4, 3, 3, 3), torch.float32), ((), torch.int64), ((7,), torch.uint8)]
    on_device = [torch.zeros(size, dtype=dtype, device=fake_cuda) for size, dtype in sizes]
    content = {"state_dict": dict(enumerate(on_device)), "momenta": on_device, "epoch": 1}
    with CopiesToHost() as copies:
        copied = on_host(content)
    assert copies.count == 1
    for tensor, like in zip(copied["momenta"], on_device, strict=True):
        assert tensor.device.type == "cpu"
        assert (tensor.shape, tensor.dtype) == (like.shape, like.dtype)
