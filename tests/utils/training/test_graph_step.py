"""A captured step does in each replay what the eager step does. Here a CPU replays it."""

from contextlib import contextmanager

import pytest
import torch

from tests.support.stages import CASES, CLASSES, fused_sgd, make_stage, small_data
from utils.errors import RunError
from utils.machine.device import Machine
from utils.progress import Progress
from utils.training import training_pass
from utils.training.eager_step import EagerStep
from utils.training.graph_step import GraphStep
from utils.training.setup import Run
from utils.training.training_pass import TrainingPass

CPU = Machine(torch.device("cpu"), "float32")
EPOCHS = 2


def result_of(steps):
    """Takes all steps and returns what they return at the end."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


def trained(case, monkeypatch, kind, machine=CPU):
    """Trains two epochs of each phase by steps of this kind, with batches of 16 and of 13 images,
    and with rates and centroids that change. Returns statistics and weights."""
    monkeypatch.setattr(training_pass, "make_step", lambda *stage: kind(EagerStep(*stage)))
    flags, head_scale = CASES[case]
    _, stage = make_stage(flags, machine, small_data(), head_scale=head_scale)
    training, found = TrainingPass(stage, machine, 8, str), []
    for phase in stage.phases:
        for epoch in phase.epochs[:EPOCHS]:
            phase.set_learning_rate(epoch)
            phase.free(stage.model)
            width = stage.model.num_features
            if stage.layers is not None:
                width = max(columns.stop for columns in stage.layers.columns.values())
            centroids = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(epoch))
            centroids = centroids.to(machine.device)
            steps = training.run(phase, epoch, centroids, Progress("", 2, 10))
            found.append(result_of(steps) | {"images_per_second": 0.0})
    margins = [] if stage.margins is None else [stage.margins]
    trained = (stage.model, *margins, *stage.beside.values())
    return found, [t for m in trained for t in m.state_dict().values()]


def assert_equal(one, other):
    assert one[0] == other[0]
    assert all(map(torch.equal, one[1], other[1])) and len(one[1]) == len(other[1])


@pytest.mark.parametrize(
    "case",
    [
        *("stage 1, mixup", "stage 1, teacher", "stage 1, contrastive", "stage 1, robust loss"),
        *("stage 2, --margin_min 0", "stage 2, --as_released True"),
        "stage 2, --feat_layers layer2,layer3",
    ],
)
def test_replays_have_the_bits_of_eager_steps(case, fake_graphs, monkeypatch):
    monkeypatch.setattr(Run, "sgd", fused_sgd)
    eager = trained(case, monkeypatch, lambda step: step)
    assert_equal(trained(case, monkeypatch, GraphStep), eager)


def test_a_rate_that_is_no_tensor_would_be_seen(fake_graphs, monkeypatch):
    """The optimiser of a CPU has such a rate. It stays that of the capture."""
    with pytest.raises(AssertionError):
        assert_equal(
            trained("stage 1, CE", monkeypatch, GraphStep),
            trained("stage 1, CE", monkeypatch, lambda step: step),
        )


def test_a_capture_that_cuda_refuses_is_one_line_that_names_the_cause(fake_graphs, monkeypatch):
    """The end of a failed capture raises an error of its own, which says less."""

    @contextmanager
    def capture(graph, **settings):
        try:
            yield
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(Run, "sgd", fused_sgd)
    with pytest.raises(RunError) as error:
        trained("stage 1, mixup", monkeypatch, GraphStep)
    assert str(error.value) == (
        "--step graph: the capture failed (operation not permitted when stream is capturing); use "
        "--step eager"
    )


def test_a_capture_without_memory_is_a_shortage(fake_graphs, monkeypatch):
    @contextmanager
    def capture(graph, **settings):
        yield
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(Run, "sgd", fused_sgd)
    with pytest.raises(torch.OutOfMemoryError):
        trained("stage 1, mixup", monkeypatch, GraphStep)


def test_a_capture_without_memory_is_a_shortage_also_if_its_end_fails(fake_graphs, monkeypatch):
    @contextmanager
    def capture(graph, **settings):
        try:
            yield
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(Run, "sgd", fused_sgd)
    with pytest.raises(torch.OutOfMemoryError):
        trained("stage 1, mixup", monkeypatch, GraphStep)
