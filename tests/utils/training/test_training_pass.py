"""One epoch of training: what it reports, and what all processes have after it."""

from types import SimpleNamespace

import pytest
import torch

from tests.support.stages import CLASSES, STAGE_2, make_stage, small_data
from tests.utils.training.test_graph_step import result_of
from utils.machine import collectives
from utils.machine.device import Machine
from utils.progress import Progress
from utils.training import training_pass
from utils.training.training_pass import TrainingPass


def trained(flags):
    """Trains one epoch of the first phase. Returns the stage and what the epoch reports."""
    machine = Machine(torch.device("cpu"), "float32")
    _, stage = make_stage(flags, machine, small_data())
    phase, centroids = stage.phases[0], torch.randn(CLASSES, 64)
    phase.free(stage.model)
    training = TrainingPass(stage, machine, 8, str)
    return stage, result_of(training.run(phase, 1, centroids, Progress("", 2, 10)))


def test_the_speed_is_in_images_per_second(monkeypatch):
    two_seconds = SimpleNamespace(stop=lambda: 2.0)
    monkeypatch.setattr(training_pass, "Stopwatch", lambda device: two_seconds)
    _, reported = trained("")
    assert reported["images_per_second"] == 14.5  # 29 images


@pytest.mark.parametrize("flags", ["--contrastive bcl", STAGE_2], ids=["stage 1", "stage 2"])
def test_all_processes_get_weights_margins_and_batch_norm_statistics_of_process_0(
    flags, monkeypatch
):
    """Each process has batch-norm statistics of its own images."""
    told = []
    monkeypatch.setattr(collectives, "copy_from_main", lambda tensors, world: told.extend(tensors))
    stage, _ = trained(flags)
    modules = [stage.model, *stage.beside.values()]
    if stage.margins is not None:
        modules.append(stage.margins)
    kept = {t.data_ptr() for module in modules for t in module.state_dict().values()}
    assert kept <= {t.data_ptr() for t in told}
