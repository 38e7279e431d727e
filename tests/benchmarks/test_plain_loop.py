"""The plain loop: its losses and updates are those of the method. Its augmentation draws from the
same distribution as ours, and gives the same pixels."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import functional as F

from benchmarks import pillow_policy
from benchmarks.data import benchmark_data
from benchmarks.pillow_policy import ArrayCutout, PillowAutoAugment, apply_operation, make_transform
from benchmarks.plain_loop import (
    FEATURE_LR,
    MOMENTUM,
    WEIGHT_DECAY,
    PlainLoop,
    accuracies,
    robust_loss,
)
from benchmarks.settings import PHASES, settings_of
from datasets.loading import operations
from datasets.loading.autoaugment import POLICIES, VARIANTS
from datasets.loading.loader import Normalise
from datasets.normalisation import CIFAR
from losses import DROLoss, stage_1_objective, stage_2_objective
from models import build_model
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.features import class_centroids
from utils.machine.device import Machine
from utils.options.values import parse_losses

QUICK = settings_of(["--gpu", "cpu", "--workers", "0"], quick=True)


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)


def to_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.fixture
def loop(tmp_path):
    torch.manual_seed(0)
    data, _ = benchmark_data(QUICK)
    return PlainLoop(QUICK, data, tmp_path)


def problem(seed, num_classes=7, batch=24):
    """Returns features, targets, centroids and unequal margins, in float64."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 16, dtype=torch.float64, generator=generator)
    targets = torch.randint(num_classes - 2, (batch,), generator=generator)  # two are absent
    centroids = torch.randn(num_classes, 16, dtype=torch.float64, generator=generator)
    epsilons = torch.rand(num_classes, dtype=torch.float64, generator=generator)
    return features, targets, centroids, epsilons


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_robust_loss_and_its_gradients_are_the_released_ones(seed, temperature):
    results = []
    for is_plain in (True, False):
        features, targets, centroids, epsilons = problem(seed)
        epsilons = torch.nn.Parameter(epsilons)
        features.requires_grad_()
        if is_plain:
            loss = robust_loss(features, targets, centroids, epsilons, temperature)
        else:
            ours = DROLoss(temperature, epsilons=epsilons, released_margins=True)
            loss = ours.to_centroids(features, targets, centroids)
        loss.backward()
        results.append((loss.detach(), features.grad, epsilons.grad))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(plain, ours)


@pytest.mark.parametrize("phase", PHASES)
def test_the_losses_of_a_step_are_those_of_this_project(loop, phase):
    features, targets, centroids, epsilons = (
        t.float() if t.is_floating_point() else t for t in problem(1, num_classes=10)
    )
    logits = torch.randn(24, 10, generator=torch.Generator().manual_seed(2))
    loop.epsilons.data.copy_(epsilons)
    counts = loop.data.class_counts
    objective = {
        "pretraining": stage_1_objective("CE", counts),
        "features": stage_2_objective(
            parse_losses("ce_lt,robust_loss"), counts, epsilons=[epsilons], released_margins=True
        ),
        "classifier": stage_2_objective(parse_losses("ce"), counts),
    }[phase]
    expected, parts = objective(features, logits, targets, centroids)
    found = loop.losses(phase, features, logits, targets, centroids)
    torch.testing.assert_close(torch.stack(list(found.values())).detach(), parts)
    torch.testing.assert_close(sum(found.values()), expected)


def test_a_feature_step_updates_as_sgd_on_our_objective(loop):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 3, 32, 32, generator=generator)
    targets = torch.randint(10, (16,), generator=generator)
    centroids = torch.rand(10, 64, generator=generator)
    counts = loop.data.class_counts
    before = {name: w.clone() for name, w in loop.model.state_dict().items()}
    model = build_model(QUICK.options.arch, 10)
    model.load_state_dict(before)
    epsilons = torch.nn.Parameter(torch.ones(10))
    trained = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    sgd = torch.optim.SGD([*trained, epsilons], FEATURE_LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = parse_losses("ce_lt,robust_loss")
    objective = stage_2_objective(losses, counts, epsilons=[epsilons], released_margins=True)
    loss, _ = objective(*model(inputs), targets, centroids)
    loss.backward()
    sgd.step()

    values = loop.step("features", inputs, targets, centroids)
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(loop.epsilons, epsilons)
    for name, weight in loop.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-4, atol=1e-5)
        if name.startswith("linear."):
            assert torch.equal(weight, before[name])


@pytest.mark.parametrize("phase", PHASES)
def test_an_epoch_trains_its_own_part(loop, phase):
    before = {name: w.clone() for name, w in loop.model.state_dict().items()}
    time = loop.epoch(phase)
    changed = {n for n, w in loop.model.state_dict().items() if not torch.equal(w, before[n])}
    head = {"linear.weight", "linear.bias"}
    expected = {"pretraining": set(before), "features": set(before) - head, "classifier": head}
    assert changed == expected[phase]
    images = len(loop.data.train) if phase == "pretraining" else 40
    assert len(loop.statistics) == -(-images // 16)
    assert 0 < time.training_seconds < time.seconds
    assert torch.load(loop.folder / "plain.pth.tar", weights_only=True).keys() == {"state_dict"}


@pytest.mark.parametrize("phase", PHASES[:2])
def test_the_rate_of_training_is_that_of_its_first_batches(loop, phase, monkeypatch):
    monkeypatch.setattr("benchmarks.plain_loop.TRAINING_BATCHES", 2)
    assert loop.rate(phase) > 0 and len(loop.statistics) == 2


def test_a_rate_of_the_feature_phase_has_a_centroid_of_every_class(loop, monkeypatch):
    """Also of the classes that no image of the first batch has."""
    steps = []
    monkeypatch.setattr(loop, "step", lambda *arguments: steps.append(arguments) or {})
    loop.rate("features")
    assert steps and all(centroids.isfinite().all() for *_, centroids in steps)


def test_a_rate_counts_every_image(loop):
    found = [*map(loop.train_batches, PHASES), loop.load(), loop.evaluate()]
    assert found == [25, 40, 40, 40, 20]


@pytest.mark.parametrize("quantity", ["evaluation", "augmentation"])
def test_other_rates_train_nothing(loop, quantity):
    assert loop.rate(quantity) > 0 and not loop.statistics


def test_accuracies_of_a_batch():
    logits = torch.eye(8)[[0, 1, 2, 3]] - torch.arange(8) * 1e-3
    assert accuracies(logits, torch.tensor([0, 1, 7, 4])) == (50.0, 75.0)


def test_centroids_and_accuracies_equal_those_of_our_evaluator(loop):
    machine = Machine(torch.device("cpu"), "float32")
    evaluator = Evaluator(loop.data, machine)
    loop.epoch("pretraining")
    ours = class_centroids(loop.model, evaluator.train_loader, 10, machine)
    centroids = loop.centroids(loop.train_loader)
    torch.testing.assert_close(centroids, ours, rtol=1e-3, atol=1e-4)
    found = loop.validate(centroids)
    evaluator.extract(loop.model)
    assert found["top1"] == pytest.approx(evaluator.linear(loop.model)["test"]["top1"])
    assert found["ncm"] == pytest.approx(evaluator.ncm()["test"]["top1"])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "_".join(map(str, v)))
def test_each_operation_gives_our_pixels(variant):
    batch = images(12)
    batch[1], batch[2] = 77, batch[2] // 8 + 100
    ours = operations.apply_operation(batch, *variant)
    for image, expected in zip(batch, ours, strict=True):
        found = np.array(apply_operation(to_pillow(image), *variant))
        assert np.array_equal(found, expected.permute(1, 2, 0).numpy())


def test_the_policy_draws_from_its_distribution(monkeypatch, python_random):
    """Sub-policies are uniform, operations have their probabilities, signs are equally likely."""
    drawn = []
    monkeypatch.setattr(pillow_policy, "apply_operation", lambda image, *op: drawn.append(op))
    random.seed(0)
    n, augment = 20_000, PillowAutoAugment()
    for _ in range(n):
        augment(None)
    expected = Counter()
    for policy in POLICIES:
        for op, probability, level in policy:
            for sign in (-1, 1):
                expected[op, level, sign] += n * probability / len(POLICIES) / 2
    observed = Counter(drawn)
    possible = [key for key, count in expected.items() if count]
    assert observed.keys() <= set(possible)
    deviations = [(observed[key] - expected[key]) / expected[key] ** 0.5 for key in possible]
    assert sum(d * d for d in deviations) < stats.chi2.ppf(0.999, len(possible))


def test_cutout_gives_our_pixels():
    from tests.datasets.loading.test_augmentation import reference_cutout

    image = images(1)[0]
    for seed in range(50):
        np.random.seed(seed)
        y, x = np.random.randint(32), np.random.randint(32)
        np.random.seed(seed)
        found = ArrayCutout()(image.float())
        assert torch.equal(found, reference_cutout(image, y, x).float())


def test_the_transforms_normalise_as_ours_and_crop_within_the_padded_image():
    image = images(1)[0]
    normalise = Normalise(CIFAR, torch.device("cpu"))

    def make(augment):
        return make_transform(augment, CIFAR.mean, CIFAR.std)(to_pillow(image))

    torch.testing.assert_close(make("none"), normalise(image[None])[0])
    padded = F.pad(image, [4] * 4)
    crops = [F.crop(padded, y, x, 32, 32) for y in range(9) for x in range(9)]
    possible = normalise(torch.stack([*crops, *(c.flip(-1) for c in crops)]))
    for _ in range(5):
        assert (possible - make("crop_flip")).abs().amax((1, 2, 3)).min() < 1e-5
    assert make("autoaugment").shape == (3, 32, 32)
