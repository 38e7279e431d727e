"""Writes a trained network as a file that other programs run or read.

All three formats include the class names, the image size and the normalisation. `onnx` and `pt2`
are programs, which normalise images themselves: they take `images`, float32 ``[B, 3, S, S]`` in
[0, 1] for any B, and return `features` ``[B, D]`` and `logits` ``[B, K]``. `safetensors` has only
the weights, under the network's own names.
"""

import importlib
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import torch

from utils.files import atomic_write
from utils.predict.network import TrainedNetwork
from utils.runs.run_folder import is_seed_folder

INPUT, OUTPUTS = "images", ["features", "logits"]
EXAMPLES = 2
"""Number of images in the traced batch. The size 1 would be taken for a constant."""


PACKAGES = {"onnx": ("onnx", "onnxscript"), "pt2": (), "safetensors": ("safetensors",)}
"""The packages beyond the requirements that each format needs."""


NORMALISES = "the program subtracts mean and divides by std itself"
DOES_NOT_NORMALISE = "first subtract mean and divide by std"


def description(trained: TrainedNetwork, normalisation: str) -> dict:
    """Returns what a file says about the network beside its weights, as values for JSON.

    Args:
        trained: the network.
        normalisation: who normalises the images; most other model files leave it to the caller.
    """
    parts = trained.path.absolute().parts
    in_run = parts[-3:] if is_seed_folder(trained.path.parent.name) else parts[-2:]
    return {
        "checkpoint": "/".join(in_run),
        "epoch": trained.epoch,
        "classifier": trained.classifier,
        "arch": trained.arch,
        "dataset": trained.dataset,
        "class_names": trained.class_names,
        "input": f"float32 [B, 3, S, S] in [0, 1], red, green, blue; {normalisation}",
        "image_size": trained.image_size,
        "shorter_side": trained.shorter_side,
        **trained.normalisation.as_dict(),
    }


def write_onnx(trained: TrainedNetwork, path: Path) -> None:
    """Writes an ONNX model. The entries of `description` are in its `metadata_props`, each as
    JSON."""
    # The exporter prints its progress, which nobody needs.
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            trained.with_normalisation(),
            (_example(trained),),
            dynamo=True,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes={INPUT: {0: "batch"}},
        )
    assert program is not None
    model = program.model_proto
    for key, value in description(trained, NORMALISES).items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


def write_pt2(trained: TrainedNetwork, path: Path) -> None:
    """Writes a program of `torch.export`. The description is its extra file `description.json`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            trained.with_normalisation(),
            (_example(trained),),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        )
        extra = {"description.json": json.dumps(description(trained, NORMALISES))}
        # A write that fails inside torch would abort the process.
        serialised = BytesIO()
        torch.export.save(program, serialised, extra_files=extra)
    with atomic_write(path) as file:
        file.write(serialised.getbuffer())


def write_safetensors(trained: TrainedNetwork, path: Path) -> None:
    """Writes the weights. The entries of `description` are its metadata, each as JSON."""
    safetensors = importlib.import_module("safetensors.torch")
    weights = {name: w.contiguous() for name, w in trained.network.state_dict().items()}
    described = description(trained, DOES_NOT_NORMALISE)
    metadata = {key: json.dumps(value) for key, value in described.items()}
    with atomic_write(path) as file:
        file.write(safetensors.save(weights, metadata))


def _example(trained: TrainedNetwork) -> torch.Tensor:
    return torch.rand(EXAMPLES, 3, trained.image_size, trained.image_size)


WRITERS: dict[str, Callable[[TrainedNetwork, Path], None]] = {
    "onnx": write_onnx,
    "pt2": write_pt2,
    "safetensors": write_safetensors,
}
