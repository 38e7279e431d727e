"""Stages on made-up data, made from flags as the commands make them; and a log of torch's
operations."""

from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from datasets.splits import LongTailedData, Split
from models import build_model
from models.folding import fold_batch_norm
from tests.support.helpers import noise
from utils.machine.device import Machine
from utils.options.parse import parse_options
from utils.runs.folders import run_folder
from utils.training.eager_step import EagerStep
from utils.training.graph_step import add_momenta
from utils.training.phase import Phase, Stage
from utils.training.setup import Run
from utils.training.stage1 import stage_1
from utils.training.stage2 import stage_2
from utils.training.teacher import Teacher

STAGE_2 = (
    "--pretrained x --feat_loss ce_lt,robust_loss --feat_sampler none --cls_loss ce "
    "--cls_sampler none --epochs 3 --balanced_clf_nepochs 1"
)
CASES = {
    **{f"stage 1, {loss}": (f"--loss_type {loss}", None) for loss in ("CE", "Focal", "LDAM", "BS")},
    "stage 1, weighted, cosine head": ("--train_rule Reweight --head cosine", None),
    "stage 1, mixup": ("--seed 0 --mixup 0.2", None),
    "stage 1, teacher": ("--teacher x", None),
    "stage 1, contrastive": ("--contrastive bcl", None),
    "stage 1, robust loss": ("--robust_weight 0.5", None),
    "stage 1, slower backbone": ("--backbone_lr 0.1", None),
    "stage 1, mixup, cosine head, slower backbone": (
        "--seed 0 --mixup 0.2 --head cosine --backbone_lr 0.1",
        None,
    ),
    **{
        f"stage 2, {flags or 'as published'}": (f"{STAGE_2} {flags}", None)
        for flags in (
            "",
            "--as_released True",
            "--feat_loss bs,robust_loss --cls_loss bs",
            "--margin_min 0",
            "--margin_type shared --robust_distance squared",
            "--margin_type sample_count --robust_distance normalised --robust_weight 0.3",
            "--backbone_lr 0.1",
            "--feat_layers layer2,layer3",
            "--feat_layers layer2,layer3 --as_released True --robust_distance normalised",
        )
    },
    "stage 2, from a cosine head": (STAGE_2, 30.0),
}
"""Every loss, kind of margins, distance, head and rate that a step knows, mixup, teacher, contrast:
flags, and the scale of the cosine head that a stage 2 starts from."""

CLASSES, BATCH = 5, 16


def small_data() -> LongTailedData:
    """Returns 29 training images of five classes, 10 test images and 5 held-out images."""
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor([9, 7, 5, 4, 4]))

    def split(labels: Tensor) -> Split:
        return Split(noise(len(labels)), labels)

    return LongTailedData(
        name="digits",
        train=split(labels),
        test=split(torch.arange(CLASSES).repeat(2)),
        heldout=split(torch.arange(CLASSES)),
        class_names=list("abcde"),
    )


def make_stage(
    flags: str,
    machine: Machine,
    data: LongTailedData,
    arch: str = "resnet8",
    head_scale: float | None = None,
) -> tuple[Run, Stage]:
    """Returns the stage that the flags describe: stage 2 with `--pretrained`, else stage 1. If a
    scale is given, stage 2 starts from a cosine head."""
    argv = ["--dataset", "digits", "-a", arch, "-b", str(BATCH), *flags.split()]
    options = parse_options(argv)
    run = Run(options, run_folder(options), machine, data, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    if options.stage == 1:
        with patch("utils.training.stage1.load_teacher", untrained_teacher):
            return run, stage_1(run)
    start = build_model(arch, data.num_classes, head_scale=head_scale)
    return run, stage_2(run, {"state_dict": start.state_dict(), "arch": arch}, Path("x"))


def untrained_teacher(run: Run) -> Teacher:
    """A teacher with random weights, in the place of the one that `--teacher` names."""
    with unset_fake_temporarily():  # a fake network cannot be copied
        network = build_model("resnet8", run.data.num_classes).eval()
        network = fold_batch_norm(network, run.machine.conv_dtype).requires_grad_(False)
    return Teacher(run.place(network), None)


def make_eager_step(run: Run, stage: Stage, phase: Phase) -> EagerStep:
    """Returns the eager step of the phase's first epoch, with momenta of zero."""
    network = stage.model if phase.features_are_frozen else stage.network
    stage.model.train(not phase.features_are_frozen)
    phase.free(stage.model)
    add_momenta(phase.optimizer)
    objective = phase.objective(phase.epochs.start).to(run.machine.device)
    return EagerStep(network, phase, objective, run.machine)


def step_batch(stage: Stage, phase: Phase, device: torch.device) -> tuple:
    """Returns inputs, targets and, if the phase needs them, centroids, with constant values."""
    width = stage.model.num_features
    if phase.features_are_frozen:
        inputs = torch.ones(BATCH, width, device=device)
    else:
        images = BATCH * phase.loader.views
        inputs = torch.ones(images, 3, 32, 32, dtype=torch.uint8, device=device)
    if stage.layers is not None:
        width = max(columns.stop for columns in stage.layers.columns.values())
    uses_centroids = phase.objective(phase.epochs.start).uses_centroids
    centroids = torch.ones(CLASSES, width, device=device) if uses_centroids else None
    return inputs, torch.ones(BATCH, dtype=torch.int64, device=device), centroids


NOT_LAUNCHED = ("empty.memory_format", "_record_function", "detach", "promote_types")
"""Operations that start nothing on a device, beside views."""


class OperationLog(TorchDispatchMode):
    """Counts the operations that would start work on a device, by name; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        if not (function.is_view or name.startswith(NOT_LAUNCHED)):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class NoHostReads(TorchDispatchMode):
    """Raises AssertionError at an operation that would wait for a CUDA device: it reads a value, or
    the shape of its result depends on values."""

    FORBIDDEN = (
        *("_local_scalar_dense", "nonzero", "masked_select", "bincount"),
        *("unique", "_unique", "is_nonzero", "repeat_interleave"),
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        has_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for indices in args
            if isinstance(indices, (list, tuple))
            for index in indices
        )
        assert not (has_mask or name.startswith(self.FORBIDDEN)), f"{name} reads values"
        return function(*args, **(kwargs or {}))


def one_hot_as_on_cuda() -> patch:
    """Replaces `F.one_hot` by one without checks of the targets; only on a CPU the checks read
    values."""

    def one_hot(targets: Tensor, num_classes: int) -> Tensor:
        zeros = targets.new_zeros(*targets.shape, num_classes)
        return zeros.scatter_(-1, targets.unsqueeze(-1), 1)

    return patch("torch.nn.functional.one_hot", one_hot)


def fused_sgd(run: Run, parameters, lr: float) -> torch.optim.SGD:
    """Returns the optimiser that `Run.sgd` returns on CUDA."""
    settings = {"momentum": run.options.momentum, "weight_decay": run.options.weight_decay}
    optimizer = torch.optim.SGD(parameters, lr, fused=True, **settings)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(lr, device=run.machine.device)
    return optimizer
