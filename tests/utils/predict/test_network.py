"""A trained network, and what it was trained on."""

import json

import pytest
import torch
from torch.testing import assert_close

from datasets.normalisation import CIFAR, IMAGENET
from models import build_model
from tests.support.trained import MEAN, NAMES, STD, write_checkpoint
from utils.errors import UserError
from utils.evaluation.classifiers import Classifier
from utils.predict.network import load_network, with_classifier
from utils.runs.classifier_files import save_classifiers


def test_size_normalisation_and_names_are_the_checkpoints(tmp_path):
    path = write_checkpoint(tmp_path / "run")
    trained = load_network(tmp_path / "run")
    assert (trained.path, trained.arch, trained.dataset) == (path, "resnet8", "folder")
    assert (trained.image_size, trained.class_names) == (8, NAMES)
    assert trained.normalisation.as_dict() == {"mean": MEAN, "std": STD}


@pytest.mark.parametrize("head_scale", [None, 30.0])
def test_the_network_normalises_images_itself(head_scale, tmp_path):
    path = write_checkpoint(tmp_path, head_scale=head_scale)
    images = torch.rand(3, 3, 8, 8)
    plain = build_model("resnet8", len(NAMES), head_scale=head_scale).eval()
    plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        features, logits = load_network(path).with_normalisation()(images)
        expected = plain((images - mean) / std)
    assert_close(features, expected[0])
    assert_close(logits, expected[1])


@pytest.mark.parametrize(
    ("dataset", "arch", "expected", "side"),
    [("cifar100", "resnet8", CIFAR, 32), ("imagenet_lt", "resnet10", IMAGENET, 224)],
)
def test_an_earlier_checkpoint_gets_the_usual_size_and_normalisation(
    dataset, arch, expected, side, tmp_path
):
    write_checkpoint(tmp_path, network=arch, data=None, dataset=dataset)
    trained = load_network(tmp_path)
    assert (trained.normalisation, trained.image_size) == (expected, side)
    assert trained.class_names == ["0", "1", "2", "3", "4", "5"]


def test_an_earlier_checkpoints_image_size_is_in_its_options(tmp_path):
    write_checkpoint(tmp_path, data={})
    (tmp_path / "args.json").write_text(json.dumps({"image_size": 28}))
    assert load_network(tmp_path).image_size == 28


@pytest.mark.parametrize(
    ("recorded", "dataset", "arguments", "expected"),
    [
        ({"are_whole": True}, "npz", None, 128),
        ({"are_whole": False}, "npz", None, 146),
        ({}, "npz", {"image_size": None}, 128),
        ({}, "npz", {"image_size": 128}, 146),
        ({}, "npz", None, 128),
        ({}, "folder", None, 146),
    ],
    ids=["npz", "npz, resized", "earlier", "earlier, resized", "earlier, exported", "folder"],
)
def test_only_images_of_an_npz_file_were_not_cropped(
    recorded, dataset, arguments, expected, tmp_path
):
    write_checkpoint(tmp_path, data=recorded | {"image_size": 128}, dataset=dataset)
    if arguments is not None:
        (tmp_path / "args.json").write_text(json.dumps(arguments))
    assert load_network(tmp_path).shorter_side == expected


def test_the_released_codes_checkpoints_are_read(tmp_path):
    path = write_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    wrapped = {f"module.{name}": w for name, w in content["state_dict"].items()}
    torch.save({"epoch": 3, "arch": "resnet8", "state_dict": wrapped, "best_acc1": 1.0}, path)
    assert load_network(path).normalisation == CIFAR


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "vgg"}, "network 'vgg'"),
        ({"arch": None}, "network None"),
        ({"arch": ["resnet8"]}, "its arch must be a name"),
        ({"arch": "resnet32"}, "missing (layer1.1"),
        ({"data": {"class_names": ["ant"]}}, "must be a list of 6 names"),
        ({"data": {"image_size": "8"}}, "image_size must be a whole number from 8 to 1024"),
        ({"data": {"normalisation": {"mean": [0.0]}}}, "three numbers"),
        ({"state_dict": {"conv1.weight": torch.ones(1)}}, "no linear.weight"),
        ({"state_dict": {"linear.weight": torch.tensor(1.0)}}, "no linear.weight"),
        ({"state_dict": None}, "no 'state_dict'"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused(changes, says, tmp_path):
    write_checkpoint(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        load_network(tmp_path)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved.pop("kind"),
        lambda saved: saved.update(kind="tree"),
        lambda saved: saved.update(weight=torch.ones(6, 63)),
        lambda saved: saved.update(weight=torch.ones(7, 64)),
        lambda saved: saved.update(weight=torch.ones(5, 64)),
        lambda saved: saved["weight"][0].fill_(torch.nan),
        lambda saved: saved.update(bias=torch.full((6,), torch.inf)),
    ],
    ids=["no kind", "unknown kind", "features", "more", "fewer", "not a number", "infinite"],
)
def test_a_classifier_that_does_not_fit_the_network_is_refused(change, tmp_path):
    write_checkpoint(tmp_path)
    trained, path = load_network(tmp_path), tmp_path / "classifiers.pth"
    classifiers = {"crt": Classifier("linear", torch.ones(6, 64))}
    save_classifiers(path, classifiers, trained.network, 3, NAMES)
    assert with_classifier(trained, "crt").classifier == "crt"
    content = torch.load(path, weights_only=True)
    change(content["classifiers"]["crt"])
    torch.save(content, path)
    with pytest.raises(UserError, match="its classifier crt does not fit the network"):
        with_classifier(trained, "crt")
