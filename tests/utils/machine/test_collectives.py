"""Several processes over gloo, and micro-batches: the same steps, centroids, metrics and files."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from datasets.loading.augmentation import AUGMENTATIONS
from datasets.loading.loader import Normalise
from datasets.loading.resident import ResidentLoader
from tests.support import distributed_steps
from tests.support.helpers import call, stage_1
from utils.errors import RunError, UserError
from utils.machine import collectives
from utils.machine.device import Machine
from utils.machine.processes import ALONE, VARIABLES, World, world_of_environment
from utils.training import split_step
from utils.training.split_step import running_statistics_kept


@pytest.mark.parametrize("kind", distributed_steps.KINDS)
def test_the_gradient_by_micro_batches_is_that_of_the_batch(kind, monkeypatch):
    monkeypatch.setattr(distributed_steps, "STEPS", 1)
    monkeypatch.setattr(distributed_steps, "BATCH", 150)
    data, cpu = distributed_steps.digits(), torch.device("cpu")
    whole = distributed_steps.steps(kind, data, Machine(cpu, "float32"))
    parts = distributed_steps.steps(kind, data, Machine(cpu, "float32", micro_batches=4))
    distributed_steps.assert_same_gradients(whole, parts)


def test_the_first_pass_leaves_running_statistics_alone():
    model = distributed_steps.frozen_model().train()
    images = distributed_steps.NORMALISE(distributed_steps.digits().train.images[:20])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), running_statistics_kept(model):
        first = model(images)[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    second = model(images)[0]
    assert_close(first, second)
    assert model.bn1.num_batches_tracked == before["bn1.num_batches_tracked"] + 1
    assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_shares_divide_a_batch_and_each_is_all_of_a_small_one(size, count):
    world = World(size=size)
    shares = [range(count)[world.share(count, rank)] for rank in range(size)]
    if count < size:
        assert shares == [range(count)] * size
    else:
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_of_a_batch_smaller_than_the_processes_each_takes_the_whole_gradient(monkeypatch):
    """Then nothing is exchanged but gradients, and their mean is that of each process."""
    monkeypatch.setattr(split_step, "DistributedDataParallel", lambda model, **settings: model)
    monkeypatch.setattr(distributed_steps, "STEPS", 1)
    monkeypatch.setattr(distributed_steps, "BATCH", 3)
    data, cpu = distributed_steps.digits(), torch.device("cpu")
    one_of_each_class = np.unique(data.train.labels.numpy(), return_index=True)[1]
    data = replace(data, train=data.train.subset(one_of_each_class))
    whole = distributed_steps.steps("stage 1", data, Machine(cpu, "float32"))
    own = distributed_steps.steps("stage 1", data, Machine(cpu, "float32", world=World(1, 4)))
    distributed_steps.assert_same_gradients(whole, own)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_several_processes_make_the_images_of_one(augment):
    train = distributed_steps.digits().train
    normalise: Normalise = distributed_steps.NORMALISE

    def epoch(world):
        generator = torch.Generator().manual_seed(3)
        loader = ResidentLoader(train, normalise, 40, None, augment, generator, world)
        return list(loader), generator.get_state()

    whole, state = epoch(ALONE)
    others = [epoch(World(rank, 3)) for rank in range(3)]
    assert all(torch.equal(state, other) for _, other in others)
    for i, (images, targets) in enumerate(whole):
        parts = [batches[i] for batches, _ in others]
        assert torch.equal(torch.cat([part for part, _ in parts]), images)
        assert all(torch.equal(part_targets, targets) for _, part_targets in parts)


@pytest.mark.parametrize("name", VARIABLES)
def test_only_all_of_torchruns_variables_make_a_world(name, monkeypatch):
    for each, text in zip(VARIABLES, ("2", "1", "1", "here", "29500"), strict=True):
        monkeypatch.setenv(each, text)
    assert world_of_environment() == ALONE  # of one process
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert world_of_environment() == World(2, 3, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert world_of_environment() == World(2, 3, 1, 2)
    monkeypatch.setenv(name, "")
    assert world_of_environment() == ALONE
    monkeypatch.delenv(name)
    assert world_of_environment() == ALONE


def test_processes_wait_for_one_that_decodes_for_hours(monkeypatch):
    told = {}
    monkeypatch.setattr(collectives, "world_of_environment", lambda: World(1, 4))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **named: told.update(named))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with collectives.joined() as world:
        assert world.size == 4
    assert told["timeout"] >= timedelta(hours=12)


def test_a_signal_to_one_process_is_one_to_all(monkeypatch):
    asked = []
    monkeypatch.setattr(dist, "all_reduce", lambda number, operation: asked.append(operation))
    assert collectives.largest(15, World(0, 2)) == 15 and asked == [dist.ReduceOp.MAX]


@pytest.mark.parametrize("error", [UserError("bad"), RunError("bad"), OSError(28, "full")])
def test_a_failure_of_process_0_is_told_to_the_others(error, monkeypatch):
    def fail():
        raise error

    told = []
    monkeypatch.setattr(dist, "broadcast_object_list", lambda found, src: told.extend(found))
    with pytest.raises(type(error)):
        collectives.from_main(fail, World(0, 2))
    assert told == [None, error] and error.is_shared


def test_sync_bn_is_refused_without_a_gpu(tree, tmp_path):
    outcome = call(stage_1(tree, tmp_path, "--sync_bn"))
    assert outcome.status == 2 and "--sync_bn" in outcome.errors[0]
    assert not list(tmp_path.iterdir())
