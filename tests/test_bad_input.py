"""Bad input of every kind ends with status 2 and one clear line, and leaves the disk as it was."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import (
    REPOSITORY,
    STAGE_1_NAME,
    call,
    common,
    make_data,
    snapshot,
    stage_1,
    stage_2,
    succeed,
    write_tree,
)

IS_ROOT = os.geteuid() == 0


@dataclass
class Scene:
    """A test's own folder, with the flags of a run that would be right."""

    tmp: Path
    tree: Path
    pretrained_root: Path

    @property
    def root(self) -> Path:
        return self.tmp / "root"

    @property
    def run_folder(self) -> Path:
        return self.root / STAGE_1_NAME

    def stage_1(self, *extra: object) -> list[object]:
        return stage_1(self.tree, self.root, *extra)

    def stage_2(self, *extra: object) -> list[object]:
        """From a finished stage 1."""
        self.copy_pretrained()
        return stage_2(self.tree, self.root, *extra)

    def stage_2_from(self, content: object) -> list[object]:
        """From a checkpoint of the given content (bytes, or what `torch.save` takes)."""
        path = self.tmp / "strange.pth.tar"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return stage_2(self.tree, self.root, "--pretrained", path)

    def copy_pretrained(self) -> None:
        if not self.root.exists():
            shutil.copytree(self.pretrained_root, self.root)

    def unfinished(self) -> Path:
        """The folder of a stage 1 that was killed after its last epoch."""
        self.copy_pretrained()
        (self.run_folder / "summary.json").unlink()
        return self.run_folder

    def checkpoint(self) -> dict:
        path = self.pretrained_root / STAGE_1_NAME / "ckpt.best.pth.tar"
        return torch.load(path, weights_only=True)

    def checkpoint_bytes(self) -> bytes:
        return (self.pretrained_root / STAGE_1_NAME / "ckpt.best.pth.tar").read_bytes()

    def own_tree(self, **settings: int) -> Path:
        folder = self.tmp / "data"
        write_tree(folder, **{"train": 3, "test": 1} | settings)
        return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained_root(tree, tmp_path_factory) -> Path:
    """A root that holds a finished stage 1, to be copied."""
    root = tmp_path_factory.mktemp("pretrained")
    succeed(stage_1(tree, root))
    return root


@pytest.fixture
def scene(tmp_path, tree, pretrained_root, monkeypatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path, tree, pretrained_root)


@dataclass(frozen=True)
class Case:
    """A bad command: its name, its arguments, and what the message must say."""

    id: str
    argv: Callable[[Scene], list[object]]
    says: tuple[str, ...] = field(default=())


CASES: list[Case] = []


def flag(name: str, value: str | None, *says: str, stage: int = 1, id: str | None = None) -> None:
    """A case of one bad flag; its message names the flag, the value and what is allowed."""
    arguments = [name] if value is None else [f"{name}={value}" if name[:2] == "--" else name]
    if value is not None and name[:2] != "--":
        arguments.append(value)

    def argv(scene: Scene) -> list[object]:
        return scene.stage_1(*arguments) if stage == 1 else scene.stage_2(*arguments)

    CASES.append(Case(id or f"{name} {value}", argv, says))


def case(*says: str) -> Callable:
    """Makes a case of a function that prepares the scene and gives the command."""

    def add(function: Callable[[Scene], list[object]]) -> Callable:
        CASES.append(Case(function.__name__.replace("_", " "), function, says))
        return function

    return add


# Flags, one at a time: bounds.
for name in ("--lr", "--wd", "--weight-decay", "--learning-rate", "--feat_lr", "--cls_lr"):
    flag(name, "-0.1", name, "'-0.1'", "finite number >= 0")
flag("--lr", "nan", "--lr", "'nan'", "finite number >= 0")
flag("--lr", "inf", "--lr", "'inf'", "finite number >= 0")
flag("--lr", "fast", "--lr", "'fast'", "finite number >= 0")
flag("--lr", "", "--lr", "''", "finite number >= 0")
flag("--wd", "inf", "--wd", "'inf'", "finite number >= 0")
flag("--feat_lr", "nan", "--feat_lr", "'nan'", "finite number >= 0", stage=2)
flag("--cls_lr", "inf", "--cls_lr", "'inf'", "finite number >= 0", stage=2)
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
flag("--imb_factor", "0", "--imb_factor", "'0'", "0 < x <= 1")
flag("--imb_factor", "1.01", "--imb_factor", "'1.01'", "0 < x <= 1")
flag("--imb_factor", "-0.01", "--imb_factor", "'-0.01'", "0 < x <= 1")
flag("--heldout_fraction", "1", "--heldout_fraction", "'1'", "0 <= x < 1")
flag("--heldout_fraction", "-0.1", "--heldout_fraction", "'-0.1'", "0 <= x < 1")
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

# Flags, one at a time: choices.
flag("--dataset", "cifar11", "--dataset", "'cifar11'", "cifar100", "digits")
flag("--arch", "resnet33", "--arch", "'resnet33'", "resnet32", "resnet1202")
flag("--imb_type", "zipf", "--imb_type", "'zipf'", "exp", "step", "natural")
flag("--loss_type", "ce", "--loss_type", "'ce'", "CE", "Focal", "LDAM")
flag("--train_rule", "Later", "--train_rule", "'Later'", "Resample", "Reweight", "DRW")
flag("--schedule", "linear", "--schedule", "'linear'", "absolute", "scaled", "cosine")
flag("--augment", "mixup", "--augment", "'mixup'", "none", "crop_flip", "autoaugment")
flag("--select_on", "train", "--select_on", "'train'", "test", "heldout", "last")
flag("--precision", "fp16", "--precision", "'fp16'", "float32", "bf16")
flag("--margin_type", "fixed", "--margin_type", "'fixed'", "learned", "sample_count", stage=2)
flag("--resume", "perhaps", "--resume", "'perhaps'", "True or False")
flag("--evaluation", "2", "--evaluation", "'2'", "True or False")
flag("--overwrite", "y", "--overwrite", "'y'", "True or False")
flag("--as_released", "None", "--as_released", "'None'", "True or False", stage=2)
flag("--exp_str", "a/b", "--exp_str", "'a/b'", "no '/'")
flag("--exp_str", "", "--exp_str", "''", "1 to 100 characters")
flag("--exp_str", "x" * 101, "--exp_str", "1 to 100 characters", id="--exp_str of 101 characters")
flag("--exp_str", "\U0001f600" * 100, "cannot write", id="--exp_str longer than a file name may be")
for name in ("--feat_loss", "--cls_loss"):
    flag(name, "mse", name, "'mse'", "ce_lt", stage=2)
    flag(name, "ce,", name, "''", "ce_lt", stage=2)
    flag(name, "ce,ce", name, "twice", "'ce,ce'", stage=2)
flag("--cls_loss", "robust_loss", "--cls_loss", "'robust_loss'", "ce_bal", stage=2)
flag("--feat_loss", "ce, robust_loss", "--feat_loss", "' robust_loss'", "robust_loss", stage=2)
for name in ("--feat_sampler", "--cls_sampler"):
    for value in ("random", "resample", "resample,0", "resample,-1", "resample,1.5", "resample,²"):
        flag(name, value, name, repr(value), "resample,k", stage=2)

# Flags that do not exist, are cut short, or have no value.
flag("--imb", "0.1", "--imb=0.1")
flag("--epoch", "3", "--epoch=3")
flag("--over", None, "--over")
flag("--pretrain", "x", "--pretrain=x")
flag("--learning_rate", "0.1", "--learning_rate=0.1")
flag("stray", None, "stray")
flag("--lr", None, "--lr", "expected one argument", id="--lr without a value")


# Flags that contradict each other.
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


@case("--robust_weight", "'ce_lt'")
def robust_weight_without_a_robust_loss(scene):
    return scene.stage_2("--robust_weight", 0.5, "--feat_loss", "ce_lt")


@case("--robust_weight", "'robust_loss'")
def robust_weight_without_a_cross_entropy(scene):
    return scene.stage_2("--robust_weight", 0.5, "--feat_loss", "robust_loss")


@case("--resume True", "--overwrite True")
def resume_with_overwrite(scene):
    return scene.stage_1("--resume", "True", "--overwrite", "True")


@case("--start-epoch 3", "--epochs 2")
def a_start_beyond_the_end(scene):
    return scene.stage_1("--start-epoch", 3)


# Data.
@case("--dataset cifar10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "nowhere")
def data_that_are_missing_and_cannot_be_downloaded(scene):
    return scene.stage_1("--data_root", scene.tmp / "nowhere")


@case("--dataset cifar10", "cifar-10-python.tar.gz")
def data_missing_below_a_folder_that_is_missing_too(scene):
    return scene.stage_1("--data_root", scene.tmp / "nowhere" / "at" / "all")


@case("--dataset cifar100", "cifar-100-python.tar.gz")
def the_other_data_set_is_missing(scene):
    return scene.stage_1("--dataset", "cifar100", "--data_root", scene.own_tree())


@case("file.txt")
def a_data_root_that_is_a_file(scene):
    (scene.tmp / "file.txt").write_text("no folder")
    return scene.stage_1("--data_root", scene.tmp / "file.txt")


@case("10 class folders", "9")
def a_missing_class_folder(scene):
    return scene.stage_1("--data_root", scene.own_tree(classes=9))


@case("10 class folders", "11")
def a_class_folder_too_many(scene):
    return scene.stage_1("--data_root", scene.own_tree(classes=11))


@case("class_3", "train")
def a_class_without_files(scene):
    root = scene.own_tree()
    for path in (root / "cifar10" / "train" / "class_3").iterdir():
        path.unlink()
    return scene.stage_1("--data_root", root)


@case("class_4", "class_x")
def a_class_that_only_training_has(scene):
    root = scene.own_tree()
    (root / "cifar10" / "test" / "class_4").rename(root / "cifar10" / "test" / "class_x")
    return scene.stage_1("--data_root", root)


@case("test")
def training_images_without_test_images(scene):
    root = scene.own_tree()
    shutil.rmtree(root / "cifar10" / "test")
    return scene.stage_1("--data_root", root)


@case("class_2/001.png")
def a_png_that_is_text(scene):
    root = scene.own_tree()
    (root / "cifar10" / "train" / "class_2" / "001.png").write_text("not an image")
    return scene.stage_1("--data_root", root)


@case("class_5/000.png")
def a_png_that_is_cut_off(scene):
    root = scene.own_tree()
    path = root / "cifar10" / "test" / "class_5" / "000.png"
    path.write_bytes(path.read_bytes()[:900])
    return scene.stage_1("--data_root", root)


@case("class_5/002.png")
def a_png_that_is_empty(scene):
    root = scene.own_tree()
    (root / "cifar10" / "train" / "class_5" / "002.png").write_bytes(b"")
    return scene.stage_1("--data_root", root)


@case("class_7/002.png", "28x30", "32x32")
def a_png_of_another_size(scene):
    root = scene.own_tree()
    image = Image.fromarray(np.zeros((30, 28, 3), np.uint8))
    image.save(root / "cifar10" / "train" / "class_7" / "002.png")
    return scene.stage_1("--data_root", root)


@case("cifar-10-python.tar.gz")
def an_official_archive_that_is_damaged(scene):
    folder = scene.tmp / "official"
    folder.mkdir()
    (folder / "cifar-10-python.tar.gz").write_bytes(b"not the archive")
    return scene.stage_1("--data_root", folder)


@case("--select_on heldout", "digits", "--heldout_fraction")
def selection_on_heldout_images_that_do_not_exist(scene):
    return scene.stage_1("--dataset", "digits", "--select_on", "heldout")


@case("--select_on heldout", "cifar10")
def selection_on_heldout_images_where_the_subset_leaves_none_out(scene):
    return scene.stage_1("--imb_type", "natural", "--select_on", "heldout")


@case("--imb_factor 0.001", "class 7", "123")
def an_imbalance_factor_that_empties_a_class_of_digits(scene):
    return scene.stage_1("--dataset", "digits", "--imb_factor", 0.001)


@case("--imb_factor 0.04", "class 9", "24")
def an_imbalance_factor_that_empties_a_class_of_cifar(scene):
    return scene.stage_1("--imb_factor", 0.04)


@case("--imb_factor 0.02", "class 5")
def a_step_that_empties_half_the_classes(scene):
    return scene.stage_1("--imb_type", "step", "--imb_factor", 0.02)


# Checkpoints that are not there.
@case("--pretrained nothing", "nothing", "root/nothing", "pretrained/nothing")
def a_missing_pretrained_checkpoint(scene):
    return stage_2(scene.tree, scene.root, "--pretrained", "nothing")


@case("--pretrained empty", "ckpt.best.pth.tar")
def a_pretrained_folder_without_a_checkpoint(scene):
    (scene.tmp / "empty").mkdir()
    return stage_2(scene.tree, scene.root, "--pretrained", "empty")


@case("--pretrained")
def a_pretrained_name_longer_than_a_file_name_may_be(scene):
    return stage_2(scene.tree, scene.root, "--pretrained", "x" * 300)


@case("ckpt.best.pth.tar")
def an_evaluation_without_a_stage_1_checkpoint(scene):
    return scene.stage_1("--evaluation", "True")


@case("ckpt.best.pth.tar")
def an_evaluation_without_a_stage_2_checkpoint(scene):
    return scene.stage_2("--evaluation", "True")


# Checkpoints that are not right.
@case("strange.pth.tar")
def an_empty_checkpoint(scene):
    return scene.stage_2_from(b"")


@case("strange.pth.tar")
def a_truncated_checkpoint(scene):
    content = scene.checkpoint_bytes()
    return scene.stage_2_from(content[: len(content) // 2])


@case("strange.pth.tar")
def a_checkpoint_without_its_last_byte(scene):
    return scene.stage_2_from(scene.checkpoint_bytes()[:-1])


@case("strange.pth.tar", "damaged")
def a_checkpoint_with_a_flipped_bit(scene):
    content = bytearray(scene.checkpoint_bytes())
    content[len(content) // 2] ^= 1
    return scene.stage_2_from(bytes(content))


@case("strange.pth.tar")
def a_text_file_as_a_checkpoint(scene):
    return scene.stage_2_from(b"epoch: 200, best_acc1: 99.9\n")


@case("strange.pth.tar")
def a_web_page_as_a_checkpoint(scene):
    return scene.stage_2_from(b"<html><body>404 Not Found</body></html>")


@case("strange.pth.tar")
def a_json_file_as_a_checkpoint(scene):
    return scene.stage_2_from(b'{"state_dict": {}}')


class Hostile:
    """A pickle that makes the folder `ran` where it is loaded without care."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@case("strange.pth.tar")
def a_checkpoint_that_would_run_code(scene):
    return scene.stage_2_from(scene.checkpoint() | {"epoch": Hostile()})


@case("strange.pth.tar")
def a_plain_pickle_that_would_run_code(scene):
    return scene.stage_2_from(pickle.dumps({"state_dict": {}, "epoch": Hostile()}))


@case("strange.pth.tar")
def a_checkpoint_of_the_old_format_that_would_run_code(scene):
    path = scene.tmp / "old.pth.tar"
    torch.save({"state_dict": {}, "x": Hostile()}, path, _use_new_zipfile_serialization=False)
    return scene.stage_2_from(path.read_bytes())


@case("strange.pth.tar", "state_dict")
def a_checkpoint_without_weights(scene):
    content = scene.checkpoint()
    del content["state_dict"]
    return scene.stage_2_from(content)


@case("strange.pth.tar", "state_dict")
def a_checkpoint_that_is_a_list(scene):
    return scene.stage_2_from([1, 2, 3])


@case("strange.pth.tar", "state_dict")
def a_checkpoint_whose_weights_are_strings(scene):
    return scene.stage_2_from(scene.checkpoint() | {"state_dict": {"conv1.weight": "heavy"}})


@case("strange.pth.tar", "linear.weight")
def a_checkpoint_whose_weights_are_empty(scene):
    return scene.stage_2_from(scene.checkpoint() | {"state_dict": {}})


@case("strange.pth.tar", "resnet32", "resnet20")
def a_checkpoint_of_another_architecture(scene):
    return scene.stage_2_from(scene.checkpoint() | {"arch": "resnet32"})


@case("strange.pth.tar", "layer1.3")
def a_checkpoint_of_another_architecture_that_claims_to_be_this_one(scene):
    from models import build_model

    weights = build_model("resnet32", 10).state_dict()
    return scene.stage_2_from(scene.checkpoint() | {"state_dict": weights})


@case("strange.pth.tar", "layer3.2.bn2.weight")
def a_checkpoint_with_a_missing_weight(scene):
    content = scene.checkpoint()
    del content["state_dict"]["layer3.2.bn2.weight"]
    return scene.stage_2_from(content)


@case("strange.pth.tar", "conv1.weight", "[16, 3, 5, 5]", "[16, 3, 3, 3]")
def a_checkpoint_with_a_weight_of_another_shape(scene):
    content = scene.checkpoint()
    content["state_dict"]["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    return scene.stage_2_from(content)


@case("strange.pth.tar", "100 classes", "10")
def a_checkpoint_of_another_number_of_classes(scene):
    from models import build_model

    weights = build_model("resnet20", 100).state_dict()
    return scene.stage_2_from(scene.checkpoint() | {"state_dict": weights})


@case("strange.pth.tar", "layer2.0.conv1.weight", "not finite")
def a_checkpoint_with_a_weight_that_is_not_a_number(scene):
    content = scene.checkpoint()
    content["state_dict"]["layer2.0.conv1.weight"][3, 2, 1, 0] = float("nan")
    return scene.stage_2_from(content)


@case("strange.pth.tar", "bn1.running_var", "not finite")
def a_checkpoint_with_infinite_statistics(scene):
    content = scene.checkpoint()
    content["state_dict"]["bn1.running_var"][5] = float("inf")
    return scene.stage_2_from(content)


@case("strange.pth.tar")
def a_checkpoint_with_a_sparse_weight(scene):
    content = scene.checkpoint()
    weight = content["state_dict"]["conv1.weight"]
    content["state_dict"]["conv1.weight"] = weight.to_sparse()
    return scene.stage_2_from(content)


@case("strange.pth.tar")
def a_checkpoint_with_a_weight_without_content(scene):
    content = scene.checkpoint()
    weight = content["state_dict"]["conv1.weight"]
    content["state_dict"]["conv1.weight"] = weight.to("meta")
    return scene.stage_2_from(content)


@case("strange.pth.tar")
def a_checkpoint_whose_class_counts_are_a_number(scene):
    return scene.stage_2_from(scene.checkpoint() | {"class_counts": 5})


@case("ckpt.best.pth.tar")
def an_evaluation_of_a_truncated_checkpoint(scene):
    scene.copy_pretrained()
    path = scene.run_folder / "ckpt.best.pth.tar"
    path.write_bytes(path.read_bytes()[:1000])
    return scene.stage_1("--evaluation", "True")


@case("ckpt.best.pth.tar", "not finite")
def an_evaluation_of_a_checkpoint_that_is_not_finite(scene):
    scene.copy_pretrained()
    content = scene.checkpoint()
    content["state_dict"]["linear.bias"][0] = float("nan")
    torch.save(content, scene.run_folder / "ckpt.best.pth.tar")
    return scene.stage_1("--evaluation", "True")


# Folders that hold runs.
@case("already holds a run", "--resume True", "--overwrite True", STAGE_1_NAME)
def a_folder_that_holds_a_finished_run(scene):
    scene.copy_pretrained()
    return scene.stage_1()


@case("already holds a run")
def a_folder_that_holds_an_unfinished_run(scene):
    scene.unfinished()
    return scene.stage_1()


@case("already holds a run")
def a_folder_that_holds_nothing_but_a_best_checkpoint(scene):
    scene.run_folder.mkdir(parents=True)
    shutil.copy(scene.pretrained_root / STAGE_1_NAME / "ckpt.best.pth.tar", scene.run_folder)
    return scene.stage_1()


@case("--lr 0.2 (recorded: 0.1)", "--momentum 0.5 (recorded: 0.9)", "--seed 4 (recorded: 3)")
def a_resume_with_other_options_than_the_finished_run(scene):
    scene.copy_pretrained()
    return scene.stage_1("--resume", "True", "--lr", 0.2, "--momentum", 0.5, "--seed", 4)


@case("--batch_size 16 (recorded: 32)", "--epochs 4 (recorded: 2)", "--weight_decay 0.0")
def a_resume_with_other_options_than_the_unfinished_run(scene):
    scene.unfinished()
    return scene.stage_1("--resume", "True", "-b", 16, "--epochs", 4, "--wd", 0)


@case("args.json")
def a_resume_of_checkpoints_without_a_record_of_their_options(scene):
    (scene.unfinished() / "args.json").unlink()
    return scene.stage_1("--resume", "True")


@case("args.json")
def a_resume_with_an_unreadable_record_of_options(scene):
    (scene.unfinished() / "args.json").write_bytes(b"\xff\xfe{")
    return scene.stage_1("--resume", "True")


@case("args.json")
def a_resume_with_a_record_of_options_that_is_a_list(scene):
    (scene.unfinished() / "args.json").write_text("[1]")
    return scene.stage_1("--resume", "True")


@case("seed")
def a_resume_with_a_record_without_the_seed(scene):
    path = scene.unfinished() / "args.json"
    recorded = json.loads(path.read_text())
    del recorded["seed"]
    path.write_text(json.dumps(recorded))
    argv = scene.stage_1("--resume", "True")
    position = argv.index("--seed")
    return argv[:position] + argv[position + 2 :]


@case("log.jsonl")
def a_resume_with_an_unreadable_log(scene):
    (scene.unfinished() / "log.jsonl").write_bytes(b"\xff\xfe{}\n")
    return scene.stage_1("--resume", "True")


@case("log.jsonl")
def a_resume_with_a_log_of_something_else(scene):
    (scene.unfinished() / "log.jsonl").write_text("[1, 2]\n")
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar")
def a_resume_from_a_truncated_checkpoint(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    path.write_bytes(path.read_bytes()[:-100])
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar", "no state")
def a_resume_from_a_checkpoint_of_the_released_form(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    content = torch.load(path, weights_only=True)
    torch.save({key: content[key] for key in ("epoch", "arch", "state_dict", "best_acc1")}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar", "100, 64")
def a_resume_from_a_checkpoint_of_other_classes(scene):
    from models import build_model

    path = scene.unfinished() / "ckpt.pth.tar"
    content = torch.load(path, weights_only=True)
    weights = build_model("resnet20", 100).state_dict()
    torch.save(content | {"state_dict": weights}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar")
def a_resume_from_a_checkpoint_whose_epoch_is_a_word(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    torch.save(torch.load(path, weights_only=True) | {"epoch": "two"}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar")
def a_resume_from_a_checkpoint_with_momentum_of_another_shape(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    content = torch.load(path, weights_only=True)
    content["epoch"] = 1
    content["optimizers"]["pretraining"]["state"][0]["momentum_buffer"] = torch.zeros(7)
    torch.save(content, path)
    return scene.stage_1("--resume", "True")


# Folders that cannot be written.
@case("cannot write", "occupied")
def a_root_below_a_file(scene):
    (scene.tmp / "occupied").write_text("a file")
    root = scene.tmp / "occupied" / "root"
    return [*scene.stage_1(), "--root_log", root, "--root_model", root]


@case("cannot write", "occupied")
def a_root_of_records_below_a_file(scene):
    (scene.tmp / "occupied").write_text("a file")
    return [*scene.stage_1(), "--root_log", scene.tmp / "occupied"]


@case("cannot write", STAGE_1_NAME)
def a_file_in_the_place_of_the_run(scene):
    scene.root.mkdir()
    scene.run_folder.write_text("a file")
    return scene.stage_1()


@case("cannot write", "occupied")
def an_evaluation_whose_outputs_have_no_place(scene):
    scene.copy_pretrained()
    (scene.tmp / "occupied").write_text("a file")
    return scene.stage_1("-e", "--root_log", scene.tmp / "occupied" / "log")


@case("cannot write", "sealed")
def a_root_that_is_not_writable(scene):
    if IS_ROOT:
        pytest.skip("root may write everywhere")
    (scene.tmp / "sealed").mkdir(mode=0o555)
    root = scene.tmp / "sealed" / "root"
    return [*scene.stage_1(), "--root_log", root, "--root_model", root]


@pytest.fixture
def offline(monkeypatch) -> None:
    """Downloads fail at once, whether or not there is a network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def assert_refused(outcome, says: tuple[str, ...]) -> None:
    assert outcome.status == 2, outcome.err
    (line,) = outcome.errors
    assert line.startswith("main.py: error: ")
    for fragment in says:
        assert fragment in line
    assert "Traceback" not in outcome.out + outcome.err
    assert "usage:" not in outcome.out + outcome.err


def test_the_table_has_at_least_sixty_inputs():
    assert len({case.id for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.id)
def test_bad_input_ends_with_status_2_and_one_clear_line_and_changes_nothing(bad, scene, offline):
    argv = bad.argv(scene)
    before = snapshot(scene.tmp), snapshot(scene.tree)

    outcome = call(argv)

    assert_refused(outcome, bad.says)
    assert (snapshot(scene.tmp), snapshot(scene.tree)) == before


def test_a_gpu_that_several_devices_do_not_include_is_refused_with_their_names(scene, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"Abacus {index}00")

    outcome = call(scene.stage_1("--gpu", 2))

    assert_refused(outcome, ("--gpu 2", "0 (Abacus 000)", "1 (Abacus 100)"))
    assert snapshot(scene.tmp) == {}


def test_bf16_is_refused_where_the_processor_has_none(scene, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)

    outcome = call(scene.stage_1("--precision", "bf16"))

    assert_refused(outcome, ("--precision bf16", "float32"))
    assert snapshot(scene.tmp) == {}


def in_a_process(argv: list[object], folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, REPOSITORY / "main.py", *map(str, argv)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda scene: ["--lr", "fast"], "'fast' is not a finite number >= 0"),
        (lambda scene: ["--dataset", "mnist"], "'mnist'"),
        (lambda scene: scene.stage_2("--balanced_clf_nepochs", 9), "--epochs 3"),
        (lambda scene: stage_2(scene.tree, scene.root, "--pretrained", "no"), "--pretrained no"),
        (lambda scene: scene.stage_2_from(pickle.dumps(Hostile())), "strange.pth.tar"),
    ],
    ids=["malformed number", "unknown data set", "contradiction", "missing", "hostile checkpoint"],
)
def test_a_real_process_refuses_bad_input_likewise(prepare, says, scene):
    argv = prepare(scene)
    before = snapshot(scene.tmp)

    done = in_a_process(argv, scene.tmp)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: error: ")
    assert says in line
    assert done.stdout == ""
    assert snapshot(scene.tmp) == before


@pytest.mark.parametrize(
    "argv",
    [["--lr", "-1"], ["--frobnicate"], ["--pretrained", "x", "--epochs", "3"]],
    ids=["bound", "unknown flag", "contradiction"],
)
def test_bad_flags_are_refused_without_importing_torch(argv):
    code = (
        "import sys, main\n"
        f"status = main.main({argv!r})\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print(status, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2 []\n"
