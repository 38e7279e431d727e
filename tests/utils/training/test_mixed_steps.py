"""Steps with mixup and with a teacher: the arguments of the objective, for whole batches and
micro-batches."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from datasets.loading.loader import Normalise
from datasets.normalisation import CIFAR
from losses import ContrastiveBranch, DistillationLoss, stage_1_objective
from models import build_model
from tests.support.helpers import noise
from utils.machine.device import Machine
from utils.training.eager_step import EagerStep
from utils.training.mixup import Mixup
from utils.training.phase import Phase
from utils.training.split_step import SplitStep

COUNTS = [9, 7, 5, 3, 1]
CPU = torch.device("cpu")


def make(kind, mixup=None, teacher=None, micro_batches=1, contrast=None, head_scale=None):
    """Returns a step of stage 1 with frozen batch-norm, and its network."""
    torch.manual_seed(0)
    model = build_model("resnet20", 5, head_scale).eval()
    distillation = None if teacher is None else (DistillationLoss(), 0.5)
    objective = stage_1_objective("BS", COUNTS, distillation=distillation, contrast=contrast)
    phase = Phase(
        name="pretraining",
        epochs=range(1, 2),
        loader=None,
        objective=lambda epoch: objective,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        learning_rate=lambda epoch: 0.01,
        mixup=mixup,
        teacher=teacher,
    )
    machine = Machine(CPU, "float32", micro_batches=micro_batches)
    return kind(model, phase, objective, machine), model


def batch():
    images = Normalise(CIFAR, CPU)(noise(10))
    return images, torch.arange(10) % 5


def a_mixup():
    """Returns a mixup with its draws in place."""
    mixup = Mixup(1.0, 0, 10, CPU)
    next(mixup.along([batch()], 1, [10]))
    return mixup


def a_teacher():
    torch.manual_seed(1)
    return build_model("resnet20", 5).eval().requires_grad_(False)


def test_a_mixed_step_is_that_of_mixed_images_and_both_targets():
    mixup = a_mixup()
    step, _ = make(EagerStep, mixup)
    images, targets = batch()
    _, twin = make(EagerStep)
    partners, share = mixup.partners, mixup.share
    assert 0.01 < share < 0.99
    features, logits = twin(share * images + (1 - share) * images[partners])
    loss_of = stage_1_objective("BS", COUNTS)
    first, second = (loss_of(features, logits, t)[0] for t in (targets, targets[partners]))
    statistics = step(images, targets, None)
    assert_close(statistics[0], share * first + (1 - share) * second, rtol=1e-4, atol=1e-6)


def test_a_teacher_sees_the_batch_that_the_student_sees():
    teacher, mixup = a_teacher(), a_mixup()
    step, _ = make(EagerStep, mixup, teacher)
    images, targets = batch()
    _, twin = make(EagerStep)
    mixed = mixup.images(images)
    expected = DistillationLoss()(twin(mixed)[1], teacher(mixed)[1])
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    statistics = step(images, targets, None)
    assert_close(statistics[2], expected, rtol=1e-4, atol=1e-6)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("head_scale", [None, 30.0], ids=["linear head", "cosine head"])
def test_the_first_view_is_classified_and_the_others_are_contrasted(head_scale):
    torch.manual_seed(2)
    branch = ContrastiveBranch(64)
    step, model = make(EagerStep, contrast=branch, head_scale=head_scale)
    images, targets = batch()
    views = torch.cat([images, images.flip(-1), images.flip(-2)])
    with torch.no_grad():
        features, logits = model(views)
        weight = model.linear.weight if head_scale is None else model.linear.weight.T
        classification, _ = stage_1_objective("BS", COUNTS)(features[:10], logits[:10], targets)
        contrast = branch(features[10:], targets.repeat(2), weight)
        accuracy = (logits[:10].argmax(dim=1) == targets).float().mean()
    before = model.linear.weight.detach().clone()
    statistics = step(views, targets, None)
    expected = [2 * classification + 0.6 * contrast, classification, contrast, accuracy]
    assert_close(statistics, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert not torch.equal(model.linear.weight, before)
    assert all(parameter.grad.abs().max() > 0 for parameter in branch.parameters())


def test_batch_norm_sees_each_micro_batch_once_and_normalises_it_by_itself():
    """The network passes over the parts twice, but its running statistics move once."""
    split, model = make(SplitStep, micro_batches=3)
    _, twin = make(EagerStep)
    model.train(), twin.train()
    images, targets = batch()
    outputs = [twin(part) for part in images.tensor_split(3)]
    features, logits = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    stage_1_objective("BS", COUNTS)(features, logits, targets)[0].backward()
    torch.optim.SGD(twin.parameters(), 0.01).step()
    split(images, targets, None)
    assert model.bn1.num_batches_tracked == 3
    for (name, found), expected in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_dropout_drops_the_same_values_in_both_passes_of_a_micro_batch():
    split, model = make(SplitStep, micro_batches=2)
    seen = []
    model.linear.register_forward_hook(lambda *call: seen.append(call[2].detach().clone()))
    model.linear.register_forward_pre_hook(lambda _, given: nn.functional.dropout(given[0]))
    split(*batch(), None)
    assert len(seen) == 4 and not torch.equal(seen[0], seen[1])
    assert all(map(torch.equal, seen[:2], seen[2:]))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    make(SplitStep)  # draws the weights
    nn.functional.dropout(torch.ones(2, 5, 64))
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_micro_batches_give_the_whole_batchs_step(parts, with_teacher):
    mixup, teacher = a_mixup(), a_teacher() if with_teacher else None
    whole, model = make(EagerStep, mixup, teacher)
    split, twin = make(SplitStep, mixup, teacher, parts)
    assert_close(split(*batch(), None), whole(*batch(), None), rtol=1e-4, atol=1e-5)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-5)
