"""A trained network as a file that other programs run or read.

All three carry the names of the classes, the images' size and the normalisation. `onnx` and `pt2`
are programs that normalise images themselves: they take `images`, float32 ``[B, 3, S, S]`` in
[0, 1] for any B, and give `features` ``[B, D]`` and `logits` ``[B, K]``. `safetensors` holds the
weights alone, under the network's own names.
"""

import importlib
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from utils.errors import optional_module
from utils.files import atomic_write
from utils.predict.network import TrainedNetwork

INPUT, OUTPUTS = "images", ["features", "logits"]
EXAMPLES = 2
"""Images of the traced batch; a batch of one would be taken for a constant."""


PACKAGES = {"onnx": ("onnx", "onnxscript"), "pt2": (), "safetensors": ("safetensors",)}
"""What a format needs beyond the requirements."""


def check_packages(format: str) -> None:
    """
    Raises:
        UserError: a package that the format needs is not installed.
    """
    for package in PACKAGES[format]:
        optional_module(package, package, f"--format {format}")


def description(trained: TrainedNetwork) -> dict:
    """What a file says of the network beside its numbers, as JSON holds it."""
    return {
        "arch": trained.arch,
        "dataset": trained.dataset,
        "class_names": trained.class_names,
        "image_size": trained.image_size,
        **trained.normalisation.as_dict(),
    }


def write_onnx(trained: TrainedNetwork, path: Path) -> None:
    """An ONNX model; the description's entries are among its `metadata_props`, each as JSON."""
    # The exporter tells its progress, of which nothing has to be known.
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
    for key, value in description(trained).items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


def write_pt2(trained: TrainedNetwork, path: Path) -> None:
    """A program of `torch.export`; the description is its extra file `description.json`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            trained.with_normalisation(),
            (_example(trained),),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        )
        extra = {"description.json": json.dumps(description(trained))}
        with atomic_write(path) as file:
            torch.export.save(program, file, extra_files=extra)


def write_safetensors(trained: TrainedNetwork, path: Path) -> None:
    """The weights, and the description's entries as metadata, each as JSON."""
    safetensors = importlib.import_module("safetensors.torch")
    weights = {name: w.contiguous() for name, w in trained.network.state_dict().items()}
    metadata = {key: json.dumps(value) for key, value in description(trained).items()}
    with atomic_write(path) as file:
        file.write(safetensors.save(weights, metadata))


def _example(trained: TrainedNetwork) -> torch.Tensor:
    return torch.rand(EXAMPLES, 3, trained.image_size, trained.image_size)


WRITERS: dict[str, Callable[[TrainedNetwork, Path], None]] = {
    "onnx": write_onnx,
    "pt2": write_pt2,
    "safetensors": write_safetensors,
}
