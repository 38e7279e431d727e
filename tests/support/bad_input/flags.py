"""Flags out of bounds, unknown, or in contradiction."""

from tests.support.bad_input.cases import case, flag
from tests.support.helpers import (
    STAGE_1_NAME,
    common,
)

for name in ("--lr", "--wd", "--weight-decay", "--learning-rate", "--feat_lr", "--cls_lr"):
    flag(name, "-0.1", name, "'-0.1'", "finite number >= 0")
flag("--lr", "nan", "--lr", "'nan'", "finite number >= 0")
flag("--lr", "inf", "--lr", "'inf'", "finite number >= 0")
flag("--lr", "fast", "--lr", "'fast'", "finite number >= 0")
flag("--lr", "", "--lr", "''", "finite number >= 0")
flag("--wd", "inf", "--wd", "'inf'", "finite number >= 0")
flag("--feat_lr", "nan", "--feat_lr", "'nan'", "finite number >= 0", stage=2)
flag("--cls_lr", "inf", "--cls_lr", "'inf'", "finite number >= 0", stage=2)
for name in ("--data_root", "--root_log", "--root_model", "--list_root", "--backbone"):
    flag(name, "", name, "'' is not a path", "the current folder is .", id=f"{name} empty")
flag("--pretrained", " ", "--pretrained", "' ' is not a path", id="--pretrained blank")
flag("--momentum", "1", "--momentum", "'1'", "0 <= x < 1")
flag("--momentum", "-0.1", "--momentum", "'-0.1'", "0 <= x < 1")
flag("--momentum", "nan", "--momentum", "'nan'", "0 <= x < 1")
flag("--temperature", "0", "--temperature", "'0'", "> 0", stage=2)
flag("--temperature", "-1", "--temperature", "'-1'", "> 0", stage=2)
flag("--temperature", "inf", "--temperature", "'inf'", "finite", stage=2)
flag("--margin", "-1", "--margin", "'-1'", ">= 0", stage=2)
flag("--margin", "nan", "--margin", "'nan'", "finite", stage=2)
flag("--margin", "1e39", "--margin", "1e39", stage=2, id="--margin beyond float32")
flag("--robust_weight", "1.5", "--robust_weight", "'1.5'", "0 <= x <= 1", stage=2)
flag("--robust_weight", "-0.5", "--robust_weight", "'-0.5'", "0 <= x <= 1", stage=2)
flag("--prior_weight", "-1", "--prior_weight", "'-1'", ">= 0")
flag("--prior_weight", "2", "--prior_weight 2.0", "--loss_type BS", "--feat_loss")
flag("--contrastive", "supcon", "--contrastive", "'supcon'", "bcl")
flag("--contrastive", "bcl", "--contrastive", "stage 1", stage=2)
flag("--mixup", "-1", "--mixup", "'-1'", ">= 0")
flag("--mixup", "1", "--mixup", "stage 1", stage=2, id="--mixup in stage 2")
flag("--teacher", "x", "--teacher", "stage 1", stage=2, id="--teacher in stage 2")
flag("--robust_from", "2", "--robust_from", "stage 1", stage=2, id="--robust_from in stage 2")
flag("--robust_from", "2", "--robust_from 2", "--robust_weight")
flag("--robust_from", "0", "--robust_from", "'0'", ">= 1", "0 < x < 1")
flag("--teacher", "nowhere", "--teacher nowhere", "no such folder or file")
flag("--teacher_weight", "2", "--teacher_weight", "'2'", "0 <= x <= 1")
flag("--teacher_weight", "0.1", "--teacher_weight 0.1", "needs --teacher")
flag("--teacher_temperature", "0", "--teacher_temperature", "'0'", "> 0")
flag("--teacher_power", "0", "--teacher_power", "'0'", "> 0")
flag("--feat_schedule", "steps", "--feat_schedule", "'steps'", "constant", "cosine", stage=2)
flag("--head", "normed", "--head", "'normed'", "linear", "cosine")
flag("--warmup", "-1", "--warmup", "'-1'", "whole number >= 0")
flag("--imb_factor", "0", "--imb_factor", "'0'", "0 < x <= 1")
flag("--imb_factor", "1.01", "--imb_factor", "'1.01'", "0 < x <= 1")
flag("--imb_factor", "-0.01", "--imb_factor", "'-0.01'", "0 < x <= 1")
flag("--heldout_fraction", "1", "--heldout_fraction", "'1'", "0 <= x < 1")
flag("--heldout_fraction", "-0.1", "--heldout_fraction", "'-0.1'", "0 <= x < 1")
flag("--test_fraction", "0", "--test_fraction", "'0'", "0 < x < 1")
flag("--test_fraction", "1", "--test_fraction", "'1'", "0 < x < 1")
flag("--accumulate", "0", "--accumulate", "'0'", "whole number >= 1")
flag("--backbone_lr", "-1", "--backbone_lr", "'-1'", "finite number >= 0")
flag("-b", "0", "--batch-size", "'0'", "whole number >= 1")
flag("--batch-size", "-4", "--batch-size", "'-4'", "whole number >= 1")
flag("-b", "12.5", "--batch-size", "'12.5'", "whole number >= 1")
flag("--epochs", "-1", "--epochs", "'-1'", "whole number >= 0")
flag("--epochs", "many", "--epochs", "'many'", "whole number >= 0")
flag("--epochs", "9" * 400, "--epochs", "whole number", id="--epochs of 400 digits")
flag("--start-epoch", "-1", "--start-epoch", "'-1'", "whole number >= 0")
flag("--workers", "-1", "--workers", "'-1'", "whole number >= 0")
flag("-j", "two", "--workers", "'two'", "whole number >= 0")
flag("--print-freq", "0", "--print-freq", "'0'", "whole number >= 1")
flag("--checkpoint_every", "0", "--checkpoint_every", "'0'", "whole number >= 1")
flag("--balanced_clf_nepochs", "-1", "--balanced_clf_nepochs", "'-1'", ">= 0", stage=2)
flag("--gpu", "-1", "--gpu", "'-1'", "whole number >= 0")
flag("--gpu", "first", "--gpu", "'first'", "whole number >= 0")
flag("--seed", "-1", "--seed", "'-1'", "0 <= x < 2**32")
flag("--seed", "4294967296", "--seed", "'4294967296'", "0 <= x < 2**32")
flag("--seed", "1.0", "--seed", "'1.0'", "whole number")
flag("--rand_number", "-1", "--rand_number", "'-1'", "0 <= x < 2**32")

flag("--dataset", "cifar11", "--dataset", "'cifar11'", "cifar100", "digits")
flag("--arch", "resnet33", "--arch", "'resnet33'", "resnet32", "resnet1202")
flag("--imb_type", "zipf", "--imb_type", "'zipf'", "exp", "step", "natural")
flag("--loss_type", "ce", "--loss_type", "'ce'", "CE", "Focal", "LDAM", "BS")
flag("--train_rule", "Later", "--train_rule", "'Later'", "Resample", "Reweight", "DRW")
flag("--schedule", "linear", "--schedule", "'linear'", "absolute", "scaled", "cosine")
flag("--augment", "mixup", "--augment", "'mixup'", "none", "crop_flip", "autoaugment")
flag("--select_on", "train", "--select_on", "'train'", "test", "heldout", "last")
flag("--precision", "fp16", "--precision", "'fp16'", "float32", "bf16")
flag("--step", "graph", "--step graph: cpu has no CUDA graphs", "auto, eager or compile")
flag("--margin_type", "fixed", "--margin_type", "'fixed'", "learned", "sample_count", stage=2)
flag("--resume", "perhaps", "--resume", "'perhaps'", "True or False")
flag("--evaluation", "2", "--evaluation", "'2'", "True or False")
flag("--overwrite", "y", "--overwrite", "'y'", "True or False")
flag("--check_images", "yes!", "--check_images", "'yes!'", "True or False")
flag("--as_released", "None", "--as_released", "'None'", "True or False", stage=2)
flag("--exp_str", "a/b", "--exp_str", "'a/b'", "no '/'")
flag("--exp_str", "", "--exp_str", "''", "1 to 100 characters")
flag("--exp_str", "x" * 101, "--exp_str", "1 to 100 characters", id="--exp_str of 101 characters")
for name in ("--feat_loss", "--cls_loss"):
    flag(name, "mse", name, "'mse'", "ce_lt", stage=2)
    flag(name, "ce,", name, "''", "ce_lt", stage=2)
    flag(name, "ce,ce", name, "twice", "'ce,ce'", stage=2)
flag("--cls_loss", "robust_loss", "--cls_loss", "'robust_loss'", "ce_bal", stage=2)
flag("--feat_loss", "ce, robust_loss", "--feat_loss", "' robust_loss'", "robust_loss", stage=2)
for name in ("--feat_sampler", "--cls_sampler"):
    for value in ("random", "resample", "resample,0", "resample,-1", "resample,1.5", "resample,²"):
        flag(name, value, name, repr(value), "resample,k", stage=2)

flag("--imb", "0.1", "--imb=0.1")
flag("--epoch", "3", "--epoch=3")
flag("--over", None, "--over")
flag("--pretrain", "x", "--pretrain=x")
flag("--learning_rate", "0.1", "--learning_rate=0.1")
flag("stray", None, "stray")
flag("--lr", None, "--lr", "expected one argument", id="--lr without a value")


@case("--balanced_clf_nepochs 4", "--epochs 3")
def more_classifier_epochs_than_epochs(scene):
    return scene.stage_2("--balanced_clf_nepochs", 4)


@case("--balanced_clf_nepochs 20", "--epochs 3")
def the_default_classifier_epochs_are_more_than_epochs(scene):
    scene.copy_pretrained()
    flags = ("--pretrained", STAGE_1_NAME, "--epochs", 3, "--feat_loss", "ce", "--cls_loss", "ce")
    return [*common(scene.tree, scene.root), *flags]


@case("--feat_loss", "2 feature epochs")
def feature_epochs_without_a_loss(scene):
    scene.copy_pretrained()
    flags = ("--epochs", 3, "--balanced_clf_nepochs", 1, "--cls_loss", "ce")
    return [*common(scene.tree, scene.root), "--pretrained", STAGE_1_NAME, *flags]


@case("--cls_loss", "1 classifier epochs")
def classifier_epochs_without_a_loss(scene):
    scene.copy_pretrained()
    flags = ("--epochs", 3, "--balanced_clf_nepochs", 1, "--feat_loss", "ce")
    return [*common(scene.tree, scene.root), "--pretrained", STAGE_1_NAME, *flags]


@case("--feat_loss", "--pretrained")
def stage_2_losses_without_a_checkpoint(scene):
    return scene.stage_1("--feat_loss", "ce")


@case("--contrastive bcl and --mixup cannot be combined")
def contrasted_images_that_are_mixed(scene):
    return scene.stage_1("--contrastive", "bcl", "--mixup", 0.5)


@case("--contrastive bcl and --mixup cannot be combined")
def contrasted_images_that_are_mixed_in_the_first_of_two_stages(scene):
    flags = ("--pretrain_epochs", 1, "--balanced_clf_nepochs", 0, "--feat_loss", "ce,robust_loss")
    return scene.stage_1("--contrastive", "bcl", "--mixup", 0.5, *flags)


@case("--contrastive bcl and --teacher cannot be combined")
def contrasted_images_for_a_teacher(scene):
    return scene.stage_1("--contrastive", "bcl", "--teacher", "x")


@case("--contrastive bcl and --robust_weight cannot be combined")
def contrasted_images_for_the_robust_loss(scene):
    return scene.stage_1("--contrastive", "bcl", "--robust_weight", 0.5)


@case("--contrastive bcl", "--accumulate 2")
def contrasted_images_in_parts(scene):
    return scene.stage_1("--contrastive", "bcl", "--accumulate", 2)


@case("--contrastive bcl", "--stream False")
def contrasted_images_that_are_streamed(scene):
    data = ("--dataset", "folder", "--data_root", scene.own_tree() / "cifar10")
    return scene.stage_1(*data, "--stream", "True", "-j", 0, "--contrastive", "bcl")


@case("--mixup 0.5", "--robust_weight", "two targets")
def mixed_images_for_the_robust_loss(scene):
    return scene.stage_1("--mixup", 0.5, "--robust_weight", 0.5)


@case("--train_rule Resample", "--robust_weight 0.5", "may miss a class")
def resampled_images_for_the_robust_loss(scene):
    return scene.stage_1("--train_rule", "Resample", "--robust_weight", 0.5)


@case("--margin_min 0.2 is above 0.1, where the margins start")
def a_joint_loss_whose_margins_start_below_their_bound(scene):
    return scene.stage_1("--robust_weight", 0.5, "--margin_min", 0.2)


@case("--robust_from 3", "--epochs 2")
def a_robust_loss_that_begins_beyond_the_end(scene):
    return scene.stage_1("--robust_from", 3, "--robust_weight", 0.5)


@case("--robust_from and --pretrain_epochs cannot be combined")
def a_robust_loss_that_joins_the_first_of_two_stages(scene):
    flags = ("--pretrain_epochs", 1, "--balanced_clf_nepochs", 0, "--feat_loss", "ce,robust_loss")
    return scene.stage_1("--robust_from", 2, "--robust_weight", 0.5, *flags)


@case("--feat_layers", "stage 2")
def layers_of_a_joint_loss(scene):
    return scene.stage_1("--feat_layers", "layer2", "--robust_weight", 0.5)


@case("--head linear", "LDAM", "--head cosine")
def a_linear_head_for_ldam(scene):
    return scene.stage_1("--loss_type", "LDAM", "--head", "linear")


@case("--head cosine", "a linear head", "ckpt.best")
def a_stage_2_with_another_head_than_its_checkpoint(scene):
    return scene.stage_2("--head", "cosine")


@case("--robust_weight", "'ce_lt'")
def robust_weight_without_a_robust_loss(scene):
    return scene.stage_2("--robust_weight", 0.5, "--feat_loss", "ce_lt")


@case("--robust_weight", "'robust_loss'")
def robust_weight_without_a_cross_entropy(scene):
    return scene.stage_2("--robust_weight", 0.5, "--feat_loss", "robust_loss")


@case("--robust_distance normalised", "'ce_lt'")
def robust_distance_without_a_robust_loss(scene):
    return scene.stage_2("--robust_distance", "normalised", "--feat_loss", "ce_lt")


@case("--prior_weight 0.5", "--loss_type BS in stage 1")
def a_prior_of_stage_1_in_stage_2(scene):
    return scene.stage_2("--loss_type", "BS", "--prior_weight", 0.5)


@case("--resume True", "--overwrite True")
def resume_with_overwrite(scene):
    return scene.stage_1("--resume", "True", "--overwrite", "True")


@case("--evaluation True", "--check_images True", "contradict")
def check_with_evaluation(scene):
    of_files = ("--dataset", "folder", "--data_root", scene.tmp)
    return scene.stage_1(*of_files, "--evaluation", "True", "--check_images", "True")


@case("--check_images True", "--dataset digits", "folder, csv")
def check_of_images_without_files(scene):
    return scene.stage_1("--dataset", "digits", "--check_images", "True")


@case("--start-epoch 3", "--epochs 2")
def a_start_beyond_the_end(scene):
    return scene.stage_1("--start-epoch", 3)
