"""A program for torchrun: steps, centroids and metrics on the digits, with batch-norm frozen.

    torchrun --nproc_per_node=N -m tests.support.distributed_steps OUTPUT MICRO_BATCHES

Process 0 writes its results to OUTPUT. The other processes check that theirs are the same. All
check that no thread of their communication is left.
"""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

from datasets.loading.loader import Normalise
from datasets.loading.resident import ResidentLoader
from datasets.normalisation import CIFAR
from datasets.samplers import ShuffledOrder
from datasets.sources.digits import load_digits
from datasets.splits import LongTailedData, Split
from losses import (
    DistillationLoss,
    DROLoss,
    Margins,
    prior_offsets,
    stage_1_objective,
    stage_2_objective,
)
from models import build_model
from models.layers import LayerFeatures
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.features import class_centroids
from utils.machine import collectives
from utils.machine.device import Machine
from utils.machine.processes import World
from utils.options.values import parse_losses
from utils.training.phase import Phase
from utils.training.steps import make_step

KINDS = ("stage 1", "distilled", "robust stage 1", "stage 2", "layers")
STEPS, BATCH, CLASSES, RATE = 20, 32, 10, 0.0001
WARM_UP_EPOCHS = 20
CPU = torch.device("cpu")
NORMALISE = Normalise(CIFAR, CPU)


def digits() -> LongTailedData:
    """Returns 150 training images, 38 to 2 per class, and 101 test images, of 8×8 pixels. Batches
    of 32 leave a partial batch of both."""
    balanced = load_digits()
    train, test = (
        Split(split.images[..., 2::4, 2::4].contiguous(), split.labels)
        for split in (balanced.train, balanced.test)
    )
    labels = train.labels
    counts = [38, 30, 23, 18, 13, 10, 8, 5, 3, 2]
    chosen = torch.cat([(labels == c).nonzero()[:n, 0] for c, n in enumerate(counts)]).numpy()
    test = Split(test.images[::5][:101], test.labels[::5][:101])
    return LongTailedData("digits", train.subset(chosen), test, None, ["c"] * CLASSES)


@cache
def warm_weights() -> dict[str, torch.Tensor]:
    """Returns the weights of a network after some training. In an untrained network, each step
    would amplify rounding errors a hundredfold."""
    torch.manual_seed(0)
    data, model = digits(), build_model("resnet20", CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for _ in range(WARM_UP_EPOCHS):
        for rows in torch.randperm(len(data.train)).split(50):
            loss = nn.functional.cross_entropy(
                model(NORMALISE(data.train.images[rows]))[1], data.train.labels[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


def frozen_model() -> nn.Module:
    """Returns a network in eval mode, in which batch-norm does not depend on the batch."""
    model = build_model("resnet20", CLASSES)
    model.load_state_dict(warm_weights())
    return model.eval()


def steps(kind: str, data: LongTailedData, machine: Machine) -> dict[str, torch.Tensor]:
    """Returns the gradients of the first step, the weights after 20 steps, and the statistics of
    these steps. The last batch of each epoch is a partial one."""
    model = frozen_model()
    generator = torch.Generator().manual_seed(1)
    order = ShuffledOrder(len(data.train), generator)
    loader = ResidentLoader(
        data.train, NORMALISE, BATCH, order, "crop_flip", generator, machine.world
    )
    network, margins, teacher = model, None, None
    if kind == "stage 1":
        objective = stage_1_objective("CE", data.class_counts, reweighted=True)
        parameters = list(model.parameters())
    elif kind == "distilled":
        torch.manual_seed(2)
        teacher = build_model("resnet32", CLASSES).eval().requires_grad_(False)
        offsets = prior_offsets(data.class_counts, 1.0)
        distillation = DistillationLoss(2.0, 0.5, offsets, offsets), 0.5
        objective = stage_1_objective("BS", data.class_counts, False, distillation=distillation)
        parameters = list(model.parameters())
    elif kind == "robust stage 1":
        margins = Margins("learned", 1.0, data.class_counts)
        robust = DROLoss(1.0, epsilons=margins.epsilons[0]), 0.5
        objective = stage_1_objective("BS", data.class_counts, False, robust=robust)
        parameters = [*model.parameters(), *margins.trained]
    else:
        parameters = [p for n, p in model.named_parameters() if not n.startswith("linear.")]
        model.linear.requires_grad_(False)
        if kind == "layers":
            network = LayerFeatures(model, ["layer2", "layer3"])
        columns = network.columns if kind == "layers" else None
        margins = Margins("learned", 1.0, data.class_counts, columns and len(columns))
        objective = stage_2_objective(
            parse_losses("ce_lt,robust_loss"),
            data.class_counts,
            epsilons=list(margins.epsilons),
            columns=columns,
        )
        parameters += margins.trained
    phase = Phase(
        name=kind,
        epochs=range(1, 2),
        loader=loader,
        objective=lambda epoch: objective,
        optimizer=torch.optim.SGD(parameters, RATE, momentum=0.9, weight_decay=1e-4),
        learning_rate=lambda epoch: RATE,
        teacher=teacher,
    )
    step = make_step(network, phase, objective, machine)
    reported = []
    while len(reported) < STEPS:
        centroids = None
        if margins is not None:
            centroids = class_centroids(network, loader.batches(40), CLASSES, machine)
        for images, targets in loader:
            reported.append(step(images, targets, centroids))
            if len(reported) == 1:  # the momentum is the gradient, with weight decay
                state = phase.optimizer.state
                gradients = {p: state[p]["momentum_buffer"].flatten().clone() for p in parameters}
    found = {name: value.clone() for name, value in model.state_dict().items()}
    found["reported"] = torch.stack(reported)
    if margins is not None:
        found |= {"margins": margins.values().clone(), "centroids": centroids}
        # Apart from the weights' one, which is larger and which processes share in another way.
        found["gradient of the margins"] = torch.cat([gradients.pop(p) for p in margins.trained])
    found["gradient"] = torch.cat([*gradients.values()])
    return found


def readings(data: LongTailedData, machine: Machine) -> dict:
    """Returns features, centroids and metrics of one network."""
    model = frozen_model()
    evaluator = Evaluator(data, machine)
    evaluator.extract(model)
    linear, ncm = evaluator.linear(model), evaluator.ncm()
    return {
        "features": evaluator.features_of("test")[0],
        "targets": evaluator.features_of("test")[1],
        "centroids": evaluator._centroids,
        "metrics": {"linear": linear["test"], "ncm": ncm["test"]},
    }


def assert_same_steps(one: dict, others: dict, kind: str) -> None:
    """Asserts that several processes begin with the gradients of one process, and end with its
    weights, losses and centroids."""
    expected, found = one[kind], others[kind]
    begun = warm_weights()
    moved = max((expected[name] - begun[name]).abs().max().item() for name in begun)
    assert moved > 1e-3
    assert found.keys() == expected.keys() and len(found["reported"]) == 20
    for name in [*begun, *({"margins"} & expected.keys())]:
        assert_close(found[name], expected[name], rtol=0, atol=1e-4, msg=name)
    # Losses of the whole batch, not of a part of it.
    assert_close(found["reported"][:, :-1], expected["reported"][:, :-1], rtol=0.01, atol=0)
    if "margins" in expected:
        assert (expected["margins"] < 1 - 1e-4).any()
        assert_close(found["centroids"], expected["centroids"], rtol=0.01, atol=0.01)
    assert_same_gradients(expected, found)


def assert_same_gradients(expected: dict, found: dict) -> None:
    """Asserts that the first step has the same gradients, within 1e-4 of the largest entry."""
    for name in [name for name in expected if name.startswith("gradient")]:
        largest = expected[name].abs().max().item()
        assert largest > 0.01  # more than weight decay alone gives
        assert_close(found[name], expected[name], rtol=0, atol=1e-4 * largest, msg=name)


def assert_same_readings(one: dict, others: dict) -> None:
    """Asserts that several processes have the features, centroids and metrics of one process."""
    expected, found = one["readings"], others["readings"]
    assert len(found["features"]) == 101  # each test image once, with any number of processes
    assert torch.equal(found["targets"], expected["targets"])
    for name in ("features", "centroids"):
        assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert found["metrics"]["ncm"] == expected["metrics"]["ncm"]
    linear, expected_linear = dict(found["metrics"]["linear"]), expected["metrics"]["linear"]
    assert linear.pop("loss") == pytest.approx(expected_linear["loss"], rel=1e-6)
    assert linear == {key: value for key, value in expected_linear.items() if key != "loss"}


def differing(found: dict, main: dict) -> list[str]:
    return [
        name
        for name, value in found.items()
        if not (torch.equal(value, main[name]) if torch.is_tensor(value) else value == main[name])
    ]


def find(world: World, micro_batches: int) -> dict:
    machine = Machine(CPU, "float32", micro_batches=micro_batches, world=world)
    data = digits()
    found = {kind: steps(kind, data, machine) for kind in KINDS}
    return found | {"readings": readings(data, machine)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with collectives.joined() as world:
        found = find(world, int(sys.argv[2]))
        if world.is_main:
            torch.save(found, Path(sys.argv[1]))
        if world.size > 1:
            told = [found]
            dist.broadcast_object_list(told, src=0)
            wrong = {name: differing(part, told[0][name]) for name, part in found.items()}
            assert not any(wrong.values()), (world.rank, wrong)
    # Threads of gloo that live until the interpreter ends can abort it. Only Linux names them.
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in thread for thread in threads), threads
