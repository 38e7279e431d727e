"""Every flag of the command line: its type, default, bounds, meaning and role, in one place."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from utils.options import values
from utils.options.recipes import RECIPES
from utils.options.roles import Role, flag
from utils.options.values import LossTerm, Sampler, parse_losses, parse_sampler, split_names

OWN_DATASETS = ("folder", "csv", "npz")
BENCHMARK_LISTS = ("imagenet_lt", "inaturalist18")
DATASETS = ("cifar10", "cifar100", "digits", *OWN_DATASETS, *BENCHMARK_LISTS)
FILE_DATASETS = ("folder", "csv", *BENCHMARK_LISTS)
NATURAL_DATASETS = (*OWN_DATASETS, *BENCHMARK_LISTS)  # long-tailed, or not, as they come
CIFAR_NETWORKS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202")
IMAGENET_NETWORKS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnext50")
ARCHITECTURES = (*CIFAR_NETWORKS, *IMAGENET_NETWORKS)
CLASSIFICATION_LOSSES = ("ce", "ce_lt", "ce_bal", "bs", "bs_lt")
FEATURE_LOSSES = (*CLASSIFICATION_LOSSES, "robust_loss", "robust_loss_lt", "robust_loss_bal")
PRECISIONS = ("float32", "tf32", "bf16")
FEATURE_LAYERS = ("layer1", "layer2", "layer3", "layer4")
READINGS = (
    "linear",
    "ncm_cosine",
    "ncm_euclidean",
    "ncm_centred",
    "tau_norm",
    "tau_norm_tuned",
    "lws",
    "crt",
    "logit_adjustment",
)

# Groups, as `--help` shows them.
DATA = "data"
STAGE1 = "stage 1: classification"
STAGE2 = "stage 2: DRO-LT fine-tuning"
ROBUST = "the robust loss"
TRAINING = "training"
MACHINE = "machine"
RECORDS = "runs and records"

BOOLEAN: Mapping[str, Any] = {
    "type": values.boolean,
    "nargs": "?",
    "const": True,
    "default": False,
    "metavar": "BOOL",
}


@dataclass(frozen=True)
class Options:
    """The options of a run, by the flags' long names."""

    dataset: str = flag(
        DATA,
        "--dataset",
        role=Role.DATA,
        help="where images come from",
        default="cifar10",
        choices=DATASETS,
    )
    data_root: str = flag(
        DATA,
        "--data_root",
        role=Role.PLACE,
        help="cifar10, cifar100: folder with torchvision's files, or with "
        "cifar100/{train,test}/CLASS/*.png; downloaded there when missing. folder: the one that "
        "holds {train,test,val}/CLASS/** or CLASS/**. csv: the file of path,label[,split]. npz: "
        "the file. imagenet_lt, inaturalist18: the folder that the lists' paths start from",
        default="./data",
        metavar="PATH",
    )
    list_root: str | None = flag(
        DATA,
        "--list_root",
        role=Role.PLACE,
        help="folder of ImageNet_LT_{train,val,test}.txt or iNaturalist18_{train,val}.txt "
        "(default: DATA_ROOT)",
        metavar="DIR",
    )
    image_size: int | None = flag(
        DATA,
        "--image_size",
        role=Role.DATA,
        help="side in pixels to which images are resized and cropped, 8 to 1024 (default: npz "
        "keeps the file's; else 224 for the networks for large images and 32 for the others)",
        type=values.image_side,
        metavar="N",
    )
    normalisation: str = flag(
        DATA,
        "--normalisation",
        role=Role.DATA,
        help="mean and deviation of the channels: CIFAR's, ImageNet's, or auto: CIFAR's for "
        "cifar10, cifar100 and digits, ImageNet's for imagenet_lt and inaturalist18, and those of "
        "the training images for folder and npz, which stage 2 and evaluation take from the "
        "checkpoint",
        default="auto",
        choices=("auto", "cifar", "imagenet"),
    )
    stream: bool | str = flag(
        DATA,
        "--stream",
        role=Role.DATA,
        help="read images from their files in each epoch instead of holding them in memory: "
        "True, False or auto (images of 64 pixels or more, or of over a quarter of the memory)",
        default="auto",
        type=values.boolean_or_auto,
        metavar="BOOL",
    )
    test_fraction: float = flag(
        DATA,
        "--test_fraction",
        role=Role.DATA,
        help="part of each class set aside for the test, at least one image of a class of two, "
        "where a folder or csv has no test images; drawn by --rand_number, 0 < F < 1",
        default=0.2,
        type=values.part,
        metavar="F",
    )
    imb_type: str = flag(
        DATA,
        "--imb_type",
        role=Role.DATA,
        help="how class sizes fall: exponentially, in one step after half the classes, or as is "
        "(default: exp for cifar10, cifar100 and digits; natural for other data)",
        choices=("exp", "step", "natural"),
    )
    imb_factor: float = flag(
        DATA,
        "--imb_factor",
        role=Role.DATA,
        help="smallest class / largest class, 0 < F <= 1",
        default=0.01,
        type=values.fraction,
        metavar="F",
    )
    rand_number: int = flag(
        DATA,
        "--rand_number",
        role=Role.DATA,
        help="seed of the choice of the long-tailed subset",
        default=0,
        type=values.seed,
        metavar="N",
    )
    heldout_fraction: float = flag(
        DATA,
        "--heldout_fraction",
        role=Role.DATA,
        help="part of each class's training images held out before the subset is chosen, for "
        "data sets without held-out images of their own (CIFAR has: 20 per class that the "
        "subset leaves out), 0 <= F < 1",
        default=0.0,
        type=values.below_one,
        metavar="F",
    )
    arch: str = flag(
        STAGE1,
        "-a",
        "--arch",
        role=Role.BOTH_STAGES,
        help=f"network of both stages: {', '.join(CIFAR_NETWORKS)} for small images, "
        f"{', '.join(IMAGENET_NETWORKS)} for large ones",
        default="resnet32",
        choices=ARCHITECTURES,
        metavar="NAME",
    )
    loss_type: str = flag(
        STAGE1,
        "--loss_type",
        role=Role.STAGE_1,
        help="cross-entropy, focal loss (gamma 1), LDAM (max margin 0.5, scale 30), or balanced "
        "softmax",
        default="CE",
        choices=("CE", "Focal", "LDAM", "BS"),
    )
    head: str | None = flag(
        STAGE1,
        "--head",
        role=Role.STAGE_1,
        help="the classifier: linear, or cosine: 30 times the cosine of features and weights, "
        "without a bias; stage 2 takes that of its checkpoint (default: linear; LDAM has cosine)",
        choices=("linear", "cosine"),
    )
    train_rule: str = flag(
        STAGE1,
        "--train_rule",
        role=Role.STAGE_1,
        help="against imbalance: nothing, sampling or weights by effective number, or weights "
        "from epoch 161 on",
        default="None",
        choices=("None", "Resample", "Reweight", "DRW"),
    )
    exp_str: str = flag(
        STAGE1,
        "--exp_str",
        role=Role.FREE,
        help="last part of the folder's name",
        default="0",
        type=values.folder_part,
        metavar="S",
    )
    schedule: str = flag(
        STAGE1,
        "--schedule",
        role=Role.STAGE_1,
        help="rate steps after epochs 160 and 180 and DRW's switch after 160, or all of these "
        "scaled by EPOCHS/200, or half a cosine from the full rate to 0 (DRW's switch scaled)",
        default="absolute",
        choices=("absolute", "scaled", "cosine"),
    )
    warmup: int | None = flag(
        STAGE1,
        "--warmup",
        role=Role.STAGE_1,
        help="epochs in which the rate rises linearly to LR, before the rest of --schedule "
        "(default: 5; 0 for --schedule cosine)",
        type=values.count,
        metavar="E",
    )
    mixup: float = flag(
        STAGE1,
        "--mixup",
        role=Role.STAGE_1,
        help="images of a batch are mixed in pairs, by shares of Beta(A, A); 0: they are not",
        default=0.0,
        type=values.rate,
        metavar="A",
    )
    teacher: str | None = flag(
        STAGE1,
        "--teacher",
        role=Role.STAGE_1,
        help="distil from this run or checkpoint, of any network with the same classes, looked up "
        "as --pretrained is",
        metavar="X",
    )
    teacher_weight: float = flag(
        STAGE1,
        "--teacher_weight",
        role=Role.STAGE_1,
        help="(1-W) loss + W distillation, 0 <= W <= 1",
        default=0.5,
        type=values.weight,
        metavar="W",
    )
    teacher_temperature: float = flag(
        STAGE1,
        "--teacher_temperature",
        role=Role.STAGE_1,
        help="T of distillation, T^2 KL(teacher || student) of logits / T, > 0",
        default=2.0,
        type=values.positive,
        metavar="T",
    )
    teacher_power: float = flag(
        STAGE1,
        "--teacher_power",
        role=Role.STAGE_1,
        help="the teacher's probabilities are raised to P and normalised anew, > 0; 1: they are "
        "not",
        default=0.5,
        type=values.positive,
        metavar="P",
    )
    contrastive: str | None = flag(
        STAGE1,
        "--contrastive",
        role=Role.STAGE_1,
        help="bcl: 2 loss + 0.6 balanced contrastive loss of two more views of each image, with "
        "class centres (default: none)",
        choices=("bcl",),
    )
    pretrained: str | None = flag(
        STAGE2,
        "--pretrained",
        role=Role.FREE,
        help="stage-1 checkpoint to start from: a folder or .pth.tar file, looked up as given "
        "and under ROOT_MODEL, . and pretrained",
        metavar="X",
    )
    feat_loss: str | None = flag(
        STAGE2,
        "--feat_loss",
        role=Role.FEATURES,
        help=f"losses of the feature phase, summed: {', '.join(FEATURE_LOSSES)}; bs is "
        f"balanced softmax; _lt weighs classes by n_c/n_max, _bal by N/(K n_c)",
        type=values.names("loss", FEATURE_LOSSES),
        metavar="L[,L]",
    )
    feat_sampler: str | None = flag(
        STAGE2,
        "--feat_sampler",
        role=Role.FEATURES,
        help="order of the feature phase: none or instance (shuffled), or resample,k "
        "(class-aware, k images of each visited class)",
        type=values.sampler,
        metavar="S",
    )
    feat_lr: float = flag(
        STAGE2,
        "--feat_lr",
        role=Role.FEATURES,
        help="learning rate of features and margins",
        default=0.01,
        type=values.rate,
        metavar="LR",
    )
    feat_schedule: str = flag(
        STAGE2,
        "--feat_schedule",
        role=Role.FEATURES,
        help="FEAT_LR throughout (as published), or half a cosine from it to 0 over the feature "
        "epochs",
        default="constant",
        choices=("constant", "cosine"),
    )
    cls_loss: str | None = flag(
        STAGE2,
        "--cls_loss",
        role=Role.CLASSIFIER,
        help=f"losses of the classifier phase, summed: {', '.join(CLASSIFICATION_LOSSES)}",
        type=values.names("loss", CLASSIFICATION_LOSSES),
        metavar="L[,L]",
    )
    cls_sampler: str | None = flag(
        STAGE2,
        "--cls_sampler",
        role=Role.CLASSIFIER,
        help="order of the classifier phase: none (that of the feature phase, as the released "
        "code does), instance (shuffled), or resample,k",
        type=values.sampler,
        metavar="S",
    )
    cls_lr: float = flag(
        STAGE2,
        "--cls_lr",
        role=Role.CLASSIFIER,
        help="constant learning rate of the linear layer",
        default=0.01,
        type=values.rate,
        metavar="LR",
    )
    temperature: float = flag(
        ROBUST,
        "--temperature",
        role=Role.ROBUST_LOSS,
        help="temperature of the robust loss, in units of --robust_distance, > 0",
        default=0.07,
        type=values.positive,
        metavar="T",
    )
    margin: float = flag(
        ROBUST,
        "--margin",
        role=Role.ROBUST_LOSS,
        help="margin epsilon (its start, where learned), in units of the distance before squaring, "
        ">= 0",
        default=0.1,
        type=values.rate,
        metavar="E",
    )
    margin_type: str = flag(
        ROBUST,
        "--margin_type",
        role=Role.ROBUST_LOSS,
        help="one trained epsilon per class, epsilon = E, or epsilon_c = E/sqrt(n_c)",
        default="learned",
        choices=("learned", "shared", "sample_count"),
    )
    margin_min: float | None = flag(
        ROBUST,
        "--margin_min",
        role=Role.ROBUST_LOSS,
        help="learned margins are set back to E after each step where they fell below it, E >= 0 "
        "(default: no bound, as published)",
        type=values.rate,
        metavar="E",
    )
    margin_wd: float | None = flag(
        ROBUST,
        "--margin_wd",
        role=Role.ROBUST_LOSS,
        help="weight decay of learned margins (default: that of everything else, as published)",
        type=values.rate,
        metavar="W",
    )
    balanced_clf_nepochs: int = flag(
        STAGE2,
        "--balanced_clf_nepochs",
        role=Role.CLASSIFIER,
        help="the last B of the EPOCHS train the classifier, 0 <= B <= EPOCHS",
        default=20,
        type=values.count,
        metavar="B",
    )
    robust_weight: float | None = flag(
        ROBUST,
        "--robust_weight",
        role=Role.ROBUST_LOSS,
        help="stage 2: (1-W) cross-entropy + W robust loss, 0 <= W <= 1 (default: their sum); "
        "stage 1: loss + W robust loss in one stage (default: no robust loss)",
        type=values.weight,
        metavar="W",
    )
    robust_from: int = flag(
        ROBUST,
        "--robust_from",
        role=Role.ROBUST_LOSS,
        help="stage 1 with --robust_weight: the first epoch with the robust loss",
        default=1,
        type=values.positive_count,
        metavar="E",
    )
    robust_distance: str = flag(
        ROBUST,
        "--robust_distance",
        role=Role.ROBUST_LOSS,
        help="between features and centroids: the norm of their difference (as published), its "
        "square with the margin, or the norm after both are scaled to length 1",
        default="euclidean",
        choices=("euclidean", "squared", "normalised"),
    )
    feat_layers: str | None = flag(
        ROBUST,
        "--feat_layers",
        role=Role.ROBUST_LOSS,
        help=f"layers on whose pooled outputs the robust loss works, summed, each with its own "
        f"centroids and margins: some of {', '.join(FEATURE_LAYERS)} (default: the features that "
        f"the classifier reads)",
        type=values.names("layer", FEATURE_LAYERS),
        metavar="L[,L]",
    )
    as_released: bool = flag(
        ROBUST,
        "--as_released",
        role=Role.ROBUST_LOSS,
        help="restore what the released code does where it differs from paper and README: "
        "margins given to the wrong classes, epsilon starting at 1",
        **BOOLEAN,
    )
    recipe: str | None = flag(
        TRAINING,
        "--recipe",
        role=Role.FREE,
        help="flags of a whole method by its name (listed below); flags given beside it win; a "
        "stage 2 without --pretrained trains its stage 1 first",
        choices=RECIPES,
        metavar="NAME",
    )
    epochs: int = flag(
        TRAINING,
        "--epochs",
        role=Role.BOTH_STAGES,
        help="epochs; in stage 2 of both phases together",
        default=200,
        type=values.count,
        metavar="E",
    )
    start_epoch: int = flag(
        TRAINING,
        "--start-epoch",
        role=Role.BOTH_STAGES,
        help="epochs to count as done at the start",
        default=0,
        type=values.count,
        metavar="E",
    )
    batch_size: int = flag(
        TRAINING,
        "-b",
        "--batch-size",
        role=Role.BOTH_STAGES,
        help="images a step, of all processes together; the last partial batch is kept (usual for "
        "imagenet_lt and inaturalist18: 512 with --lr 0.2, or 256 with --lr 0.1) (default: 128)",
        default=128,
        type=values.positive_count,
        metavar="N",
    )
    lr: float = flag(
        TRAINING,
        "--lr",
        "--learning-rate",
        role=Role.STAGE_1,
        help="stage 1's learning rate: linear warm-up over 5 epochs, x0.01 after 160, x0.0001 "
        "after 180, or as --warmup and --schedule say",
        default=0.1,
        type=values.rate,
        metavar="LR",
    )
    backbone: str | None = flag(
        TRAINING,
        "--backbone",
        role=Role.BOTH_STAGES,
        help="start all of the network but its classifier from these weights: a state_dict of "
        "torchvision, timm or this project, .pth or .safetensors; ImageNet's normalisation goes "
        "with those of the networks for large images. In stage 2 they replace the features of "
        "--pretrained",
        metavar="FILE",
    )
    backbone_lr: float = flag(
        TRAINING,
        "--backbone_lr",
        role=Role.BOTH_STAGES,
        help="the rate of everything in front of the classifier, as a part of the stage's, >= 0",
        default=1.0,
        type=values.rate,
        metavar="X",
    )
    prior_weight: float = flag(
        TRAINING,
        "--prior_weight",
        role=Role.BOTH_STAGES,
        help="balanced softmax (--loss_type BS, bs) adds W log(n_c/N) to the logits in training",
        default=1.0,
        type=values.rate,
        metavar="W",
    )
    momentum: float = flag(
        TRAINING,
        "--momentum",
        role=Role.BOTH_STAGES,
        help="of SGD, 0 <= M < 1",
        default=0.9,
        type=values.below_one,
        metavar="M",
    )
    weight_decay: float = flag(
        TRAINING,
        "--wd",
        "--weight-decay",
        role=Role.BOTH_STAGES,
        help="weight decay (LDAM-DRW's own is 2e-4)",
        default=0.0001,
        type=values.rate,
        metavar="W",
    )
    augment: str = flag(
        TRAINING,
        "--augment",
        role=Role.BOTH_STAGES,
        help="training images: as they are; padded by 4, cropped, flipped; or that, AutoAugment "
        "and Cutout 16 (default: crop_flip in stage 1, autoaugment in stage 2)",
        choices=("none", "crop_flip", "autoaugment"),
    )
    select_on: str = flag(
        TRAINING,
        "--select_on",
        role=Role.BOTH_STAGES,
        help="what chooses the checkpoints of the whole chain: the test set (as published), "
        "held-out images, or nothing (the last epoch)",
        default="test",
        choices=("test", "heldout", "last"),
    )
    seed: int | None = flag(
        TRAINING,
        "--seed",
        role=Role.BOTH_STAGES,
        help="of weights, order and augmentation (default: drawn, and recorded in args.json)",
        type=values.seed,
        metavar="N",
    )
    seeds: str | None = flag(
        TRAINING,
        "--seeds",
        role=Role.FREE,
        help="train several seeds, side by side on a GPU, one after another on a CPU; each in a "
        "sub-folder seedN of the run's folder, whose summary.json has mean and deviation",
        type=values.seeds,
        metavar="N,N[,N]",
    )
    pretrain_epochs: int | None = flag(
        STAGE2,
        "--pretrain_epochs",
        role=Role.FREE,
        help="both stages by one command: train stage 1 for E epochs first, then start from it "
        "(instead of --pretrained)",
        type=values.positive_count,
        metavar="E",
    )
    gpu: int | str | None = flag(
        MACHINE,
        "--gpu",
        role=Role.FREE,
        help="CUDA device, or cpu (default: the first, or the CPU where there is none)",
        type=values.device,
        metavar="N",
    )
    precision: str = flag(
        MACHINE,
        "--precision",
        role=Role.BOTH_STAGES,
        help="of the convolutions; losses, centroids and weights stay in float32 (tf32: NVIDIA "
        "GPUs from 8.0; bf16: where the processor or GPU has it natively)",
        default="float32",
        choices=PRECISIONS,
    )
    step: str = flag(
        MACHINE,
        "--step",
        role=Role.FREE,
        help="how a step is taken: operation by operation, replayed as a CUDA graph (the same "
        "numbers), or compiled (other roundings); auto: graph on CUDA, else eager",
        default="auto",
        choices=("auto", "eager", "graph", "compile"),
    )
    accumulate: int = flag(
        MACHINE,
        "--accumulate",
        role=Role.BOTH_STAGES,
        help="micro-batches that a step's batch is taken in, for batches beyond memory: the whole "
        "batch's losses and gradient, twice the forward passes; batch-norm sees micro-batches",
        default=1,
        type=values.positive_count,
        metavar="N",
    )
    sync_bn: bool = flag(
        MACHINE,
        "--sync_bn",
        role=Role.BOTH_STAGES,
        help="batch-norm over the images of all processes instead of each one's own (GPUs)",
        **BOOLEAN,
    )
    workers: int = flag(
        MACHINE,
        "-j",
        "--workers",
        role=Role.FREE,
        help="processes that read streamed data; data held in memory needs none",
        default=20,
        type=values.count,
        metavar="N",
    )
    resume: bool = flag(
        RECORDS,
        "--resume",
        role=Role.FREE,
        help="start this run, or continue it after its last finished epoch",
        **BOOLEAN,
    )
    overwrite: bool = flag(
        RECORDS,
        "--overwrite",
        role=Role.FREE,
        help="replace a run that is in the folder already",
        **BOOLEAN,
    )
    evaluation: bool = flag(
        RECORDS,
        "-e",
        "--evaluate",
        "--evaluation",
        role=Role.FREE,
        help="no training: accuracies and outputs of the run's best checkpoint",
        **BOOLEAN,
    )
    readings: str | None = flag(
        RECORDS,
        "--readings",
        role=Role.FREE,
        help=f"with --evaluation: read the features by several classifiers: all, or some of "
        f"{', '.join(READINGS)}",
        type=values.names("reading", READINGS, everything="all"),
        metavar="R[,R]",
    )
    root_log: str = flag(
        RECORDS,
        "--root_log",
        role=Role.FREE,
        help="records and outputs go below DIR",
        default="checkpoint",
        metavar="DIR",
    )
    root_model: str = flag(
        RECORDS,
        "--root_model",
        role=Role.FREE,
        help="checkpoints go below DIR",
        default="checkpoint",
        metavar="DIR",
    )
    print_freq: int = flag(
        RECORDS,
        "-p",
        "--print-freq",
        role=Role.FREE,
        help="batches between two updates of the progress bar",
        default=10,
        type=values.positive_count,
        metavar="N",
    )
    checkpoint_every: int = flag(
        RECORDS,
        "--checkpoint_every",
        role=Role.FREE,
        help="epochs between two checkpoints; going on repeats those since the last",
        default=1,
        type=values.positive_count,
        metavar="N",
    )

    def __post_init__(self) -> None:
        """Fills in the defaults that depend on other flags."""
        defaults = {
            "augment": "crop_flip" if self.stage == 1 else "autoaugment",
            "imb_type": "natural" if self.dataset in NATURAL_DATASETS else "exp",
            "warmup": 0 if self.schedule == "cosine" else 5,
        }
        if self.stage == 1:
            defaults["head"] = "cosine" if self.loss_type == "LDAM" else "linear"
        absent = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        starts_from_weights = self.stage == 1 and self.backbone is not None
        is_large = self.arch in IMAGENET_NETWORKS
        if starts_from_weights and is_large and self.normalisation == "auto":
            absent["normalisation"] = "imagenet"
        for name, value in absent.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def default_here(self, name: str) -> Any:
        """The value that a flag has beside the others when it is not given."""
        return getattr(replace(self, **{name: default_of(name)}), name)

    def is_at_default(self, name: str) -> bool:
        """Whether a flag has the value that it has when it is not given."""
        return getattr(self, name) == self.default_here(name)

    @property
    def stage(self) -> int:
        return 1 if self.pretrained is None else 2

    @property
    def has_robust_loss(self) -> bool:
        if self.stage == 1:
            return self.robust_weight is not None
        return any(term.is_robust for term in self.feature_losses)

    @property
    def feature_losses(self) -> tuple[LossTerm, ...]:
        """The terms of `--feat_loss`."""
        return parse_losses(self.feat_loss)

    @property
    def classifier_losses(self) -> tuple[LossTerm, ...]:
        """The terms of `--cls_loss`."""
        return parse_losses(self.cls_loss)

    @property
    def robust_layers(self) -> tuple[str, ...]:
        """The layers of `--feat_layers`; none where the robust loss works on the features."""
        return split_names(self.feat_layers)

    @property
    def chosen_readings(self) -> tuple[str, ...]:
        """The classifiers of `--readings`."""
        return split_names(self.readings)

    def decisive(self) -> tuple[str, ...]:
        """The options that decide this run's result: those whose role is its stage, or both, or
        the robust loss where it has one."""
        of_stage = (Role.STAGE_1,) if self.stage == 1 else (Role.FEATURES, Role.CLASSIFIER)
        of_loss = (Role.ROBUST_LOSS,) if self.has_robust_loss else ()
        return with_role(Role.DATA, Role.BOTH_STAGES, *of_stage, *of_loss)

    @property
    def image_side(self) -> int | None:
        """Side of the images in pixels: as given, or the usual one of the network for data read
        from image files; None where the data set decides."""
        if self.image_size is None and self.dataset in FILE_DATASETS:
            return 224 if self.arch in IMAGENET_NETWORKS else 32
        return self.image_size

    @property
    def feature_epochs(self) -> int:
        """Epochs of stage 2's feature phase, E − B."""
        return self.epochs - self.balanced_clf_nepochs

    @property
    def starting_margin(self) -> float:
        """The released code only names its folder after `--margin`: ε always starts at 1."""
        return 1.0 if self.as_released else self.margin

    @property
    def feature_sampler(self) -> Sampler:
        return parse_sampler(self.feat_sampler)

    @property
    def classifier_sampler(self) -> Sampler:
        """`none` means the feature phase's sampler: the released code ignores `--cls_sampler`, so
        the published run had a class-balanced classifier phase under the name `none`."""
        if self.cls_sampler in (None, "none"):
            return self.feature_sampler
        return parse_sampler(self.cls_sampler)

    def with_seed(self, seed: int) -> "Options":
        return replace(self, seed=seed)

    def by_seed(self) -> list["Options"]:
        """The runs that the options stand for: one, or one for each of `--seeds`."""
        if self.seeds is None:
            return [self]
        return [self.with_seed(int(seed)) for seed in split_names(self.seeds)]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Options":
        """The options that a run's `args.json` records. A flag that it lacks did not exist when
        the run was made, which counts as its default; other entries are left out."""
        return cls(**{name: record[name] for name in FIELDS if name in record})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


FIELDS = {field.name: field for field in fields(Options)}
"""The declaration of each flag, by the name of its option."""


def default_of(name: str) -> Any:
    """A flag's default; None where it depends on other flags."""
    return FIELDS[name].default


def flag_of(name: str) -> str:
    """The flag of an option, as one writes it."""
    return next(flag for flag in FIELDS[name].metadata["names"] if flag.startswith("--"))


def with_role(*roles: Role) -> tuple[str, ...]:
    """The options with one of the roles, in the order of `--help`."""
    return tuple(name for name, field in FIELDS.items() if field.metadata["role"] in roles)
