"""Checkpoints: written whole, read without running anything in them."""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from models import COSINE_SCALE, build_model
from utils.errors import UserError
from utils.files import atomic_write


def save(path: Path, checkpoint: dict) -> None:
    """Writes tensors, numbers, strings, lists, tuples and dicts, atomically.

    Raises:
        OSError: the file cannot be written; the previous one is still there.
    """
    with atomic_write(path) as file:
        torch.save(checkpoint, file)


def load(path: Path) -> dict:
    """A checkpoint, of this program or of the released code, on the CPU.

    A `module.` prefix (from data-parallel training) is taken off the names of the weights.

    Raises:
        UserError: the file is missing, damaged, holds anything but plain data, or no weights.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path}: damaged checkpoint (checksum of {damaged})")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the one line of an error says it all
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except Exception as error:  # whatever the bytes made of the reader
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(map(_is_plain, weights.values())):
        raise UserError(f"{path}: no 'state_dict' of weights in this file")
    counts = checkpoint.get("class_counts")
    if counts is not None and not (
        isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    ):
        raise UserError(f"{path}: its class_counts are no list of whole numbers")
    checkpoint["state_dict"] = {
        str(name).removeprefix("module."): weight for name, weight in weights.items()
    }
    return checkpoint


def _is_plain(weight: object) -> bool:
    """Whether it is a dense tensor with its values in memory."""
    is_tensor = isinstance(weight, Tensor)
    return is_tensor and weight.layout == torch.strided and weight.device.type == "cpu"


def build_from(
    checkpoint: dict, path: Path, arch: str, num_classes: int, head: str | None = None
) -> nn.Module:
    """The network of a checkpoint, with a head of the checkpoint's kind: linear, or a cosine head,
    which has no bias and scales by 30.

    Raises:
        UserError: another architecture, number of classes or kind of head (if one is asked for), or
            weights that are not finite.
    """
    weights = checkpoint["state_dict"]
    if checkpoint.get("arch", arch) != arch:
        raise UserError(f"{path}: a checkpoint of {checkpoint['arch']}, not of --arch {arch}")
    weight = weights.get("linear.weight")
    if weight is None or weight.ndim != 2:
        raise UserError(f"{path}: no linear.weight among the weights")
    is_normed = "linear.bias" not in weights
    kind = "cosine" if is_normed else "linear"
    if head not in (None, kind):
        raise UserError(f"{path}: a checkpoint with a {kind} head, not --head {head}")
    classes = weight.shape[1] if is_normed else weight.shape[0]
    if classes != num_classes:
        raise UserError(f"{path}: a checkpoint of {classes} classes, the data have {num_classes}")
    model = build_model(arch, num_classes, head_scale=COSINE_SCALE if is_normed else None)
    load_weights(model, weights, path)
    return model


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Loads weights of the same names and shapes.

    Raises:
        UserError: other names or shapes, or weights that are not finite.
    """
    expected = model.state_dict()
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    if missing or unknown:
        raise UserError(
            f"{path}: weights of another network: {len(missing)} missing ({_some(missing)}), "
            f"{len(unknown)} unknown ({_some(unknown)})"
        )
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} has shape {list(weight.shape)}, not {list(expected[name].shape)}"
            )
        if not torch.isfinite(weight).all():
            raise UserError(f"{path}: {name} is not finite")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "none"
