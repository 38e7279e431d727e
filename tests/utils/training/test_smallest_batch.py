"""Batches that batch-norm would refuse: a single last image joins the batch before it."""

import pytest
import torch

from datasets.loading.loader import Normalise
from datasets.loading.resident import ResidentLoader
from datasets.normalisation import CIFAR
from datasets.samplers import ShuffledOrder
from datasets.splits import Split
from models import build_model
from tests.support.helpers import call, noise, seeded, succeed
from tests.support.own_images import write_folder
from tests.support.stages import make_stage, small_data
from utils.errors import UserError
from utils.machine.device import Machine
from utils.machine.processes import World
from utils.training.smallest_batch import smallest_batch, values_per_channel


@pytest.mark.parametrize(
    ("arch", "side", "expected"),
    [("resnet20", 32, 64), ("resnet20", 4, 1), ("resnet10", 32, 1), ("resnet10", 64, 4)],
)
def test_batch_norm_refuses_a_single_image_where_one_value_a_channel_is_left(arch, side, expected):
    model = build_model(arch, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert values_per_channel(model.train(), side) == expected
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    image = torch.randn(1, 3, side, side, generator=seeded())
    if expected == 1:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(image)
    else:
        model(image)


@pytest.mark.parametrize(
    ("side", "parts", "expected"), [(32, 1, 2), (32, 6, 12), (64, 1, 1), (64, 6, 1)]
)
def test_every_part_of_a_batch_needs_two_images_or_the_batch_one(side, parts, expected):
    assert smallest_batch(build_model("resnet10", 3), side, parts) == expected


def loader_of(count: int, batch: int, smallest: int) -> ResidentLoader:
    split = Split(noise(count, side=4), torch.arange(count))
    normalise = Normalise(CIFAR, torch.device("cpu"))
    order = ShuffledOrder(count, seeded())
    return ResidentLoader(split, normalise, batch, order, smallest_batch=smallest)


@pytest.mark.parametrize("block_batches", [1, 2, 100])
@pytest.mark.parametrize(
    ("count", "batch", "smallest", "expected"),
    [
        (17, 16, 1, [16, 1]),
        (17, 16, 2, [17]),
        (33, 16, 2, [16, 17]),
        (35, 16, 4, [16, 19]),
        (36, 16, 4, [16, 16, 4]),
        (32, 16, 2, [16, 16]),
        (3, 16, 4, [3]),
    ],
)
def test_images_that_are_too_few_for_a_batch_join_the_one_before(
    count, batch, smallest, expected, block_batches, monkeypatch
):
    monkeypatch.setattr(
        "datasets.loading.resident.BLOCK_BYTES", block_batches * min(batch, count) * 3 * 4 * 4
    )
    loader = loader_of(count, batch, smallest)
    batches = [targets for _, targets in loader]
    assert [len(targets) for targets in batches] == expected
    assert (len(loader), loader.batch_sizes) == (len(expected), expected)
    plain = torch.cat([targets for _, targets in loader_of(count, batch, 1)])
    assert torch.equal(torch.cat(batches), plain)  # the same order


def test_mixup_has_room_for_the_batch_that_a_single_image_has_joined():
    machine = Machine(torch.device("cpu"), "float32")
    _, stage = make_stage("--mixup 0.2 --seed 0 -b 28", machine, small_data(), arch="resnet10")
    [phase] = stage.phases
    assert phase.loader.batch_sizes == [29] and len(phase.mixup.partners) == 29


def test_each_part_in_each_process_needs_two_images():
    machine = Machine(torch.device("cpu"), "float32", micro_batches=2, world=World(0, 3))
    with pytest.raises(UserError, match="must have at least 12 images"):
        make_stage("-b 11", machine, small_data(), arch="resnet10")


@pytest.fixture(scope="module")
def seventeen(tmp_path_factory):
    """Gives the flags of a data set of seventeen training images, for a network that leaves one
    value per channel."""
    tree = write_folder(tmp_path_factory.mktemp("own") / "images", counts=(8, 6, 3))
    data = ["--dataset", "folder", "--data_root", tree, "--augment", "none", "--seed", 1]
    return [*data, "--image_size", 32, "-a", "resnet10", "-b", 16, "--epochs", 1]


@pytest.mark.parametrize("stream", [False, True])
def test_seventeen_images_in_batches_of_sixteen_train_in_both_stages(
    stream, seventeen, tmp_path, no_figures
):
    roots = ["--root_log", tmp_path, "--root_model", tmp_path, "--stream", stream, "-j", 0]
    succeed([*seventeen, *roots])
    (stage_1,) = tmp_path.glob("folder_*")
    flags = ["--pretrained", stage_1, "--epochs", 2, "--balanced_clf_nepochs", 1]
    losses = ["--feat_loss", "ce_lt,robust_loss", "--cls_loss", "ce"]
    succeed([*seventeen, *roots, *flags, *losses])
    assert list(stage_1.glob("robust_*/summary.json"))


@pytest.mark.parametrize(("flags", "least"), [(["-b", 1], 2), (["-b", 8, "--accumulate", 5], 10)])
def test_batches_too_small_for_a_network_are_refused_before_anything_is_written(
    flags, least, seventeen, tmp_path
):
    outcome = call([*seventeen, "--root_log", tmp_path, "--root_model", tmp_path, *flags])
    assert outcome.status == 2
    (line,) = outcome.errors
    assert f"-b {flags[1]}" in line and f"at least {least} images" in line and "resnet10" in line
    assert not list(tmp_path.iterdir())
