"""How images reach the network and what is read from it: batches, features, accuracies, rates,
devices."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision import transforms

import datasets.pipeline
from datasets.pipeline import Normalise, ResidentLoader
from datasets.samplers import ClassAwareOrder, EffectiveNumberOrder, SequentialOrder, ShuffledOrder
from datasets.splits import CIFAR_MEAN, CIFAR_STD, LongTailedData, Split
from losses import make_margins, stage_2_objective
from models import build_model
from utils.command_line import parse_options
from utils.device import Machine, choose_machine, seed_everything
from utils.errors import UserError
from utils.evaluation import Evaluator, class_centroids, extract_features
from utils.metrics import nearest_centroid_accuracy, shot_accuracy
from utils.phases import Phase
from utils.pretraining import schedule
from utils.steps import EagerStep

CPU = Machine(torch.device("cpu"), "float32")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, side=32, seed=0):
    return torch.randint(256, (n, 3, side, side), generator=seeded(seed), dtype=torch.uint8)


# -------- normalisation --------


def test_normalising_equals_torchvision_to_the_last_bit(device):
    reference = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)]
    )
    # Every grey level in every channel, and noise.
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 8, 32).expand(1, 3, 8, 32)
    images = torch.cat([noise(4)[:, :, :8], levels])
    result = Normalise(CIFAR_MEAN, CIFAR_STD, device)(images.to(device))
    expected = torch.stack([reference(image.permute(1, 2, 0).numpy()) for image in images])
    if device.type == "cpu":
        assert torch.equal(result, expected)
    else:
        assert_close(result.cpu(), expected, rtol=0, atol=1e-6)


def test_normalised_images_are_channels_last_floats_and_the_source_is_untouched(device):
    images = noise(4).to(device)
    before = images.clone()
    result = Normalise(CIFAR_MEAN, CIFAR_STD, device)(images)
    assert result.dtype == torch.float32 and result.shape == images.shape
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


# -------- batches --------


def numbered_split(n, device="cpu"):
    """Image i is grey level i everywhere, and its label is i mod 5."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 8, 8).contiguous()
    return Split(images.to(device), (torch.arange(n) % 5).to(device))


def loader_of(split, batch_size, order=None, augment="none", generator=None):
    unchanged = Normalise((0.0,) * 3, (1 / 255,) * 3, split.images.device)
    return ResidentLoader(split, unchanged, batch_size, order, augment, generator)


def numbers(images):
    return images[:, 0, 0, 0].round().long()


def epoch_of(batches):
    """Images and targets of an epoch, whatever its batches."""
    images, targets = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(targets)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (9, 4, [4, 4, 1]), (5, 1, [1] * 5)],
)
def test_an_epoch_has_every_image_in_order_and_keeps_the_tail_batch(n, batch_size, sizes, device):
    loader = loader_of(numbered_split(n, device), batch_size)
    batches = list(loader)
    assert [len(images) for images, _ in batches] == sizes
    assert len(loader) == len(sizes)
    for images, targets in batches:
        assert images.device.type == targets.device.type == device.type
        assert images.dtype == torch.float32 and images.shape[1:] == (3, 8, 8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert targets.dtype == torch.int64
        assert torch.equal(targets, numbers(images) % 5)
    assert numbers(epoch_of(batches)[0]).tolist() == list(range(n))


def orders(labels, generator):
    return {
        "sequential": SequentialOrder(len(labels)),
        "shuffled": ShuffledOrder(len(labels), generator),
        "effective number": EffectiveNumberOrder(labels, generator),
        "class-aware": ClassAwareOrder(labels, 3, generator),
    }


KINDS = ["sequential", "shuffled", "effective number", "class-aware"]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_follow_the_drawn_order_and_targets_match_images(kind, device):
    split = numbered_split(47, device)
    loader = loader_of(split, 7, orders(split.labels.cpu(), seeded(1))[kind])
    images, targets = epoch_of(loader)
    expected = orders(split.labels.cpu(), seeded(1))[kind].draw()
    assert numbers(images).tolist() == expected.tolist()
    assert torch.equal(targets, numbers(images) % 5)
    assert len(images) == len(loader.order) and len(loader) == -(-len(loader.order) // 7)


def test_the_length_is_that_of_the_order_not_of_the_set():
    labels = torch.tensor([0] * 9 + [1])
    split = Split(noise(10, side=4), labels)
    loader = loader_of(split, 4, ClassAwareOrder(labels, 2, seeded()))
    assert len(loader) == 5  # 9 images of the largest class, times 2 classes, in batches of 4
    assert sum(len(targets) for _, targets in loader) == 18


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_batches", [1, 2, 3])
def test_blocks_smaller_than_an_epoch_give_the_same_batches(kind, block_batches, monkeypatch):
    split = numbered_split(47)

    def batches():
        return list(loader_of(split, 7, orders(split.labels, seeded(1))[kind]))

    whole = batches()
    image_bytes = split.images[0].numel()
    monkeypatch.setattr(datasets.pipeline, "BLOCK_BYTES", block_batches * 7 * image_bytes)
    assert loader_of(split, 7).block_size == block_batches * 7
    for (images, targets), (others, other_targets) in zip(batches(), whole, strict=True):
        assert torch.equal(images, others) and torch.equal(targets, other_targets)


def test_a_block_holds_at_least_one_batch(monkeypatch):
    monkeypatch.setattr(datasets.pipeline, "BLOCK_BYTES", 1)
    loader = loader_of(numbered_split(10), 4)
    assert [len(images) for images, _ in loader] == [4, 4, 2]


@pytest.mark.parametrize("batch_size", [1, 5, 47, 500])
def test_batches_of_another_size_hold_the_same_epoch(batch_size, monkeypatch):
    split = numbered_split(47)

    def loader():
        return loader_of(split, 7, ShuffledOrder(47, seeded(1)), "crop_flip", seeded(2))

    images, targets = epoch_of(loader())
    sizes = [len(batch) for batch, _ in loader().batches(batch_size)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == 47
    others, other_targets = epoch_of(loader().batches(batch_size))
    assert torch.equal(images, others) and torch.equal(targets, other_targets)
    # In several blocks, too, whose ends cut batches of another size short.
    monkeypatch.setattr(datasets.pipeline, "BLOCK_BYTES", 14 * split.images[0].numel())
    images, targets = epoch_of(loader())
    batches = list(loader().batches(batch_size))
    assert max(len(batch) for batch, _ in batches) <= batch_size
    others, other_targets = epoch_of(batches)
    assert torch.equal(images, others) and torch.equal(targets, other_targets)


def augmented_loader(augment, seed, n=24):
    generator = seeded(seed)
    split = Split(noise(n), torch.arange(n) % 5)
    order = ShuffledOrder(n, generator)
    return loader_of(split, 7, order, augment, generator), generator


@pytest.mark.parametrize("augment", ["none", "crop_flip", "autoaugment"])
def test_a_seed_gives_the_same_epochs_and_every_epoch_differs(augment):
    first, second, other = (augmented_loader(augment, seed)[0] for seed in (0, 0, 1))
    epochs = [epoch_of(first) for _ in range(2)]
    for images, targets in epochs:
        again, again_targets = epoch_of(second)
        assert torch.equal(images, again) and torch.equal(targets, again_targets)
    assert not torch.equal(epochs[0][0], epochs[1][0])
    assert not torch.equal(epochs[0][0], epoch_of(other)[0])


@pytest.mark.parametrize("augment", ["none", "crop_flip", "autoaugment"])
def test_the_generators_state_restores_the_epoch_after_it(augment):
    loader, generator = augmented_loader(augment, 0)
    epoch_of(loader)
    state = generator.get_state()
    images, targets = epoch_of(loader)
    later, other_generator = augmented_loader(augment, 5)
    other_generator.set_state(state)
    again, again_targets = epoch_of(later)
    assert torch.equal(images, again) and torch.equal(targets, again_targets)


def test_augmented_batches_do_not_depend_on_the_device(cuda):
    split = Split(noise(24), torch.arange(24) % 5)
    on_device = Split(split.images.to(cuda), split.labels.to(cuda))
    epochs = [
        epoch_of(loader_of(s, 7, ShuffledOrder(24, seeded(1)), "autoaugment", seeded(2)))
        for s in (split, on_device)
    ]
    (images, targets), (others, other_targets) = epochs
    assert_close(others.cpu(), images, rtol=0, atol=1e-4)
    assert torch.equal(targets, other_targets.cpu())


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    loader, _ = augmented_loader("autoaugment", 0)
    epoch_of(loader)
    after = torch.rand(1), np.random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    assert after == (torch.rand(1), np.random.random())


# -------- features and centroids --------


class TinyNetwork(nn.Module):
    """The networks' interface, small, with batch-norm and something that only trains."""

    def __init__(self, num_classes=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(8, num_classes)

    def features(self, images):
        return self.dropout(self.bn1(self.conv1(images))).mean(dim=(2, 3), dtype=torch.float32)

    def classify(self, features):
        return self.linear(features)


def tiny_data():
    """Five classes of 130 to 3 training images; no test image of class 3."""
    counts = [130, 50, 20, 19, 3]
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    test_labels = torch.tensor([0, 1, 2, 4] * 9)
    return LongTailedData(
        name="tiny",
        train=Split(noise(len(labels), side=8, seed=1), labels),
        test=Split(noise(36, side=8, seed=2), test_labels),
        heldout=Split(noise(6, side=8, seed=3), torch.tensor([1, 1, 2, 2, 4, 4])),
        class_names=list("abcde"),
    )


def reference_features(model, split):
    """One image at a time, in eval mode."""
    reference = TinyNetwork()
    reference.load_state_dict(model.state_dict())
    reference.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))
    with torch.no_grad():
        rows = [reference.features((i[None].float() / 255 - mean) / std) for i in split.images]
    return torch.cat(rows).numpy()


def trained_a_little(num_classes=5):
    """A network whose batch-norm statistics are neither those of its data nor the first ones."""
    model = TinyNetwork(num_classes)
    with torch.no_grad():
        model.train()
        model.features(torch.randn(16, 3, 8, 8, generator=seeded(4)))
    return model


def loader_for(split, batch_size=10):
    normalise = Normalise(CIFAR_MEAN, CIFAR_STD, torch.device("cpu"))
    return ResidentLoader(split, normalise, batch_size)


def test_features_are_those_of_single_images_in_eval_mode():
    model, split = trained_a_little(), tiny_data().test
    features, targets = extract_features(model, loader_for(split), CPU)
    assert features.dtype == torch.float32 and features.shape == (36, 8)
    assert_close(features.numpy(), reference_features(model, split), rtol=1e-5, atol=1e-6)
    assert torch.equal(targets, split.labels)


def test_centroids_are_the_class_means_of_the_features():
    model, split = trained_a_little(), tiny_data().train
    centroids = class_centroids(model, loader_for(split, 17), 5, CPU)
    features = reference_features(model, split).astype(np.float64)
    expected = [features[split.labels == label].mean(axis=0) for label in range(5)]
    assert centroids.dtype == torch.float32
    assert_close(centroids.numpy(), np.float32(expected), rtol=1e-5, atol=1e-6)


def test_centroids_do_not_lose_precision_far_from_the_origin():
    """Sums of float32 would: 2,000 features near 10,000 that differ in the third decimal."""

    class Far(nn.Module):
        def features(self, values):
            return values

    values = 1e4 + torch.rand(2000, 1, generator=seeded()) / 100
    batches = zip(values.split(7), torch.zeros(2000, dtype=torch.int64).split(7), strict=True)
    centroid = class_centroids(Far(), batches, 1, CPU)
    assert centroid.item() == np.float32(values.double().mean().item())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("what", ["features", "centroids", "evaluator"])
def test_reading_leaves_mode_statistics_and_gradients_as_found(training, what):
    model, data = trained_a_little(), tiny_data()
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if what == "features":
        result = extract_features(model, loader_for(data.test), CPU)[0]
    elif what == "centroids":
        result = class_centroids(model, loader_for(data.train), 5, CPU)
    else:
        evaluator = Evaluator(data, CPU)
        evaluator.look(model)
        evaluator.linear(model), evaluator.ncm(model)
        result = evaluator.seen("test")[0]
    assert not result.requires_grad
    assert all(module.training == training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# -------- the evaluator --------


def in_percent(values):
    return [None if np.isnan(v) else pytest.approx(100 * v, abs=1e-4) for v in values]


@pytest.mark.parametrize("split", ["test", "heldout"])
def test_linear_readings_equal_the_public_metrics(split):
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    assert not evaluator.has_looked
    evaluator.look(model)
    assert evaluator.has_looked
    images = data.evaluation_splits[split]
    logits = model.classify(torch.from_numpy(reference_features(model, images)))
    many, medium, few, per_class = shot_accuracy(
        logits.argmax(dim=1), images.labels, data.train.labels
    )
    record = evaluator.linear(model)[split]
    assert [record[g] for g in ("many", "medium", "few")] == in_percent([many, medium, few])
    assert record["per_class"] == in_percent(per_class)
    top1 = (logits.argmax(dim=1) == images.labels).double().mean().item()
    assert record["top1"] == pytest.approx(100 * top1, abs=1e-4)
    assert record["top5"] == 100  # of five classes
    assert record["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, images.labels).item(), rel=1e-5
    )
    if split == "heldout":
        assert record["many"] is None  # the only such class keeps all its images


@pytest.mark.parametrize("split", ["test", "heldout"])
def test_ncm_readings_equal_the_public_metrics(split):
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    evaluator.look(model)
    images = data.evaluation_splits[split]
    many, medium, few, per_class, mean = nearest_centroid_accuracy(
        reference_features(model, data.train),
        data.train.labels,
        reference_features(model, images),
        images.labels,
    )
    record = evaluator.ncm(model)[split]
    assert [record[g] for g in ("many", "medium", "few")] == in_percent([many, medium, few])
    assert record["per_class"] == in_percent(per_class)
    assert record["top1"] == pytest.approx(100 * mean, abs=1e-4)


def test_ncm_is_a_mean_over_classes_and_linear_one_over_images():
    """One image of class 0 is wrong, the 27 of the others right (class 3 has none)."""

    class Perfect(nn.Module):
        """The image's first value is its feature's angle."""

        def features(self, images):
            value = (images[:, 0, 0, 0] * CIFAR_STD[0] + CIFAR_MEAN[0]) * 255
            angle = value.round() * (2 * torch.pi / 5)
            return torch.stack([angle.cos(), angle.sin()], dim=1)

        def classify(self, features):
            angles = torch.arange(5) * (2 * torch.pi / 5)
            return features @ torch.stack([angles.cos(), angles.sin()])

    def split(labels, shown):
        shown = torch.tensor(shown, dtype=torch.uint8)
        images = shown.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
        return Split(images, torch.tensor(labels))

    labels = [0, 0] + [1] * 20 + [2] * 5 + [4]
    data = LongTailedData(
        name="perfect",
        train=split([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        test=split(labels, [1, *labels[1:]]),
        heldout=None,
        class_names=list("abcde"),
    )
    evaluator = Evaluator(data, CPU)
    evaluator.look(Perfect())
    linear, ncm = evaluator.linear(Perfect()), evaluator.ncm(Perfect())
    assert list(linear) == list(ncm) == ["test"]
    per_class = [50, 100, 100, None, 100]
    assert linear["test"]["per_class"] == ncm["test"]["per_class"] == per_class
    assert linear["test"]["top1"] == pytest.approx(100 * 27 / 28, abs=1e-4)
    assert ncm["test"]["top1"] == pytest.approx(350 / 4)
    assert linear["test"]["few"] == ncm["test"]["few"] == pytest.approx(350 / 4)
    assert linear["test"]["many"] is linear["test"]["medium"] is None


def test_a_classifier_is_read_again_without_another_pass(monkeypatch):
    """Its features are frozen: what was seen stays, only the classifier has changed."""
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    evaluator.look(model)
    evaluator.ncm(model)

    def forbidden(images):
        raise AssertionError("another pass")

    monkeypatch.setattr(model, "features", forbidden)
    before = evaluator.linear(model)["test"]["loss"]
    with torch.no_grad():
        model.linear.weight.mul_(2)
    assert evaluator.linear(model)["test"]["loss"] != before
    evaluator.ncm(model)
    evaluator.forget()
    assert not evaluator.has_looked


def test_a_new_look_reads_new_centroids():
    model, data = trained_a_little(), tiny_data()
    evaluator = Evaluator(data, CPU)
    for seed in (0, 1):
        model.load_state_dict(TinyNetwork(seed=seed).state_dict())
        evaluator.look(model)
        fresh = Evaluator(data, CPU)
        fresh.look(model)
        assert evaluator.ncm(model) == fresh.ncm(model)
        assert evaluator.linear(model) == fresh.linear(model)


# -------- learning rate --------

PUBLISHED = [
    *((1, 0.02), (2, 0.04), (3, 0.06), (4, 0.08), (5, 0.1), (6, 0.1), (100, 0.1)),
    *((160, 0.1), (161, 0.001), (180, 0.001), (181, 0.00001), (200, 0.00001)),
]


@pytest.mark.parametrize(("epoch", "rate"), PUBLISHED)
def test_the_published_learning_rates(epoch, rate):
    for lr, factor in ((0.1, 1), (0.5, 5)):
        rate_of, _ = schedule(parse_options(["--lr", str(lr)]))
        assert rate_of(epoch) == pytest.approx(factor * rate, rel=1e-12)


def test_every_epoch_has_the_rate_of_the_formula():
    rate_of, drw_start = schedule(parse_options([]))
    assert drw_start == 160
    for epoch in range(1, 251):
        if epoch <= 5:
            expected = 0.1 * epoch / 5
        elif epoch <= 160:
            expected = 0.1
        else:
            expected = 0.1 * (0.01 if epoch <= 180 else 0.0001)
        assert rate_of(epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "first", "second"), [(200, 160, 180), (100, 80, 90), (20, 16, 18), (400, 320, 360)]
)
def test_scaled_moves_the_steps_and_drws_switch_with_the_epochs(epochs, first, second, capsys):
    rate_of, drw_start = schedule(parse_options(["--schedule", "scaled", "--epochs", str(epochs)]))
    assert drw_start == first
    rates = [rate_of(e) for e in (first, first + 1, second, second + 1, epochs)]
    assert rates == pytest.approx([0.1, 0.001, 0.001, 0.00001, 0.00001], rel=1e-12)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("epochs", [1, 159, 160, 180])
def test_absolute_stays_as_published_and_warns_when_the_run_ends_before_its_steps(epochs, capsys):
    rate_of, drw_start = schedule(parse_options(["--epochs", str(epochs)]))
    assert drw_start == 160
    assert rate_of(161) == pytest.approx(0.001)
    warning = capsys.readouterr().err
    assert warning.startswith("main.py: warning: ") and warning.count("\n") == 1
    for part in (f"--epochs {epochs} ", "160", "180", "--schedule scaled"):
        assert part in warning


@pytest.mark.parametrize("epochs", [1, 90, 200])
def test_cosine_falls_from_the_full_rate_as_torchs_does_and_scales_drws_switch(epochs, capsys):
    flags = ["--schedule", "cosine", "--epochs", str(epochs), "--lr", "0.2"]
    rate_of, drw_start = schedule(parse_options(flags))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        assert rate_of(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert drw_start == round(0.8 * epochs)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("epochs", [181, 200, 300])
def test_absolute_does_not_warn_when_both_steps_are_taken(epochs, capsys):
    schedule(parse_options(["--epochs", str(epochs)]))
    assert capsys.readouterr().err == ""


# -------- devices --------


@pytest.fixture
def cuda_devices(monkeypatch):
    """`cuda_devices(names, capability)` makes torch say that it has these devices."""

    def pretend(names, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: names[i])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        chosen = []
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
        return chosen

    return pretend


def test_without_cuda_the_cpu_is_used(cuda_devices, capsys):
    cuda_devices([])
    assert choose_machine(None, "float32") == CPU
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gpu", [0, 1, 7])
def test_without_cuda_gpu_warns_and_uses_the_cpu(gpu, cuda_devices, capsys):
    cuda_devices([])
    assert choose_machine(gpu, "float32").device == torch.device("cpu")
    warning = capsys.readouterr().err
    assert warning.startswith(f"main.py: warning: --gpu {gpu}: ") and "CPU" in warning
    assert warning.count("\n") == 1


@pytest.mark.parametrize(
    ("gpu", "names", "index"),
    [
        (None, ["A"], 0),
        (0, ["A"], 0),
        (None, ["A", "B"], 0),
        (0, ["A", "B"], 0),
        (1, ["A", "B"], 1),
    ],
)
def test_gpu_n_is_cuda_n_and_the_first_by_default(gpu, names, index, cuda_devices, capsys):
    chosen = cuda_devices(names)
    machine = choose_machine(gpu, "float32")
    assert machine.device == torch.device("cuda", index)
    assert chosen == [machine.device]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("gpu", [1, 5])
def test_with_one_device_a_larger_number_warns_and_uses_it(gpu, cuda_devices, capsys):
    cuda_devices(["A"])
    assert choose_machine(gpu, "float32").device == torch.device("cuda", 0)
    warning = capsys.readouterr().err
    assert warning.startswith(f"main.py: warning: --gpu {gpu}: ") and warning.count("\n") == 1


def test_with_several_devices_a_larger_number_is_an_error_that_lists_them(cuda_devices):
    chosen = cuda_devices(["Alpha", "Beta"])
    with pytest.raises(UserError, match=r"--gpu 2: .*0 \(Alpha\), 1 \(Beta\)"):
        choose_machine(2, "float32")
    assert chosen == []


def test_bf16_is_refused_where_the_processor_has_none(cuda_devices, monkeypatch):
    cuda_devices([])
    for name, has in (("_is_avx512_bf16_supported", False), ("_is_amx_tile_supported", False)):
        monkeypatch.setattr(torch.cpu, name, lambda has=has: has)
    with pytest.raises(UserError, match="--precision bf16: cpu has no native bfloat16"):
        choose_machine(None, "bf16")
    assert choose_machine(None, "float32").precision == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_machine(None, "bf16").precision == "bf16"


def test_bf16_is_refused_on_a_gpu_before_ampere(cuda_devices):
    cuda_devices(["old"], capability=(7, 5))
    with pytest.raises(UserError, match="--precision bf16: cuda:0 has no native bfloat16"):
        choose_machine(0, "bf16")
    cuda_devices(["new"], capability=(8, 0))
    assert choose_machine(0, "bf16").precision == "bf16"


def test_a_machine_says_what_it_is():
    description = CPU.description()
    assert description["device"] == "cpu" and "cores" in description["processor"]
    assert description["torch"] == torch.__version__ and description["numpy"] == np.__version__
    assert description["threads"] == torch.get_num_threads()


def test_a_seed_decides_every_generator(python_random):
    import random

    def draws(seed):
        generator = seed_everything(seed)
        drawn = torch.rand(1, generator=generator).item(), torch.rand(1).item()
        return *drawn, np.random.random(), random.random()

    assert draws(3) == draws(3)
    assert all(a != b for a, b in zip(draws(3), draws(4), strict=True))


# -------- one step --------

needs_bf16 = pytest.mark.skipif(
    not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
    reason="the processor has no native bfloat16",
)


def stage_2_step(precision, frozen=False, lr=0.1):
    """A step of stage 2's features (or classifier) phase on random images."""
    torch.manual_seed(0)
    model = build_model("resnet20", 5).to(memory_format=torch.channels_last)
    margins = make_margins("learned", 1.0, [9, 7, 5, 3, 1])
    names = ["ce"] if frozen else ["ce_lt", "robust_loss"]
    objective = stage_2_objective(names, [9, 7, 5, 3, 1], temperature=1.0, epsilons=margins)
    features = [p for name, p in model.named_parameters() if not name.startswith("linear.")]
    parameters = list(model.linear.parameters()) if frozen else [*features, margins]
    phase = Phase(
        name="features",
        epochs=range(1, 2),
        loader=None,
        objective=lambda epoch: objective,
        optimizer=torch.optim.SGD(parameters, lr),
        learning_rate=lambda epoch: lr,
        monitor="ncm",
        features_are_frozen=frozen,
    )
    model.train(not frozen)
    machine = Machine(torch.device("cpu"), precision)
    return EagerStep(model, phase, objective, machine), model, margins


def step_inputs():
    images = Normalise(CIFAR_MEAN, CIFAR_STD, torch.device("cpu"))(noise(16))
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
