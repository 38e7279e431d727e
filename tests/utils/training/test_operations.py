"""What a step asks of the device: the number of operations, and no value back."""

import pytest
import torch
from torch import nn

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
    "stage 1": ("", 250, 314),
    "stage 1, cosine head": ("--head cosine", 285, 349),
    "stage 1, mixup": ("--seed 0 --mixup 0.2", 265, 329),
    "stage 1, teacher": ("--teacher x", 319, 384),
    "stage 1, contrast": ("--contrastive bcl", 342, 406),
    "stage 1, robust loss": ("--robust_weight 0.5", 299, 363),
    "features": (STAGE_2, 296, 360),
    "classifier": (STAGE_2, 18, 18),
}
"""Flags, and the most operations that a ResNet-32's step may ask for in float32 and in bf16, its
normalisation included; the teacher is a ResNet-20. `docs/speed.md` says which they are."""


def few_and_small(batch, phase):
    """Two images of 8×8 pixels, or the features of two: as many operations, and a processor without
    native bfloat16 takes seconds for more."""
    inputs, targets, centroids = batch
    if not phase.features_are_frozen:
        inputs = inputs[: 2 * phase.loader.views, :, :8, :8]
    return inputs[: 2 * phase.loader.views], targets[:2], centroids


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("case", BUDGET)
def test_a_step_asks_for_no_more_operations_than_its_budget(as_on_cuda, case, precision):
    flags, *budgets = BUDGET[case]
    found = {}
    for name, step, batch in steps_of(flags, precision, arch="resnet32"):
        batch = few_and_small(batch, step.phase)
        step(*batch)
        with batches_counted_at_once(step.model), OperationLog() as log:
            step(*batch)
        found[name] = log.counts.total()
    found["stage 1"] = found.get("pretraining")
    assert found[case.split(",")[0]] <= budgets[precision == "bf16"]


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


def test_layers_that_processes_synchronise_count_by_themselves():
    """`--sync_bn True` needs a GPU, but without other processes such a layer works on a CPU."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build_model("resnet8", 5)).train()
    with batches_counted_at_once(model):
        for _ in range(3):
            model(torch.randn(2, 3, 32, 32))
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 7 and {norm.num_batches_tracked.item() for norm in norms} == {3}


def test_a_step_on_uint8_images_has_the_bits_of_one_on_normalised_images():
    results = []
    for is_raw in (True, False):
        ((_, step, (_, targets, _)),) = steps_of("")
        images = noise(16)
        inputs = images if is_raw else step.phase.loader.normalise(images)
        results.append([step(inputs, targets, None), *step.model.state_dict().values()])
    for raw, normalised in zip(*results, strict=True):
        assert torch.equal(raw, normalised)
