"""What a step asks of the device: the number of operations, and no value back."""

import pytest
import torch

from models import build_model
from tests.support.helpers import noise
from tests.support.stages import (
    CASES,
    STAGE_2,
    NoHostReads,
    OperationLog,
    fused_sgd,
    make_eager_step,
    make_stage,
    one_hot_as_on_cuda,
    small_data,
    step_batch,
)
from utils.machine.device import Machine
from utils.training.setup import Run
from utils.training.steps import batches_counted_at_once

needs_bf16 = pytest.mark.skipif(
    not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
    reason="the processor has no native bfloat16",
)


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Makes real tensors on the CPU use the update and the losses of CUDA."""
    monkeypatch.setattr(Run, "sgd", fused_sgd)
    with one_hot_as_on_cuda():
        yield


def steps_of(flags, precision="float32", arch="resnet20", head_scale=None):
    """Yields name, step and batch of each phase."""
    machine = Machine(torch.device("cpu"), precision)
    run, stage = make_stage(flags, machine, small_data(), arch, head_scale)
    for phase in stage.phases:
        step = make_eager_step(run, stage, phase)
        yield phase.name, step, step_batch(stage, phase, machine.device)


@pytest.mark.parametrize("case", CASES)
def test_nothing_in_a_step_reads_values(as_on_cuda, case):
    flags, head_scale = CASES[case]
    for _, step, batch in steps_of(flags, head_scale=head_scale):
        with NoHostReads():
            step(*batch)


@pytest.mark.parametrize(
    "reads",
    [
        lambda losses: losses.sum().item(),
        lambda losses: losses.nonzero(),
        lambda losses: losses[losses > 0],
        lambda losses: losses.masked_select(losses > 0),
        lambda losses: losses.long().bincount(),
        lambda losses: losses.unique(),
        lambda losses: bool((losses > 0).any()),
        lambda losses: losses.index_put_((losses > 0,), torch.zeros(())),
    ],
)
def test_a_planted_read_is_seen(as_on_cuda, reads):
    ((_, step, batch),) = steps_of("")
    objective = step.objective

    def spoilt(features, logits, targets, centroids):
        reads(logits.detach()[:, 0])
        return objective(features, logits, targets, centroids)

    step.objective = spoilt
    with pytest.raises(AssertionError, match="reads values"), NoHostReads():
        step(*batch)


BUDGET = {
    ("pretraining", "float32"): 250,
    ("features", "float32"): 300,
    ("classifier", "float32"): 18,
    ("pretraining", "bf16"): 314,
    ("features", "bf16"): 364,
    ("classifier", "bf16"): 18,
}
"""The most operations that a ResNet-32's step may ask for, its normalisation included.
`docs/speed.md` says which they are."""


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=needs_bf16)])
def test_a_step_asks_for_no_more_operations_than_its_budget(as_on_cuda, precision):
    found = {}
    for flags in ("", STAGE_2):
        for name, step, batch in steps_of(flags, precision, arch="resnet32"):
            step(*batch)
            with batches_counted_at_once(step.model), OperationLog() as log:
                step(*batch)
            found[name, precision] = log.counts.total()
    over = {key: count for key, count in found.items() if count > BUDGET[key]}
    assert len(found) == 3 and not over


def test_batches_are_counted_once_an_epoch_and_end_as_if_each_layer_had_counted():
    torch.manual_seed(0)
    counted, plain = (build_model("resnet20", 5).train() for _ in range(2))
    plain.load_state_dict(counted.state_dict())
    images = torch.randn(4, 3, 32, 32)
    names = [name for name in plain.state_dict() if name.endswith("num_batches_tracked")]
    for passes in (3, 2):  # two epochs
        with batches_counted_at_once(counted), OperationLog() as log:
            for _ in range(passes):
                counted(images)
        assert log.counts["add_.Tensor"] == passes * (1 + 9)  # the others are shortcuts
        for _ in range(passes):
            plain(images)
    for name, value in plain.state_dict().items():
        assert torch.equal(counted.state_dict()[name], value), name
    assert {counted.state_dict()[name].item() for name in names} == {5}


def test_counts_are_given_back_when_an_epoch_is_interrupted_and_left_alone_in_eval_mode():
    model = build_model("resnet20", 5).train()
    images, names = torch.randn(2, 3, 32, 32), list(model.state_dict())
    with pytest.raises(KeyboardInterrupt), batches_counted_at_once(model):
        model(images)
        raise KeyboardInterrupt
    assert list(model.state_dict()) == names
    assert {n.num_batches_tracked.item() for n in model.modules() if hasattr(n, "eps")} == {1}
    with batches_counted_at_once(model.eval()):
        model(images)
        assert list(model.state_dict()) == names


def test_a_step_on_uint8_images_has_the_bits_of_one_on_normalised_images():
    results = []
    for is_raw in (True, False):
        ((_, step, (_, targets, _)),) = steps_of("")
        images = noise(16)
        inputs = images if is_raw else step.phase.loader.normalise(images)
        results.append([step(inputs, targets, None), *step.model.state_dict().values()])
    for raw, normalised in zip(*results, strict=True):
        assert torch.equal(raw, normalised)
