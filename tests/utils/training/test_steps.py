"""The step: what it computes and changes, its precision, and that a captured step does the same."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from datasets.loading.loader import Normalise
from datasets.normalisation import CIFAR
from losses import Margins, stage_2_objective
from models import build_model
from tests.support.helpers import noise, seeded
from utils.evaluation.features import class_centroids, extract_features
from utils.machine.device import Machine
from utils.options.values import parse_losses
from utils.training.eager_step import EagerStep
from utils.training.graph_step import GraphStep, add_momenta, preserved
from utils.training.phase import Phase
from utils.training.steps import make_step

needs_bf16 = pytest.mark.skipif(
    not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
    reason="the processor has no native bfloat16",
)


def phase_of(objective, optimizer, frozen):
    return Phase(
        name="classifier" if frozen else "features",
        epochs=range(1, 2),
        loader=None,
        objective=lambda epoch: objective,
        optimizer=optimizer,
        learning_rate=lambda epoch: 0.1,
        features_are_frozen=frozen,
    )


def stage_2_step(precision, frozen=False, lr=0.1, momentum=0.0):
    """Returns a step of stage 2's feature (or classifier) phase on random images."""
    torch.manual_seed(0)
    model = build_model("resnet20", 5).to(memory_format=torch.channels_last)
    margins = Margins("learned", 1.0, [9, 7, 5, 3, 1]).epsilons[0]
    losses = parse_losses("ce" if frozen else "ce_lt,robust_loss")
    objective = stage_2_objective(losses, [9, 7, 5, 3, 1], temperature=1.0, epsilons=[margins])
    features = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    parameters = list(model.linear.parameters()) if frozen else [*features, margins]
    phase = phase_of(objective, torch.optim.SGD(parameters, lr, momentum=momentum), frozen)
    model.train(not frozen)
    machine = Machine(torch.device("cpu"), precision)
    return EagerStep(model, phase, objective, machine), model, margins


def step_inputs():
    images = Normalise(CIFAR, torch.device("cpu"))(noise(16))
    targets = torch.arange(16) % 5
    return images, targets, torch.randn(5, 64, generator=seeded(1))


def test_a_step_gives_loss_parts_and_accuracy_and_moves_what_trains():
    step, model, margins = stage_2_step("float32")
    images, targets, centroids = step_inputs()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    reference, twin, _ = stage_2_step("float32")
    features, logits = twin(images)
    total, parts = reference.objective(features, logits, targets, centroids)
    result = step(images, targets, centroids)
    assert result.shape == (4,) and not result.requires_grad
    accuracy = (logits.argmax(dim=1) == targets).float().mean()
    expected = torch.stack([total.detach(), *parts, accuracy])
    assert_close(result, expected)
    assert_close(result[0], result[1] + result[2])
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved != name.startswith("linear."), name
    assert (margins < 1).all()  # the margin's gradient is never negative, and never 0 here


def test_every_batch_size_is_compiled(monkeypatch):
    """torch itself compiles eight of them, and goes on without compiling."""
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    counter, compiled = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", partial(compiled, backend=counter))
    eager, _, _ = stage_2_step("float32")
    machine = Machine(torch.device("cpu"), "float32", "compile")
    model = build_model("resnet8", 5).to(memory_format=torch.channels_last)
    step = make_step(model, eager.phase, eager.objective, machine)
    images, targets, centroids = step_inputs()
    for size in range(5, 16):
        step(images[:size], targets[:size], centroids)
    assert counter.frame_count == 11


def test_a_frozen_step_takes_features_and_moves_the_classifier_alone():
    step, model, _ = stage_2_step("float32", frozen=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features, targets = torch.randn(16, 64, generator=seeded(2)), torch.arange(16) % 5
    result = step(features, targets, None)
    logits = features @ before["linear.weight"].T + before["linear.bias"]
    assert_close(result[0], nn.functional.cross_entropy(logits, targets))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("linear."), name


def test_gradients_do_not_add_up_from_step_to_step():
    step, model, _ = stage_2_step("float32", frozen=True, lr=0.0)
    features, targets = torch.randn(16, 64, generator=seeded(2)), torch.arange(16) % 5
    gradients = []
    for _ in range(2):
        step(features, targets, None)
        gradients.append(model.linear.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


@needs_bf16
def test_under_bf16_losses_parameters_and_margins_stay_in_float32():
    step, model, margins = stage_2_step("bf16")
    images, targets, centroids = step_inputs()
    seen = {}
    model.bn1.register_forward_hook(lambda module, inputs, out: seen.update(bn=out.dtype))
    objective = step.objective

    def watched(features, logits, *rest):
        seen.update(features=features.dtype, logits=logits.dtype)
        loss, parts = objective(features, logits, *rest)
        seen.update(loss=loss.dtype, parts=parts.dtype)
        return loss, parts

    step.objective = watched
    result = step(images, targets, centroids)
    assert seen.pop("bn") == torch.bfloat16  # or the test would show nothing
    assert set(seen.values()) == {torch.float32} and result.dtype == torch.float32
    for parameter in [*model.parameters(), margins]:
        assert parameter.dtype == torch.float32
    trained = [p for group in step.phase.optimizer.param_groups for p in group["params"]]
    assert all(p.grad.dtype == torch.float32 for p in trained)
    plain, _, _ = stage_2_step("float32")
    # Eight bits of mantissa through twenty layers.
    assert_close(result[:3], plain(images, targets, centroids)[:3], rtol=0.01, atol=0)


@needs_bf16
def test_under_bf16_features_and_centroids_are_float32():
    machine = Machine(torch.device("cpu"), "bf16")
    model = build_model("resnet20", 5)
    images, targets, _ = step_inputs()
    features, _ = extract_features(model, [(images, targets)], machine)
    centroids = class_centroids(model, [(images, targets)], 5, machine)
    assert features.dtype == centroids.dtype == torch.float32
    expected = torch.stack([features[targets == c].mean(dim=0) for c in range(5)])
    assert_close(centroids, expected, rtol=1e-5, atol=1e-6)


def trained(step, steps=20):
    """Takes steps on batches of two sizes and returns their statistics."""
    images, targets, centroids = step_inputs()
    sizes = ([16, 16, 10] * steps)[:steps]
    return torch.stack([step(images[:n], targets[:n], centroids).clone() for n in sizes])


@pytest.mark.parametrize("frozen", [False, True])
def test_momenta_made_beforehand_change_nothing(frozen):
    plain, model, margins = stage_2_step("float32", frozen, momentum=0.9)
    prepared, twin, twin_margins = stage_2_step("float32", frozen, momentum=0.9)
    add_momenta(prepared.phase.optimizer)
    assert len(prepared.phase.optimizer.state) > 0
    inputs, targets, centroids = step_inputs()
    inputs = torch.randn(16, 64, generator=seeded(2)) if frozen else inputs
    for _ in range(3):
        results = [step(inputs, targets, centroids) for step in (plain, prepared)]
        assert torch.equal(*results)
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(margins, twin_margins)


def test_without_momentum_none_is_made():
    step, _, _ = stage_2_step("float32")
    add_momenta(step.phase.optimizer)
    assert all("momentum_buffer" not in s for s in step.phase.optimizer.state.values())


def test_steps_to_warm_up_leave_no_trace():
    step, model, margins = stage_2_step("float32", momentum=0.9)
    trained(step, 2)
    kept = [copy.deepcopy(model.state_dict()), margins.detach().clone()]
    momenta = copy.deepcopy(step.phase.optimizer.state_dict()["state"])
    where = [t.data_ptr() for t in step.state()]
    with preserved(step.state()):
        trained(step, 2)
        assert not torch.equal(kept[0]["conv1.weight"], model.conv1.weight)
    assert [t.data_ptr() for t in step.state()] == where, "other memory than a graph would know"
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[0][name]), name
    assert torch.equal(margins, kept[1])
    for i, state in step.phase.optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], momenta[i]["momentum_buffer"])


def test_the_state_of_a_step_is_all_that_it_changes():
    step, model, margins = stage_2_step("float32", momentum=0.9)
    trained(step, 1)
    known = {t.data_ptr() for t in step.state()}
    for tensor in [*model.parameters(), *model.buffers(), margins, *step.objective.buffers()]:
        assert tensor.data_ptr() in known
    for state in step.phase.optimizer.state.values():
        assert state["momentum_buffer"].data_ptr() in known


def test_the_machine_chooses_the_step():
    step, model, _ = stage_2_step("float32")
    made = make_step(model, step.phase, step.objective, Machine(torch.device("cpu"), "float32"))
    assert type(made) is EagerStep and made.model is model


def test_a_rate_on_the_device_is_filled_in_place():
    step, _, _ = stage_2_step("float32")
    phase = step.phase
    phase.learning_rate = lambda epoch: 0.5 / epoch
    assert phase.set_learning_rate(2) == 0.25
    assert phase.optimizer.param_groups[0]["lr"] == 0.25
    rate = torch.tensor(0.1)
    phase.optimizer.param_groups[0]["lr"] = rate
    phase.set_learning_rate(5)
    assert phase.optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.1)
    phase.set_learning_rate(1)
    assert rate.item() == 0.5


@pytest.mark.parametrize("released_margins", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_captured_step_gives_the_eager_weights(deterministic, frozen, released_margins):
    """20 float32 steps have batches of two shapes and a rate that changes."""
    results = {}
    for kind in ("eager", "graph"):
        step, model, margins = cuda_step(kind, frozen, released_margins)
        images, targets, centroids = (t.to(deterministic) for t in step_inputs())
        inputs = torch.randn(16, 64, generator=seeded(2)).to(deterministic) if frozen else images
        statistics = []
        for i in range(20):
            step.phase.optimizer.param_groups[0]["lr"].fill_(0.01 / (1 + i // 10))
            n = 10 if i % 3 == 2 else 16
            statistics.append(step(inputs[:n], targets[:n], centroids).clone())
        results[kind] = [torch.stack(statistics), margins, *model.state_dict().values()]
    for eager, graph in zip(results["eager"], results["graph"], strict=True):
        assert_close(graph, eager, rtol=0, atol=1e-4)


def cuda_step(kind, frozen, released_margins):
    """Returns `stage_2_step` on CUDA, with the update of `Run.sgd` there."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = build_model("resnet20", 5).to(device, memory_format=torch.channels_last)
    margins = Margins("learned", 1.0, [9, 7, 5, 3, 1]).to(device).epsilons[0]
    losses = parse_losses("ce" if frozen else "ce_lt,robust_loss")
    objective = stage_2_objective(
        losses, [9, 7, 5, 3, 1], epsilons=[margins], released_margins=released_margins
    ).to(device)
    features = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    parameters = list(model.linear.parameters()) if frozen else [*features, margins]
    rate = torch.tensor(0.01, device=device)
    phase = phase_of(objective, torch.optim.SGD(parameters, rate, momentum=0.9, fused=True), frozen)
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is p for p in parameters))
    model.train(not frozen)
    step = EagerStep(model, phase, objective, Machine(device, "float32", kind))
    if kind == "graph":
        step = GraphStep(step)
        step.phase = phase
    return step, model, margins


def test_nothing_in_a_captured_step_waits_for_the_device(cuda):
    step, _, _ = cuda_step("graph", frozen=False, released_margins=False)
    batch = [t.to(cuda) for t in step_inputs()]
    step(*batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
