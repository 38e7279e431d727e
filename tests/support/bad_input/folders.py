"""Folders that already hold runs, do not fit the command, or cannot be written."""

import json
import shutil

import torch

from tests.support.bad_input.cases import case
from tests.support.helpers import (
    STAGE_1_NAME,
)


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


@case("--lr 0.1 (recorded: 0.2)", "--wd 0.0001 (recorded: 0.5)", "--seed 3 (recorded: 4)")
def a_resume_in_the_folder_of_a_run_with_other_options(scene):
    path = scene.unfinished() / "args.json"
    recorded = json.loads(path.read_text()) | {"lr": 0.2, "weight_decay": 0.5, "seed": 4}
    path.write_text(json.dumps(recorded))
    return scene.stage_1("--resume", "True")


@case("--epochs 4 (recorded: 2)", "--schedule scaled", "would have been different")
def a_resume_with_more_epochs_under_a_schedule_that_is_scaled_to_them(scene):
    scene.unfinished()
    return scene.stage_1("--resume", "True", "--epochs", 4)


@case("--epochs 1", "already has 2 epochs")
def a_resume_with_fewer_epochs_than_are_finished(scene):
    scene.copy_pretrained()
    return scene.stage_1("--resume", "True", "--epochs", 1)


@case("no args.json in", "but checkpoints in", "--root_log")
def a_resume_of_checkpoints_without_a_record_of_their_options(scene):
    (scene.unfinished() / "args.json").unlink()
    return scene.stage_1("--resume", "True")


@case("args.json", "unreadable")
def a_resume_with_an_unreadable_record_of_options(scene):
    (scene.unfinished() / "args.json").write_bytes(b"\xff\xfe{")
    return scene.stage_1("--resume", "True")


@case("args.json", "not a record of options with a seed")
def a_resume_with_a_record_of_options_that_is_a_list(scene):
    (scene.unfinished() / "args.json").write_text("[1]")
    return scene.stage_1("--resume", "True")


@case("args.json", "not a record of options with a seed")
def a_resume_with_a_record_without_the_seed(scene):
    path = scene.unfinished() / "args.json"
    recorded = json.loads(path.read_text())
    del recorded["seed"]
    path.write_text(json.dumps(recorded))
    return scene.stage_1("--resume", "True")


@case("log.jsonl")
def a_resume_with_an_unreadable_log(scene):
    (scene.unfinished() / "log.jsonl").write_bytes(b"\xff\xfe{}\n")
    return scene.stage_1("--resume", "True")


@case("log.jsonl", "not a log of epochs")
def a_resume_with_a_log_of_something_else(scene):
    (scene.unfinished() / "log.jsonl").write_text("[1, 2]\n")
    return scene.stage_1("--resume", "True")


@case("log.jsonl", "the finished epoch 2 is not in it")
def a_resume_whose_log_lacks_the_epoch_of_the_checkpoint(scene):
    log = scene.unfinished() / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    (scene.run_folder / "outputs_test.npz").touch()
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar", "not a readable checkpoint")
def a_resume_from_a_truncated_checkpoint(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    path.write_bytes(path.read_bytes()[:-100])
    return scene.stage_1("--resume", "True")


@case("3 finished epochs", "elsewhere", "ckpt.pth.tar is not there", "--overwrite True")
def a_resume_with_another_root_of_checkpoints(scene):
    log = scene.unfinished() / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, lines[-1].replace('"epoch": 2', '"epoch": 3')]) + "\n")
    return scene.stage_1("--resume", "True", "--root_model", scene.tmp / "elsewhere")


@case("ckpt.pth.tar", "cannot be resumed from it")
def a_resume_from_a_checkpoint_of_the_released_form(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    content = torch.load(path, weights_only=True)
    torch.save({key: content[key] for key in ("epoch", "arch", "state_dict", "best_acc1")}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar was trained on other training images")
def a_resume_from_a_checkpoint_of_other_images(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    torch.save(torch.load(path, weights_only=True) | {"fingerprint": 64 * "0"}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar", "100, 64")
def a_resume_from_a_checkpoint_of_other_classes(scene):
    from models import build_model

    path = scene.unfinished() / "ckpt.pth.tar"
    content = torch.load(path, weights_only=True)
    weights = build_model("resnet8", 100).state_dict()
    torch.save(content | {"state_dict": weights}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar")
def a_resume_from_a_checkpoint_whose_epoch_is_a_word(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    torch.save(torch.load(path, weights_only=True) | {"epoch": "two"}, path)
    return scene.stage_1("--resume", "True")


@case("ckpt.pth.tar", "has the shape [7]")
def a_resume_from_a_checkpoint_with_momentum_of_another_shape(scene):
    path = scene.unfinished() / "ckpt.pth.tar"
    content = torch.load(path, weights_only=True)
    content["epoch"] = 1
    content["optimizers"]["pretraining"]["state"][0]["momentum_buffer"] = torch.zeros(7)
    torch.save(content, path)
    return scene.stage_1("--resume", "True")


@case("--backbone ~nobody-of-this-name/weights.pth: no such file")
def a_backbone_in_the_home_of_nobody(scene):
    return scene.stage_1("--backbone", "~nobody-of-this-name/weights.pth")


@case("--data_root ~nobody-of-this-name/own: no such folder")
def a_resume_with_data_in_the_home_of_nobody(scene):
    own = ("--dataset", "folder", "--data_root", "~nobody-of-this-name/own")
    return scene.stage_1(*own, "--resume", "True")


@case("no checkpoint", "link")
def an_evaluation_from_a_link_to_itself(scene):
    (scene.tmp / "link").symlink_to("link")
    return [*scene.stage_2(), "--pretrained", "link", "--evaluation", "True"]


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
