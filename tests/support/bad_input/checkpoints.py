"""Checkpoints that are missing, damaged, hostile, or of another network."""

import os
import pickle

import torch

from tests.support.bad_input.cases import case
from tests.support.helpers import (
    stage_2,
)


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


@case("no checkpoint", "ckpt.best.pth.tar")
def an_evaluation_without_a_stage_1_checkpoint(scene):
    return scene.stage_1("--evaluation", "True")


@case("no checkpoint", "ckpt.best.pth.tar")
def an_evaluation_without_a_stage_2_checkpoint(scene):
    return scene.stage_2("--evaluation", "True")


@case("strange.pth.tar", "not a readable checkpoint")
def an_empty_checkpoint(scene):
    return scene.stage_2_from(b"")


@case("strange.pth.tar", "not a readable checkpoint")
def a_truncated_checkpoint(scene):
    content = scene.checkpoint_bytes()
    return scene.stage_2_from(content[: len(content) // 2])


@case("strange.pth.tar", "not a readable checkpoint")
def a_checkpoint_without_its_last_byte(scene):
    return scene.stage_2_from(scene.checkpoint_bytes()[:-1])


@case("strange.pth.tar", "damaged")
def a_checkpoint_with_a_flipped_bit(scene):
    content = bytearray(scene.checkpoint_bytes())
    content[len(content) // 2] ^= 1
    return scene.stage_2_from(bytes(content))


@case("strange.pth.tar", "not a readable checkpoint")
def a_text_file_as_a_checkpoint(scene):
    return scene.stage_2_from(b"epoch: 200, best_acc1: 99.9\n")


@case("strange.pth.tar", "not a readable checkpoint")
def a_web_page_as_a_checkpoint(scene):
    return scene.stage_2_from(b"<html><body>404 Not Found</body></html>")


@case("strange.pth.tar", "not a readable checkpoint")
def a_json_file_as_a_checkpoint(scene):
    return scene.stage_2_from(b'{"state_dict": {}}')


class Hostile:
    """An object whose pickle makes the folder `ran` if it is loaded without care."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@case("strange.pth.tar", "not a readable checkpoint")
def a_checkpoint_that_would_run_code(scene):
    return scene.stage_2_from(scene.checkpoint() | {"epoch": Hostile()})


@case("strange.pth.tar", "not a readable checkpoint")
def a_plain_pickle_that_would_run_code(scene):
    return scene.stage_2_from(pickle.dumps({"state_dict": {}, "epoch": Hostile()}))


@case("strange.pth.tar", "not a readable checkpoint")
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


@case("strange.pth.tar", "resnet32", "resnet8")
def a_checkpoint_of_another_architecture(scene):
    return scene.stage_2_from(scene.checkpoint() | {"arch": "resnet32"})


@case("strange.pth.tar", "layer1.1")
def a_checkpoint_of_another_architecture_that_claims_to_be_this_one(scene):
    from models import build_model

    weights = build_model("resnet32", 10).state_dict()
    return scene.stage_2_from(scene.checkpoint() | {"state_dict": weights})


@case("strange.pth.tar", "layer3.0.bn2.weight")
def a_checkpoint_with_a_missing_weight(scene):
    content = scene.checkpoint()
    del content["state_dict"]["layer3.0.bn2.weight"]
    return scene.stage_2_from(content)


@case("strange.pth.tar", "conv1.weight", "[16, 3, 5, 5]", "[16, 3, 3, 3]")
def a_checkpoint_with_a_weight_of_another_shape(scene):
    content = scene.checkpoint()
    content["state_dict"]["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    return scene.stage_2_from(content)


@case("strange.pth.tar", "100 classes", "the data have 10")
def a_checkpoint_of_another_number_of_classes(scene):
    from models import build_model

    weights = build_model("resnet8", 100).state_dict()
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


@case("strange.pth.tar", "no 'state_dict'")
def a_checkpoint_with_a_sparse_weight(scene):
    content = scene.checkpoint()
    weight = content["state_dict"]["conv1.weight"]
    content["state_dict"]["conv1.weight"] = weight.to_sparse()
    return scene.stage_2_from(content)


@case("strange.pth.tar", "no 'state_dict'")
def a_checkpoint_with_a_weight_without_content(scene):
    content = scene.checkpoint()
    weight = content["state_dict"]["conv1.weight"]
    content["state_dict"]["conv1.weight"] = weight.to("meta")
    return scene.stage_2_from(content)


@case("strange.pth.tar", "must be a list of whole numbers")
def a_checkpoint_whose_class_counts_are_a_number(scene):
    return scene.stage_2_from(scene.checkpoint() | {"class_counts": 5})


@case("ckpt.best.pth.tar", "not a readable checkpoint")
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
