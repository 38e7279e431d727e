"""Recipes: a name for the flags of a whole method. `--recipe` and the table's rows use them."""

from dataclasses import dataclass

FULL_STAGE_1 = 200
FULL_STAGE_2 = (80, 20)
"""Epochs as published: of stage 1, and of stage 2's features and classifier."""

PAPER_STAGE_2 = (
    "--feat_loss ce_lt,robust_loss --feat_sampler resample,4 --feat_lr 0.005 "
    "--cls_loss ce --cls_sampler none --cls_lr 0.01 "
    "--temperature 1 --batch-size 128 --margin 1 --margin_type learned"
)

# After stage 1, features have a length of about 16. τ = 1 at that length corresponds to τ = 0.06 at
# length 1, which is close to the released parser's defaults. So this takes those defaults. The
# margin is shared: learned ones fall 1/τ² times as fast.
AT_UNIT_LENGTH = "--temperature 0.07 --margin 0.1 --margin_type shared"
NORMALISED = f"--robust_distance normalised {AT_UNIT_LENGTH}"
# After stage 1, distances are 8 to 12. At these distances d²/20 has about the slope of d/1.
AT_SQUARES = "--temperature 20"

# Usual settings for a strong stage 1.
STRONG = "--augment autoaugment --wd 5e-4 --schedule cosine --warmup 5"

# The robust loss joins late, because centroids of an untrained network mean nothing; the paper
# starts it from a trained network, too. DRW's class weights join after the same share of epochs.
JOINT = f"--robust_weight 0.1 --robust_from 0.8 {NORMALISED}"


@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    Args:
        description: one line for `--help`.
        flags: the flags of its last stage; for a stage 2 only those that differ from the paper's
            command.
        start: the recipe of the stage 1 that a stage 2 starts from; None for a stage 1.
        has_features: True if a stage 2 has a feature phase.
        teacher: the recipe of the network that a stage 1 is distilled from; None without one.
    """

    description: str
    flags: str = ""
    start: str | None = None
    has_features: bool = True
    teacher: str | None = None

    @property
    def stage_1(self) -> list[str]:
        """The flags of stage 1."""
        return (RECIPES[self.start] if self.start else self).flags.split()

    @property
    def stage_2(self) -> list[str]:
        """The flags of stage 2; empty if the recipe is a stage 1. If a flag is there twice, the
        later one counts."""
        if self.start is None:
            return []
        features, classifier = FULL_STAGE_2
        epochs = [features * self.has_features + classifier, classifier]
        length = f"--epochs {epochs[0]} --balanced_clf_nepochs {epochs[1]}"
        return f"{length} {PAPER_STAGE_2} {self.flags}".split()


RECIPES = {
    "ce": Recipe("cross-entropy"),
    "ce_autoaugment": Recipe("cross-entropy, AutoAugment and Cutout", "--augment autoaugment"),
    "ldam_drw": Recipe("LDAM-DRW", "--loss_type LDAM --train_rule DRW"),
    "classifier_only": Recipe(
        "classifier re-trained alone, balanced", start="ce", has_features=False
    ),
    "control": Recipe("stage 2 without the robust loss", "--feat_loss ce_lt", start="ce"),
    "dro_lt": Recipe("DRO-LT, learned margins", start="ce"),
    "dro_lt_shared": Recipe("DRO-LT, one shared margin", "--margin_type shared", start="ce"),
    "dro_lt_sample_count": Recipe(
        "DRO-LT, margins by sample count", "--margin_type sample_count", start="ce"
    ),
    "dro_lt_bounded": Recipe("DRO-LT, learned margins, none below 0", "--margin_min 0", start="ce"),
    "dro_lt_no_decay": Recipe(
        "DRO-LT, learned margins without weight decay", "--margin_wd 0", start="ce"
    ),
    "dro_lt_released": Recipe("DRO-LT as the released code", "--as_released True", start="ce"),
    "dro_lt_weight": Recipe(
        "DRO-LT, weight 0.1 of the robust loss", "--robust_weight 0.1", start="ce"
    ),
    "dro_lt_temperature": Recipe("DRO-LT, temperature 10", "--temperature 10", start="ce"),
    "dro_lt_layers": Recipe("DRO-LT on two layers", "--feat_layers layer2,layer3", start="ce"),
    "dro_lt_normalised": Recipe(
        "DRO-LT, normalised features, shared margin", NORMALISED, start="ce"
    ),
    "dro_lt_normalised_learned": Recipe(
        "DRO-LT, normalised, learned margins", f"{NORMALISED} --margin_type learned", start="ce"
    ),
    "dro_lt_normalised_temperature": Recipe(
        "DRO-LT, normalised, temperature 0.2", f"{NORMALISED} --temperature 0.2", start="ce"
    ),
    "dro_lt_squared": Recipe(
        "DRO-LT, squared distances, temperature 20",
        f"--robust_distance squared {AT_SQUARES}",
        start="ce",
    ),
    "ce_decay": Recipe("cross-entropy, weight decay 2e-4", "--wd 2e-4"),
    "dro_lt_from_autoaugment": Recipe(
        "DRO-LT from stage 1 with AutoAugment", start="ce_autoaugment"
    ),
    "control_from_autoaugment": Recipe(
        "the same without the robust loss", "--feat_loss ce_lt", start="ce_autoaugment"
    ),
    "dro_lt_from_decay": Recipe("DRO-LT from stage 1 with weight decay 2e-4", start="ce_decay"),
    "dro_lt_instance": Recipe(
        "DRO-LT, classifier phase not balanced", "--cls_sampler instance", start="ce"
    ),
    "bs": Recipe("balanced softmax, AutoAugment, cosine rate", f"--loss_type BS {STRONG}"),
    "bs_cosine_head": Recipe(
        "balanced softmax with a cosine head", f"--loss_type BS {STRONG} --head cosine"
    ),
    "bs_mixup": Recipe("balanced softmax with mixup", f"--loss_type BS {STRONG} --mixup 1"),
    "bs_resnet56": Recipe(
        "balanced softmax with a ResNet-56", f"--loss_type BS {STRONG} --arch resnet56"
    ),
    "bs_distilled": Recipe(
        "balanced softmax, distilled from bs_resnet56",
        f"--loss_type BS {STRONG}",
        teacher="bs_resnet56",
    ),
    "bs_robust": Recipe(
        "balanced softmax, robust loss joins at the end",
        f"--loss_type BS {STRONG} {JOINT}",
    ),
    "bs_contrastive": Recipe(
        "balanced softmax with a balanced contrast", f"--loss_type BS {STRONG} --contrastive bcl"
    ),
    "dro_lt_normalised_from_bs": Recipe(
        "DRO-LT, normalised, from balanced softmax",
        # bs_lt, because the frozen classifier has learned logits to which log π_c is added.
        f"{NORMALISED} --feat_loss bs_lt,robust_loss --feat_schedule cosine",
        start="bs",
    ),
    "control_from_bs": Recipe(
        "the same without the robust loss",
        "--feat_loss bs_lt --feat_schedule cosine",
        start="bs",
    ),
}
