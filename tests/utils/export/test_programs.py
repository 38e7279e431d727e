"""Networks as programs and weights for others, run against the network."""

import importlib
import json
import resource
import sys

import numpy as np
import pytest
import torch

from models import build_model
from tests.support.helpers import snapshot
from tests.support.made_up_runs import write_run
from tests.support.rounding import assert_as_accurate
from tests.support.trained import MEAN, NAMES, STD, write_checkpoint
from utils.evaluation.classifiers import Classifier
from utils.export.__main__ import main
from utils.export.programs import PACKAGES
from utils.predict.network import load_network
from utils.runs.backbone import load_backbone
from utils.runs.classifier_files import save_classifiers

SIDE = 16
BY_ITSELF = "the program subtracts mean and divides by std itself"


def described(trained, normalisation):
    """Gives what the file of the network says about it."""
    images = "float32 [B, 3, S, S] in [0, 1], red, green, blue"
    return {
        "checkpoint": "run/ckpt.best.pth.tar",
        "epoch": 3,
        "classifier": "linear",
        "arch": "resnet8",
        "dataset": "folder",
        "class_names": NAMES,
        "input": f"{images}; {normalisation}",
        "image_size": SIDE,
        "shorter_side": SIDE,
        "mean": MEAN,
        "std": STD,
    }


def exported(format, tmp_path, capsys, **settings):
    """Gives the network, and its file in this format."""
    for package in PACKAGES[format]:
        pytest.importorskip(package)
    write_checkpoint(tmp_path / "run", side=SIDE, **settings)
    assert main([str(tmp_path / "run"), "--format", format]) == 0
    path = tmp_path / "run" / f"model.{format}"
    out, err = capsys.readouterr()
    assert out == f"{path}: {path.stat().st_size / 1e6:.2f} MB\n" and err == ""
    return load_network(tmp_path / "run"), path


def assert_equal_outputs(run, trained):
    """Asserts that `run` returns the network's features and logits of images in [0, 1], for batches
    of any size."""
    network = trained.with_normalisation()
    for number in (1, 2, 5):
        images = torch.rand(number, 3, SIDE, SIDE)
        assert_as_accurate(run(images), network, images)


@pytest.mark.parametrize("head_scale", [None, 30.0])
def test_a_pt2_program_computes_the_networks_outputs(head_scale, tmp_path, capsys):
    trained, path = exported("pt2", tmp_path, capsys, head_scale=head_scale)
    extra = {"description.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["description.json"]) == described(trained, BY_ITSELF)
    with torch.no_grad():
        assert_equal_outputs(program.module(), trained)


def test_an_onnx_model_computes_the_networks_outputs(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime")
    trained, path = exported("onnx", tmp_path, capsys, head_scale=30.0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [images] = session.get_inputs()
    assert (images.name, images.shape) == ("images", ["batch", 3, SIDE, SIDE])
    assert [output.name for output in session.get_outputs()] == ["features", "logits"]
    found = session.get_modelmeta().custom_metadata_map
    expected = described(trained, BY_ITSELF)
    assert {key: json.loads(found[key]) for key in expected} == expected
    assert_equal_outputs(lambda x: session.run(None, {"images": x.numpy()}), trained)
    names = json.loads(found["class_names"])
    _, logits = session.run(None, {"images": np.zeros((1, 3, SIDE, SIDE), np.float32)})
    assert len(names) == logits.shape[1]


@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_program_has_a_classifier_that_an_evaluation_fitted(kind, format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package in (*PACKAGES[format], *(["onnxruntime"] if format == "onnx" else [])):
        pytest.importorskip(package)
    write_checkpoint(tmp_path / "run", side=SIDE)
    trained = load_network(tmp_path / "run")
    bias = torch.rand(len(NAMES)) if kind == "linear" else None
    classifier = Classifier(kind, torch.rand(len(NAMES), 64), bias, shift=torch.rand(64))
    (tmp_path / "logs" / "run").mkdir(parents=True)
    path = tmp_path / "logs" / "run" / "classifiers.pth"
    save_classifiers(path, {"crt": classifier}, trained.network, 3, NAMES)
    argv = ["run", "--format", format, "--classifier", "crt"]
    assert main(argv) == 2
    assert main([*argv, "--root_log", "logs"]) == 0

    images = torch.rand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        expected, _ = trained.with_normalisation()(images)
        if format == "onnx":
            onnxruntime = importlib.import_module("onnxruntime")
            session = onnxruntime.InferenceSession("run/model.onnx")
            found = session.get_modelmeta().custom_metadata_map
            features, logits = map(torch.tensor, session.run(None, {"images": images.numpy()}))
        else:
            extra = {"description.json": ""}
            program = torch.export.load("run/model.pt2", extra_files=extra).module()
            found = {k: json.dumps(v) for k, v in json.loads(extra["description.json"]).items()}
            features, logits = program(images)
    assert json.loads(found["classifier"]) == "crt"
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, classifier(expected), rtol=1e-4, atol=1e-4)


def test_an_unfinished_run_with_its_records_apart_is_told(tmp_path, capsys):
    write_checkpoint(tmp_path / "run", side=SIDE)
    write_run(tmp_path / "logs" / "run", epochs=2, finished=False)
    argv = [str(tmp_path / "run"), "--format", "pt2", "--root_log", str(tmp_path / "logs")]
    assert main(argv) == 0
    assert "not finished: 2 of 4 epochs are done" in capsys.readouterr().err


def test_safetensors_hold_the_weights_and_are_a_backbone(tmp_path, capsys):
    trained, path = exported("safetensors", tmp_path, capsys)
    safetensors = importlib.import_module("safetensors")
    with safetensors.safe_open(path, "pt") as file:
        found = {key: json.loads(text) for key, text in file.metadata().items()}
        assert found == described(trained, "first subtract mean and divide by std")
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = trained.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model = build_model("resnet8", 3)
    load_backbone(model, path)
    assert torch.equal(model.conv1.weight, expected["conv1.weight"])


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnx"), ("onnx", "onnxscript"), ("safetensors", "safetensors")],
)
def test_a_missing_package_is_one_line(format, package, tmp_path, capsys, monkeypatch):
    for name in PACKAGES[format]:
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    write_checkpoint(tmp_path / "run")
    before = snapshot(tmp_path)
    assert main([str(tmp_path / "run"), "--format", format, "--output", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err == (
        f"export: error: --format {format} needs the package {package}: "
        f"python -m pip install {package}\n"
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nothing", "--format", "pt2"], "no such run or checkpoint"),
        (["run", "--format", "pt2", "--last"], "--last works with --format checkpoint"),
        (["run", "--classifier", "crt"], "--classifier works with --format onnx, pt2, not with"),
        (["run", "--format", "safetensors", "--classifier", "crt"], "not with safetensors"),
        (["run", "--root_log", "logs"], "--root_log works with --format onnx, pt2, safetensors"),
        (["run", "--format", "pt2", "--classifier", "crt"], "run/classifiers.pth: no such file"),
        (["run", "--format", "pt2", "--classifier", "ncm_euclidean"], "invalid choice"),
        (["run", "--format", "gguf"], "invalid choice: 'gguf'"),
        (["run"], "no args.json"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(argv, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "run")
    before = snapshot(tmp_path)
    assert main([*argv, "--output", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("export: error: ") and says in err and err.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("output", ["mine", "mine/out"])
def test_a_file_in_the_place_of_the_folder_is_one_line(output, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "run")
    (tmp_path / "mine").write_text("a file")
    before = snapshot(tmp_path)
    assert main(["run", "--format", "pt2", "--output", output]) == 2
    err = capsys.readouterr().err
    assert f"cannot write into {output}" in err and "not a writable folder" in err
    assert err.count("\n") == 1 and snapshot(tmp_path) == before


@pytest.mark.parametrize("format", ["pt2", "safetensors"])
def test_a_full_disk_is_one_line_that_names_the_file_and_leaves_no_folder(
    format, tmp_path, capsys, monkeypatch
):
    if format == "safetensors":
        pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "run")
    (tmp_path / "out").mkdir()
    before = snapshot(tmp_path)

    # A larger file fails in the middle of a write, as on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        status = main(["run", "--format", format, "--output", "out/deep/er"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    says = f"out/deep/er/model.{format}: File too large"
    assert (status, capsys.readouterr().err) == (1, f"export: error: {says}\n")
    assert snapshot(tmp_path) == before


def test_only_in_the_networks_own_folder_an_earlier_file_is_replaced(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "run")
    for _ in range(2):
        assert main(["run", "--format", "pt2"]) == 0
        assert main(["run", "--format", "pt2", "--output", "run"]) == 0
    assert main(["run", "--format", "pt2", "--output", "out/mine"]) == 0
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert main(["run", "--format", "pt2", "--output", "out/mine"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("export: error: out/mine/model.pt2 is there already")
    assert "--output" in err and err.count("\n") == 1 and snapshot(tmp_path) == before
