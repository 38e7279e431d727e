"""How often the host waits for the device in whole epochs of training."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from datasets.loading.ahead import DrawnAhead
from datasets.loading.resident import ResidentLoader
from models import ARCHITECTURES, Network
from models.heads import make_head
from tests.support.fake_cuda import CUDA
from tests.support.host_reads import HostReads, NoClock
from tests.support.stages import STAGE_2, make_stage, small_data
from utils.machine.device import Machine
from utils.runs import checkpoint
from utils.training.eager_step import EagerStep
from utils.training.trainer import Trainer


class SmallNetwork(Network):
    """Two layers: what a step of a ResNet reads is tested elsewhere."""

    def __init__(self, num_classes: int, head_scale: float | None = None) -> None:
        super().__init__()
        self.layer2 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8))
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        self.num_features = 8
        self.linear = make_head(8, num_classes, head_scale)

    def features(self, images):
        return self.layer3(self.layer2(images).relu()).mean(dim=(2, 3), dtype=torch.float32)


@pytest.fixture
def reads_of(fake_mode, monkeypatch, tmp_path):
    """`reads_of(flags)`: where the host waits in a stage of these flags."""
    data = small_data()
    # Counted before anything is fake.
    assert data.class_counts and data.fingerprint and data.description()
    load = checkpoint.load

    def load_real(path):
        with _disable_current_modes():
            return load(path)

    monkeypatch.setattr(checkpoint, "load", load_real)
    monkeypatch.setattr("utils.training.training_pass.Stopwatch", NoClock)
    # A fake tensor knows one thread.
    monkeypatch.setattr(DrawnAhead, "begin", lambda ahead: None)
    # A fake network cannot be copied; what folding computes is tested on a CPU.
    for module in ("utils.evaluation.evaluator", "utils.evaluation.features"):
        monkeypatch.setattr(f"{module}.fold_batch_norm", lambda model, _: model.eval())
    monkeypatch.setitem(ARCHITECTURES, "resnet8", SmallNetwork)

    def run(flags):
        folders = f"--root_log {tmp_path} --root_model {tmp_path}"
        with fake_mode, torch.no_grad(), HostReads() as reads:
            flags = f"{flags} --seed 0 --augment crop_flip {folders}"
            run, stage = make_stage(flags, Machine(CUDA, "float32"), data)
            run.folder.records.mkdir(parents=True)
            trainer = Trainer(run, stage)
            reads.where.clear()
            trainer.run()
        return dict(reads.where)

    return run


OF_EPOCHS = 3 * 2
"""Of three epochs: the losses and accuracies of all steps, and the checkpoint."""
OF_ALL = {
    # The network's classifier in each epoch; NCM and geometry in the first, the best, and the last.
    "stage 1": OF_EPOCHS + 3 + 2 * 2,
    "stage 1 with margins": OF_EPOCHS + 3 + 2 * 2 + 3,
    # NCM chooses the features, and costs nothing where they are frozen.
    "stage 2": OF_EPOCHS + 3 * 3 + 3,
}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--epochs 3 --mixup 0.2 --teacher x", "stage 1"),
        ("--epochs 3 --contrastive bcl --head cosine --train_rule Reweight", "stage 1"),
        ("--epochs 3 --robust_weight 0.5", "stage 1 with margins"),
        (STAGE_2, "stage 2"),
        (f"{STAGE_2} --feat_layers layer2,layer3 --margin_type shared", "stage 2"),
    ],
)
def test_the_host_waits_a_few_times_an_epoch_whatever_the_number_of_steps(
    reads_of, flags, expected
):
    reads = reads_of(flags)
    assert sum(reads.values()) == OF_ALL[expected], reads


def test_a_planted_read_is_counted_for_each_step(reads_of, monkeypatch):
    """Two epochs have two steps each: 29 images in batches of 16."""
    statistics, before = EagerStep.statistics, reads_of("--epochs 2 --exp_str before")

    def reading(loss, *others):
        loss.item()
        return statistics(loss, *others)

    monkeypatch.setattr(EagerStep, "statistics", staticmethod(reading))
    assert sum(reads_of("--epochs 2").values()) == sum(before.values()) + 2 * 2


def test_an_epoch_is_augmented_at_once_and_the_next_one_is_drawn_meanwhile(reads_of, monkeypatch):
    begun, counts, augmented = [], [], ResidentLoader._augmented

    def counted(loader, positions, draws):
        if loader.generator is not None:  # training images
            counts.append(len(positions))
        return augmented(loader, positions, draws)

    monkeypatch.setattr(DrawnAhead, "begin", lambda ahead: begun.append(ahead))
    monkeypatch.setattr(ResidentLoader, "_augmented", counted)
    monkeypatch.setattr("datasets.loading.resident.BLOCK_BYTES", 1)  # a CPU's block is one batch
    reads_of("--epochs 3")
    assert counts == [29] * 3 and len(begun) == 3
