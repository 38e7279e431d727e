"""Whole runs that are used: evaluated, exported, and asked for predictions."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from datasets.normalisation import IMAGENET
from tests.support.helpers import call, load, outcome_of, stage_1, stage_1_folder, succeed
from tests.support.own_images import CLASSES, write_folder
from utils.export.__main__ import main as export
from utils.predict.__main__ import main as predict

pytestmark = pytest.mark.usefixtures("no_figures")


def test_a_torchvision_network_is_trained_evaluated_and_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), "resnet18.pth")
    write_folder(tmp_path / "own")
    argv = [
        *("--dataset", "folder", "--data_root", "own", "-a", "resnet18", "--image_size", 32),
        *("--backbone", "resnet18.pth", "--backbone_lr", 0.1, "-b", 4, "--lr", 0.01),
        *("--epochs", 1, "--schedule", "cosine", "--seed", 0, "--augment", "none"),
    ]
    outcome = succeed(argv)
    assert "--backbone resnet18.pth: took 120 tensors (conv1.weight to " in outcome.out
    assert "left 2 (fc.weight, fc.bias)" in outcome.out
    [run] = (tmp_path / "checkpoint").iterdir()
    content = load(run / "ckpt.best.pth.tar")
    assert content["data"]["normalisation"] == IMAGENET.as_dict()

    succeed([*argv, "--evaluation", "True", "--readings", "linear,ncm_cosine"])
    with np.load(run / "outputs_test.npz") as outputs:
        labels, preds, confidences = (outputs[name] for name in ("labels", "preds", "confs"))
    assert predict([str(run), "own/test", "--output", "p.csv"]) == 0
    with open("p.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file"])
    names = content["data"].get("class_names", ["0", "1", "2"])
    assert [Path(row["file"]).parent.name for row in rows] == [CLASSES[i] for i in labels]
    assert [row["class"] for row in rows] == [names[label] for label in preds]
    found = [float(row["confidence"]) for row in rows]
    assert found == pytest.approx(list(map(float, confidences)), abs=1e-5)

    flags = ["--output", "n.csv", "--classifier", "ncm_cosine"]
    assert predict(["checkpoint", "own/test", *flags]) == 0
    with open("n.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_whoever_uses_a_run_that_is_not_finished_is_told_so(tree, pretrained, tmp_path):
    run, images = stage_1_folder(pretrained), tree / "cifar10" / "test"

    def uses():
        yield "main.py", call([*stage_1(tree, pretrained), "--evaluation", "True"])
        argv = [run, images, "--output", tmp_path / "p.csv"]
        yield "predict", outcome_of(predict, argv)
        yield "export", outcome_of(export, [run, "--format", "pt2"])

    for _, outcome in uses():
        assert outcome.err == ""
    (run / "summary.json").unlink()
    says = f"{run / 'ckpt.best.pth.tar'} is from a run that is not finished: 2 of 2 epochs are done"
    for name, outcome in uses():
        assert (outcome.status, outcome.err) == (0, f"{name}: warning: {says}\n")
