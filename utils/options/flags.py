"""Every flag of the command line: its type, default, bounds, meaning and role, in one place."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from utils.options import values
from utils.options.recipes import RECIPES
from utils.options.roles import Role, flag
from utils.options.values import LossTerm, Sampler, parse_losses, parse_sampler, split_names

CIFAR_DATASETS = ("cifar10", "cifar100")
OWN_DATASETS = ("folder", "csv", "npz")
BENCHMARK_LISTS = ("imagenet_lt", "inaturalist18")
DATASETS = (*CIFAR_DATASETS, "digits", *OWN_DATASETS, *BENCHMARK_LISTS)
FILE_DATASETS = ("folder", "csv", *BENCHMARK_LISTS)
NATURAL_DATASETS = (*OWN_DATASETS, *BENCHMARK_LISTS)  # these keep their own class counts
CIFAR_NETWORKS = (
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
)
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
    "temperature_scaling",
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


def usual_side(arch: str) -> int:
    """Returns the side in pixels of the images that a network usually takes."""
    return 224 if arch in IMAGENET_NETWORKS else 32


@dataclass(frozen=True)
class Options:
    """The options of a run, by the flags' long names."""

    dataset: str = flag(
        DATA,
        role=Role.DATA,
        help="where images come from",
        default="cifar10",
        choices=DATASETS,
    )
    data_root: str = flag(
        DATA,
        role=Role.PLACE,
        help="cifar10, cifar100: folder with torchvision's files, or with "
        "cifar100/{train,test}/CLASS/*.png; downloaded there when missing. folder: the one that "
        "holds {train,test,val}/CLASS/** or CLASS/**. csv: the file with columns "
        "path,label[,split]. npz: the file. imagenet_lt, inaturalist18: the folder that the lists' "
        "paths start from",
        default="./data",
        type=values.path_text,
        metavar="PATH",
    )
    list_root: str | None = flag(
        DATA,
        role=Role.PLACE,
        help="folder of ImageNet_LT_{train,val,test}.txt or iNaturalist18_{train,val}.txt "
        "(default: DATA_ROOT)",
        type=values.path_text,
        metavar="DIR",
    )
    image_size: int | None = flag(
        DATA,
        role=Role.DATA,
        help="images are resized and cropped to N x N pixels, 8 <= N <= 1024 (default: the file's "
        "own size for npz; else 224 with an ImageNet network and 32 with a CIFAR network)",
        type=values.image_side,
        metavar="N",
    )
    normalisation: str = flag(
        DATA,
        role=Role.DATA,
        help="mean and standard deviation of the channels: cifar and imagenet are fixed values; "
        "auto is cifar for cifar10, cifar100 and digits, imagenet for imagenet_lt and "
        "inaturalist18, and the training images' own values for folder, csv and npz. Stage 2 and "
        "evaluation take the values from the checkpoint",
        default="auto",
        choices=("auto", "cifar", "imagenet"),
    )
    stream: bool | str = flag(
        DATA,
        role=Role.DATA,
        help="read images from their files in each epoch instead of holding them in memory: "
        "True, False or auto (True for images of 64 pixels or more, and for data that would fill "
        "over a quarter of the memory)",
        default="auto",
        type=values.boolean_or_auto,
        metavar="BOOL",
    )
    test_fraction: float = flag(
        DATA,
        role=Role.DATA,
        help="a folder or csv without test images: this part of each class becomes the test set, "
        "at least one image of each class that has two or more; drawn with the seed "
        "--rand_number, 0 < F < 1",
        default=0.2,
        type=values.between_0_and_1,
        metavar="F",
    )
    imb_type: str = flag(
        DATA,
        role=Role.DATA,
        help="how class sizes fall: exp is exponential, step is one step after half the classes, "
        "natural keeps every image (default: exp for cifar10, cifar100 and digits; natural for "
        "other data)",
        choices=("exp", "step", "natural"),
    )
    imb_factor: float = flag(
        DATA,
        role=Role.DATA,
        help="size of the smallest class / size of the largest class, 0 < F <= 1; no effect with "
        "--imb_type natural",
        default=0.01,
        type=values.above_0_to_1,
        metavar="F",
    )
    rand_number: int = flag(
        DATA,
        role=Role.DATA,
        help="seed that chooses images: the long-tailed subset, and the parts that --test_fraction "
        "and --heldout_fraction take, 0 <= N < 2^32",
        default=0,
        type=values.seed,
        metavar="N",
    )
    heldout_fraction: float = flag(
        DATA,
        role=Role.DATA,
        help="this part of each class's training images, rounded down, is held out before the "
        "subset is chosen, 0 <= F < 1. For data sets without held-out images of their own. With 0, "
        "up to 20 images per class that the subset leaves out are held out, except with digits",
        default=0.0,
        type=values.from_0_below_1,
        metavar="F",
    )
    arch: str = flag(
        STAGE1,
        "-a",
        "--arch",
        role=Role.BOTH_STAGES,
        is_shared=True,
        help=f"network of both stages: {', '.join(CIFAR_NETWORKS)} for small images, "
        f"{', '.join(IMAGENET_NETWORKS)} for large ones",
        default="resnet32",
        choices=ARCHITECTURES,
        metavar="NAME",
    )
    loss_type: str = flag(
        STAGE1,
        role=Role.STAGE_1,
        help="CE: cross-entropy. Focal: focal loss, gamma 1. LDAM: largest margin 0.5, scale 30. "
        "BS: balanced softmax",
        default="CE",
        choices=("CE", "Focal", "LDAM", "BS"),
    )
    head: str | None = flag(
        STAGE1,
        role=Role.STAGE_1,
        help="the network's classifier. cosine: the logits are 30 times the cosine of features and "
        "weights, without a bias. Stage 2 takes the head of its checkpoint (default: linear; "
        "cosine with LDAM)",
        choices=("linear", "cosine"),
    )
    train_rule: str = flag(
        STAGE1,
        role=Role.STAGE_1,
        help="remedy for the imbalance. None: nothing. Resample, Reweight: sampling or class "
        "weights by the effective number of images. DRW: class weights from epoch 161 on, or as "
        "--schedule says",
        default="None",
        choices=("None", "Resample", "Reweight", "DRW"),
    )
    exp_str: str = flag(
        STAGE1,
        role=Role.COMMAND,
        help="last part of the name of stage 1's run folder, before its digest: 1 to 100 "
        "characters without /",
        default="0",
        type=values.folder_part,
        metavar="S",
    )
    schedule: str = flag(
        STAGE1,
        role=Role.STAGE_1,
        help="absolute: the learning rate falls after epochs 160 and 180, and DRW begins after "
        "160. scaled: these epochs times EPOCHS/200. cosine: the rate falls along half a cosine "
        "to 0; DRW as with scaled",
        default="absolute",
        choices=("absolute", "scaled", "cosine"),
    )
    warmup: int | None = flag(
        STAGE1,
        role=Role.STAGE_1,
        help="the learning rate rises linearly to LR over the first E epochs, E >= 0 (default: 5; "
        "0 with --schedule cosine)",
        type=values.count,
        metavar="E",
    )
    mixup: float = flag(
        STAGE1,
        role=Role.STAGE_1,
        only_stage=1,
        help="mix the images of a batch in pairs, in proportions drawn from Beta(A, A), A >= 0; 0: "
        "no mixing",
        default=0.0,
        type=values.not_negative,
        metavar="A",
    )
    teacher: str | None = flag(
        STAGE1,
        role=Role.STAGE_1,
        content="checkpoint",
        only_stage=1,
        help="distil from this run or checkpoint. Its network may be another one, with the same "
        "classes. It is looked up as --pretrained is",
        type=values.path_text,
        metavar="X",
    )
    teacher_weight: float = flag(
        STAGE1,
        role=Role.STAGE_1,
        needs="teacher",
        help="with --teacher: the loss is (1-W) loss + W distillation, 0 <= W <= 1",
        default=0.5,
        type=values.from_0_to_1,
        metavar="W",
    )
    teacher_temperature: float = flag(
        STAGE1,
        role=Role.STAGE_1,
        needs="teacher",
        help="with --teacher: distillation is T^2 KL(teacher || student) with logits / T, T > 0",
        default=2.0,
        type=values.positive,
        metavar="T",
    )
    teacher_power: float = flag(
        STAGE1,
        role=Role.STAGE_1,
        needs="teacher",
        help="with --teacher: its probabilities are raised to the power P and normalised again, "
        "P > 0; 1 leaves them as they are",
        default=0.5,
        type=values.positive,
        metavar="P",
    )
    contrastive: str | None = flag(
        STAGE1,
        role=Role.STAGE_1,
        only_stage=1,
        excludes=("mixup", "teacher", "robust_weight"),
        help="bcl: the loss is 2 loss + 0.6 balanced contrastive loss; it takes two more views of "
        "each image, and class centres (default: no contrastive loss)",
        choices=("bcl",),
    )
    pretrained: str | None = flag(
        STAGE2,
        role=Role.COMMAND,
        help="start stage 2 from this stage-1 checkpoint, a run folder or a .pth.tar file. X is "
        "looked up as a path, then below ROOT_MODEL, ./ and pretrained/",
        type=values.path_text,
        metavar="X",
    )
    feat_loss: str | None = flag(
        STAGE2,
        role=Role.FEATURES,
        only_stage=2,
        help=f"losses of the feature phase, summed: {', '.join(FEATURE_LOSSES)}. bs is "
        f"balanced softmax. _lt weighs class c by n_c/n_max, _bal by N/(K n_c). Needed for "
        f"feature epochs (default: no loss)",
        type=values.names("loss", FEATURE_LOSSES),
        metavar="L[,L]",
    )
    feat_sampler: str | None = flag(
        STAGE2,
        role=Role.FEATURES,
        help="order of the images in the feature phase. none or instance: shuffled. resample,k: "
        "class-aware, k images of a class at each visit, k >= 1 (default: none)",
        type=values.sampler,
        metavar="S",
    )
    feat_lr: float = flag(
        STAGE2,
        role=Role.FEATURES,
        help="learning rate of the feature phase, for the network and the margins, LR >= 0",
        default=0.01,
        type=values.not_negative,
        metavar="LR",
    )
    feat_schedule: str = flag(
        STAGE2,
        role=Role.FEATURES,
        help="constant: the rate stays FEAT_LR (as published). cosine: it falls to 0 along half a "
        "cosine over the feature epochs",
        default="constant",
        choices=("constant", "cosine"),
    )
    cls_loss: str | None = flag(
        STAGE2,
        role=Role.CLASSIFIER,
        only_stage=2,
        help=f"losses of the classifier phase, summed: {', '.join(CLASSIFICATION_LOSSES)}. "
        f"Needed for classifier epochs (default: no loss)",
        type=values.names("loss", CLASSIFICATION_LOSSES),
        metavar="L[,L]",
    )
    cls_sampler: str | None = flag(
        STAGE2,
        role=Role.CLASSIFIER,
        help="order of the images in the classifier phase. none: the order of the feature phase, "
        "as in the released code. instance: shuffled. resample,k: class-aware (default: none)",
        type=values.sampler,
        metavar="S",
    )
    cls_lr: float = flag(
        STAGE2,
        role=Role.CLASSIFIER,
        help="learning rate of the classifier phase, which is constant, LR >= 0",
        default=0.01,
        type=values.not_negative,
        metavar="LR",
    )
    temperature: float = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        help="temperature of the robust loss, in the units of --robust_distance, T > 0",
        default=0.07,
        type=values.positive,
        metavar="T",
    )
    margin: float = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        help="margin epsilon, or its first value where it is learned, in the units of the distance "
        "before squaring, E >= 0",
        default=0.1,
        type=values.not_negative,
        metavar="E",
    )
    margin_type: str = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        help="learned: one trained epsilon per class. shared: epsilon = E for all classes. "
        "sample_count: epsilon_c = E/sqrt(n_c). The last two are not trained",
        default="learned",
        choices=("learned", "shared", "sample_count"),
    )
    margin_min: float | None = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        needs="margin_type learned",
        help="lower bound of learned margins, applied after each step, E >= 0 (default: no bound, "
        "as published)",
        type=values.not_negative,
        metavar="E",
    )
    margin_wd: float | None = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        needs="margin_type learned",
        help="weight decay of learned margins, W >= 0 (default: WD, as published)",
        type=values.not_negative,
        metavar="W",
    )
    balanced_clf_nepochs: int = flag(
        STAGE2,
        role=Role.CLASSIFIER,
        help="the last B of the EPOCHS are the classifier phase, the others the feature phase, "
        "0 <= B <= EPOCHS",
        default=20,
        type=values.count,
        metavar="B",
    )
    robust_weight: float | None = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        help="0 <= W <= 1. In stage 2 the loss is (1-W) cross-entropy + W robust loss (default: "
        "their sum). In stage 1 it is loss + W robust loss (default: no robust loss)",
        type=values.from_0_to_1,
        metavar="W",
    )
    robust_from: int | float = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        only_stage=1,
        needs="robust_weight",
        help="stage 1 with --robust_weight: the robust loss joins in epoch E; with E < 1, after "
        "this share of the epochs",
        default=1,
        type=values.epoch_or_share,
        metavar="E",
    )
    robust_distance: str = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        help="distance between features and centroids. euclidean: the norm of their difference (as "
        "published). squared: max(norm + margin, 0)^2. normalised: the norm after both are "
        "scaled to length 1",
        default="euclidean",
        choices=("euclidean", "squared", "normalised"),
    )
    feat_layers: str | None = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        only_stage=2,
        help=f"the robust loss is the sum over the pooled outputs of these layers, each with its "
        f"own centroids and margins: some of {', '.join(FEATURE_LAYERS)} (default: the features "
        f"that the classifier reads)",
        type=values.names("layer", FEATURE_LAYERS),
        metavar="L[,L]",
    )
    as_released: bool = flag(
        ROBUST,
        role=Role.ROBUST_LOSS,
        help="do as the released code does where it differs from its paper and README: it gives "
        "margins to the wrong classes, and epsilon starts at 1",
        **BOOLEAN,
    )
    recipe: str | None = flag(
        TRAINING,
        role=Role.COMMAND,
        help="use the flags of a whole method; the recipes are listed below. Flags given beside it "
        "win. A stage-2 recipe without --pretrained trains its stage 1 first",
        choices=RECIPES,
        metavar="NAME",
    )
    epochs: int = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        help="number of epochs, E >= 0; in stage 2 of both phases together",
        default=200,
        type=values.count,
        metavar="E",
    )
    start_epoch: int = flag(
        TRAINING,
        "--start-epoch",
        role=Role.BOTH_STAGES,
        help="count the first E epochs as done, 0 <= E <= EPOCHS",
        default=0,
        type=values.count,
        metavar="E",
    )
    batch_size: int = flag(
        TRAINING,
        "-b",
        "--batch-size",
        role=Role.BOTH_STAGES,
        is_shared=True,
        help="images in a step, over all processes, N >= 1; the last partial batch is kept. Usual "
        "for imagenet_lt and inaturalist18: 512 with --lr 0.2, or 256 with --lr 0.1; and --epochs "
        "90 --schedule cosine (default: 128)",
        default=128,
        type=values.positive_count,
        metavar="N",
    )
    lr: float = flag(
        TRAINING,
        "--lr",
        "--learning-rate",
        role=Role.STAGE_1,
        is_shared=True,
        help="learning rate of stage 1: linear warm-up over 5 epochs, LR x 0.01 after epoch 160, "
        "LR x 0.0001 after 180, unless --warmup and --schedule say otherwise; LR >= 0",
        default=0.1,
        type=values.not_negative,
        metavar="LR",
    )
    backbone: str | None = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        content="file",
        is_shared=True,
        help="start the whole network except its classifier from these weights: a state_dict of "
        "torchvision, timm or this project, .pth or .safetensors. In stage 1 an ImageNet network "
        "then also gets ImageNet's normalisation. In stage 2 the weights replace those of "
        "--pretrained",
        type=values.path_text,
        metavar="FILE",
    )
    backbone_lr: float = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        is_shared=True,
        help="learning rate of the network except its classifier = X times the rate of the stage, "
        "X >= 0",
        default=1.0,
        type=values.not_negative,
        metavar="X",
    )
    prior_weight: float = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        help="balanced softmax (--loss_type BS, bs) adds W log(n_c/N) to the logits in training, "
        "W >= 0",
        default=1.0,
        type=values.not_negative,
        metavar="W",
    )
    momentum: float = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        help="momentum of SGD, 0 <= M < 1",
        default=0.9,
        type=values.from_0_below_1,
        metavar="M",
    )
    weight_decay: float = flag(
        TRAINING,
        "--wd",
        "--weight-decay",
        role=Role.BOTH_STAGES,
        help="weight decay, W >= 0; LDAM-DRW's own recipe has 2e-4",
        default=0.0001,
        type=values.not_negative,
        metavar="W",
    )
    augment: str = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        is_shared=True,
        help="augmentation of training images. crop_flip: padded by 4, cropped, flipped. "
        "autoaugment: crop_flip, AutoAugment and Cutout 16 (at most half the side of images up to "
        "16 pixels). Images of 64 pixels or more that are streamed have others, see docs/data.md "
        "(default: crop_flip in stage 1, autoaugment in stage 2)",
        choices=("none", "crop_flip", "autoaugment"),
    )
    select_on: str = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        help="protocol: what chooses the epoch at every point of both stages. test: balanced "
        "accuracy on the test set (as published). heldout: the same on held-out images. last: "
        "nothing, the last epoch counts",
        default="test",
        choices=("test", "heldout", "last"),
    )
    seed: int | None = flag(
        TRAINING,
        role=Role.BOTH_STAGES,
        help="seed of weights, order and augmentation, 0 <= N < 2^32 (default: drawn, and recorded "
        "in args.json)",
        type=values.seed,
        metavar="N",
    )
    seeds: str | None = flag(
        TRAINING,
        role=Role.COMMAND,
        help="train a run for each seed, side by side on a GPU if the images are held in memory "
        "(not with torchrun), else one after another. Each has a sub-folder seedN of the run "
        "folder. The run folder's summary.json has the mean and the sample standard deviation",
        type=values.seeds,
        metavar="N[,N]",
    )
    pretrain_epochs: int | None = flag(
        STAGE2,
        role=Role.COMMAND,
        help="both stages in one command, instead of --pretrained: train stage 1 for E epochs, "
        "E >= 1, then start stage 2 from it",
        type=values.positive_count,
        metavar="E",
    )
    gpu: int | str | None = flag(
        MACHINE,
        role=Role.FREE,
        help="number of a CUDA device, or cpu (default: the first CUDA device, or the CPU where "
        "there is none)",
        type=values.device,
        metavar="N",
    )
    precision: str = flag(
        MACHINE,
        role=Role.BOTH_STAGES,
        help="precision of the convolutions; losses, centroids and weights stay in float32. tf32 "
        "needs an NVIDIA GPU of compute capability 8.0 or more, bf16 a processor or GPU that has "
        "it natively",
        default="float32",
        choices=PRECISIONS,
    )
    step: str = flag(
        MACHINE,
        role=Role.FREE,
        help="how a step runs. eager: operation by operation. graph: replayed as a CUDA graph, "
        "with the same numbers. compile: compiled, with other roundings. auto: graph on CUDA with "
        "one process and --accumulate 1, else eager",
        default="auto",
        choices=("auto", "eager", "graph", "compile"),
    )
    accumulate: int = flag(
        MACHINE,
        role=Role.BOTH_STAGES,
        help="take each batch in N micro-batches, N >= 1, for batches beyond memory. Losses and "
        "gradient are those of the whole batch, at twice the forward passes. Batch-norm sees "
        "micro-batches",
        default=1,
        type=values.positive_count,
        metavar="N",
    )
    sync_bn: bool = flag(
        MACHINE,
        role=Role.BOTH_STAGES,
        help="batch-norm normalises over the images of all processes, not over each process's own "
        "(GPUs only)",
        **BOOLEAN,
    )
    workers: int = flag(
        MACHINE,
        "-j",
        "--workers",
        role=Role.FREE,
        help="processes that read streamed data, at most one per core over all processes of a run; "
        "0: this process reads them. Data held in memory needs none",
        default=20,
        type=values.count,
        metavar="N",
    )
    resume: bool = flag(
        RECORDS,
        role=Role.COMMAND,
        help="start this run, or continue it after its last checkpoint",
        **BOOLEAN,
    )
    overwrite: bool = flag(
        RECORDS,
        role=Role.COMMAND,
        help="replace the run that is already in the folder",
        **BOOLEAN,
    )
    evaluation: bool = flag(
        RECORDS,
        "-e",
        "--evaluate",
        "--evaluation",
        role=Role.COMMAND,
        help="do not train: print accuracies and write outputs of the run's best checkpoint",
        **BOOLEAN,
    )
    check_images: bool = flag(
        RECORDS,
        role=Role.COMMAND,
        help="do not train: read every image file of the data whole, and print a line for each one "
        "that cannot be read",
        **BOOLEAN,
    )
    readings: str | None = flag(
        RECORDS,
        role=Role.COMMAND,
        needs="evaluation",
        help=f"with --evaluation: compare several classifiers on the run's features: all, or some "
        f"of {', '.join(READINGS)}",
        type=values.names("reading", READINGS, everything="all"),
        metavar="R[,R]",
    )
    root_log: str = flag(
        RECORDS,
        role=Role.COMMAND,
        help="folder for records and outputs",
        default="checkpoint",
        type=values.expanded_path_text,
        metavar="DIR",
    )
    root_model: str = flag(
        RECORDS,
        role=Role.COMMAND,
        help="folder for checkpoints",
        default="checkpoint",
        type=values.expanded_path_text,
        metavar="DIR",
    )
    print_freq: int = flag(
        RECORDS,
        "-p",
        "--print-freq",
        role=Role.FREE,
        help="batches between two updates of the progress bar, N >= 1",
        default=10,
        type=values.positive_count,
        metavar="N",
    )
    checkpoint_every: int = flag(
        RECORDS,
        role=Role.FREE,
        help="write a checkpoint every N epochs, N >= 1; --resume repeats the epochs since the "
        "last one",
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
        """Returns the default of a flag, given the values of the other flags."""
        return getattr(replace(self, **{name: default_of(name)}), name)

    def is_at_default(self, name: str) -> bool:
        """Returns True if a flag has its default value, given the values of the other flags."""
        return getattr(self, name) == self.default_here(name)

    @property
    def stage(self) -> int:
        """2 with `--pretrained`, else 1."""
        return 1 if self.pretrained is None else 2

    @property
    def has_robust_loss(self) -> bool:
        """True if the robust loss is a part of this stage's loss."""
        if self.stage == 1:
            return self.robust_weight is not None
        return any(term.is_robust for term in self.feature_losses)

    @property
    def has_margins(self) -> bool:
        """True if an epoch of this stage may have the robust loss, which reads the margins."""
        return self.has_robust_loss and (self.stage == 1 or self.feature_epochs > 0)

    @property
    def robust_start(self) -> int:
        """The first epoch of stage 1 with the robust loss, by `--robust_from`."""
        start = self.robust_from
        return int(start) if start >= 1 else int(round(start * self.epochs, 6)) + 1

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
        """The layers of `--feat_layers`; empty if the robust loss works on the features."""
        return split_names(self.feat_layers)

    @property
    def chosen_readings(self) -> tuple[str, ...]:
        """The classifiers of `--readings`."""
        return split_names(self.readings)

    def decisive(self) -> tuple[str, ...]:
        """Returns the names of the options that decide this run's result: those with the role of
        the data, of its stage, of both stages, and of the robust loss if it has one."""
        of_stage = (Role.STAGE_1,) if self.stage == 1 else (Role.FEATURES, Role.CLASSIFIER)
        of_loss = (Role.ROBUST_LOSS,) if self.has_robust_loss else ()
        return with_role(Role.DATA, Role.BOTH_STAGES, *of_stage, *of_loss)

    @property
    def image_side(self) -> int | None:
        """Side of the images in pixels: `--image_size`, or the network's usual size for data read
        from image files; None if the data set decides."""
        if self.image_size is None and self.dataset in FILE_DATASETS:
            return usual_side(self.arch)
        return self.image_size

    @property
    def feature_epochs(self) -> int:
        """Number of epochs of stage 2's feature phase, E − B."""
        return self.epochs - self.balanced_clf_nepochs

    @property
    def starting_margin(self) -> float:
        """ε before the first step. In the released code ε always starts at 1, and `--margin` is
        only a part of the folder's name."""
        return 1.0 if self.as_released else self.margin

    @property
    def feature_sampler(self) -> Sampler:
        """The sampler of the feature phase."""
        return parse_sampler(self.feat_sampler)

    @property
    def classifier_sampler(self) -> Sampler:
        """The sampler of the classifier phase. `none` means the feature phase's sampler: the
        released code ignores `--cls_sampler`, so its published run with `--cls_sampler none` had a
        class-aware classifier phase."""
        if self.cls_sampler in (None, "none"):
            return self.feature_sampler
        return parse_sampler(self.cls_sampler)

    def by_seed(self) -> list["Options"]:
        """Returns the options of each run: one run, or one for each of `--seeds`."""
        if self.seeds is None:
            return [self]
        return [replace(self, seed=int(seed)) for seed in split_names(self.seeds)]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Options":
        """Returns the options that a run's `args.json` records. A flag that the record lacks did
        not exist when the run was made, so it has its default. Other entries are ignored."""
        return cls(**{name: record[name] for name in FIELDS if name in record})

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as a dict, by their names."""
        return asdict(self)


FIELDS = {field.name: field for field in fields(Options)}
"""The declaration of each flag, by the name of its option."""


OF_LOGITS = (
    *("loss_type", "train_rule", "feat_loss", "feat_sampler", "cls_loss", "cls_sampler"),
    *("balanced_clf_nepochs", "prior_weight"),
)
"""The options that say which class frequencies the logits of a trained network stand for."""

OF_HELD_OUT = ("heldout_fraction", "rand_number")
"""The options that say which training images are held out."""


def default_of(name: str) -> Any:
    """Returns a flag's default; None if it depends on other flags."""
    return FIELDS[name].default


def names_of(name: str) -> tuple[str, ...]:
    """Returns the names of an option's flag on the command line: `-b`, `--batch-size`."""
    return FIELDS[name].metadata["names"] or (f"--{name}",)


def flag_of(name: str) -> str:
    """Returns the flag of an option, as the command line spells it: `--batch-size`."""
    return next(flag for flag in names_of(name) if flag.startswith("--"))


def with_role(*roles: Role) -> tuple[str, ...]:
    """Returns the names of the options that have one of the roles, in the order of `--help`."""
    return tuple(name for name, field in FIELDS.items() if field.metadata["role"] in roles)
