"""Networks for large images, whole: training, evaluation and every export, on small images."""

import numpy as np
import pytest
import torch

from tests.support.helpers import read_csv, succeed
from tests.support.own_images import CLASSES, write_folder
from tests.support.rounding import assert_as_accurate
from utils.export.__main__ import main as export
from utils.predict.network import load_network

SIDE = 32


@pytest.mark.parametrize("arch", ["resnet18", "resnet34"])
def test_a_network_trains_is_evaluated_and_exported(arch, tmp_path, monkeypatch, no_figures):
    onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime")
    safetensors = pytest.importorskip("safetensors.torch", reason="no safetensors")
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "own")
    argv = [
        *("--dataset", "folder", "--data_root", "own", "-a", arch, "--image_size", SIDE),
        *("-b", 4, "--epochs", 1, "--lr", 0.001, "--seed", 0, "--augment", "none"),
    ]
    succeed(argv)
    [run] = (tmp_path / "checkpoint").iterdir()
    assert float(read_csv(run)[0]["train_loss"]) > 0
    succeed([*argv, "--evaluation", "True"])

    trained = load_network(run)
    network = trained.with_normalisation()
    images = torch.rand(3, 3, SIDE, SIDE)
    for format in ("onnx", "pt2", "safetensors"):
        assert export([str(run), "--format", format]) == 0
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(run / "model.pt2").module()
    with torch.no_grad():
        found = [session.run(None, {"images": images.numpy()}), program(images)]
    for outputs in found:
        assert_as_accurate(outputs, network, images)
    weights = safetensors.load_file(run / "model.safetensors")
    own = trained.network.state_dict()
    assert weights.keys() == own.keys() and all(torch.equal(weights[n], own[n]) for n in own)

    # The evaluation is of the same network: its features are those of the test images' pixels.
    with np.load(run / "outputs_test.npz") as outputs:
        features, logits = outputs["feats"], trained.network.linear(torch.tensor(outputs["feats"]))
        assert features.shape == (2 * len(CLASSES), 512)
        assert torch.equal(logits.argmax(dim=1), torch.tensor(outputs["preds"]))
