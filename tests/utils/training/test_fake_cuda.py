"""Training on CUDA tensors without memory: nothing mixes devices or reads values."""

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from tests.support.fake_cuda import CUDA
from tests.support.stages import (
    CASES,
    STAGE_2,
    make_eager_step,
    make_stage,
    small_data,
    step_batch,
)
from utils.evaluation.evaluator import PIXELS_A_PASS, Evaluator
from utils.evaluation.features import class_centroids
from utils.machine.device import Machine

MACHINE = Machine(CUDA, "float32")


@pytest.fixture
def data():
    """Gives real images on the CPU, which are counted before anything is fake."""
    data = small_data()
    assert data.class_counts and data.fingerprint and data.description()
    return data


def fake_steps(case, data):
    """Yields each phase of a case, with its step and its batch."""
    flags, head_scale = CASES[case]
    run, stage = make_stage(flags, MACHINE, data, head_scale=head_scale)
    for phase in stage.phases:
        yield phase, make_eager_step(run, stage, phase), step_batch(stage, phase, CUDA)


@pytest.mark.parametrize("case", CASES)
def test_a_step_stays_on_the_device(data, fake_cuda, case):
    names = []
    for phase, step, batch in fake_steps(case, data):
        statistics = step(*batch)
        assert statistics.device == fake_cuda
        assert statistics.shape == (2 + len(phase.loss_names),)
        names.append(phase.name)
    assert names in (["pretraining"], ["features", "classifier"])


@pytest.mark.parametrize("first", ["", STAGE_2], ids=["stage 1", "stage 2"])
def test_each_group_has_a_rate_of_its_own_on_the_device(data, fake_cuda, first):
    """Rates are filled in place, so a shared one would be that of the last group."""
    _, stage = make_stage(f"{first} --backbone_lr 0.1", MACHINE, data)
    rates = [group["lr"] for group in stage.phases[0].optimizer.param_groups]
    assert len({id(rate) for rate in rates}) == len(rates) == 2
    assert all(rate.device == fake_cuda for rate in rates)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda logits: logits + torch.zeros(5), (RuntimeError, "same device|different devices")),
        (lambda logits: logits.sum().item(), (DataDependentOutputException, "scalar")),
        (lambda logits: logits[logits > 0], (DynamicOutputShapeException, "aten")),
        (lambda logits: logits.argmax(dim=1).bincount(), (DynamicOutputShapeException, "aten")),
    ],
)
def test_a_planted_fault_is_seen(data, fake_cuda, fault, error):
    ((_, step, batch),) = fake_steps("stage 1, CE", data)
    objective = step.objective

    def spoilt(features, logits, targets, centroids):
        fault(logits)
        return objective(features, logits, targets, centroids)

    step.objective = spoilt
    kind, words = error
    with pytest.raises(kind, match=words):
        step(*batch)


def test_centroids_and_the_evaluation_pass_stay_on_the_device(data, fake_cuda, monkeypatch):
    # A fake network cannot be copied; what folding computes is tested on a CPU.
    for module in ("evaluator", "features"):
        name = f"utils.evaluation.{module}.fold_batch_norm"
        monkeypatch.setattr(name, lambda model, _: model.eval())
    _, stage = make_stage("", MACHINE, data)
    evaluator = Evaluator(data, MACHINE)
    centroids = class_centroids(stage.model, evaluator.train_loader, data.num_classes, MACHINE)
    assert centroids.device == fake_cuda and centroids.shape == (5, 64)
    evaluator.extract(stage.model)
    for split, count in (("test", 10), ("heldout", 5)):
        features, targets = evaluator.features_of(split)
        assert features.device == targets.device == fake_cuda
        assert features.shape == (count, 64)
        assert stage.model.classify(features).device == fake_cuda


def test_the_parts_of_an_evaluation_are_of_equal_size(data, fake_cuda, monkeypatch):
    """cuDNN searches for its kernels once for every size."""
    monkeypatch.setitem(PIXELS_A_PASS, "cuda", 6 * 32**2)
    evaluator = Evaluator(data, MACHINE)
    sizes = {split: loader.batch_sizes for split, loader in evaluator.loaders.items()}
    assert sizes == {"test": [5, 5], "heldout": [5]}  # not 6 and 4
    assert evaluator.train_loader.batch_sizes == [6, 6, 6, 6, 5]
