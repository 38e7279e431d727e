"""Small checkpoints of a finished run, for publication. They lack the state that only a resumed run
needs."""

from pathlib import Path

import torch

from utils.errors import UserError
from utils.files import check_writable, made_folder
from utils.options.flags import OF_HELD_OUT, OF_LOGITS
from utils.runs import checkpoint
from utils.runs.records import place_of, read_run
from utils.runs.run_folder import BEST_CHECKPOINT, LAST_CHECKPOINT, best_by

KEPT = (
    *("epoch", "arch", "state_dict", "best_acc1", "stage", "dataset", "class_counts"),
    *("fingerprint", "data", "selected_on", "results", "epsilons"),
    *(*OF_LOGITS, *OF_HELD_OUT),
)


def export_checkpoints(folder: Path, output: Path, with_last: bool) -> list[Path]:
    """Writes the small checkpoints and returns their paths.

    Args:
        folder: the folder of a finished run.
        output: the root folder; they go to `output / place_of(folder, stage)`.
        with_last: True to write the last epoch's checkpoint too, from which `--select_on last`
            starts.

    Raises:
        UserError: the run is not finished, a checkpoint is damaged, the target cannot be written,
            the target holds a checkpoint of another run, or one with which a run can be resumed, or
            another stage 1 than that of a stage 2 is in `output`.
    """
    run = read_run(folder)
    if not run.is_finished:
        raise UserError(f"{folder}: this run is not finished (no summary.json)")
    chosen_by = {BEST_CHECKPOINT: run.arguments.get("select_on", "test")}
    if run.stage == 1:
        # In stage 2, other protocols' checkpoints would belong to a chain that begins differently.
        chosen_by |= {best_by(protocol): protocol for protocol in ("test", "heldout")}
    if with_last:
        chosen_by[LAST_CHECKPOINT] = "last"
    found = [name for name in chosen_by if (folder / name).is_file()]
    slim = {}
    for name in found:
        content = checkpoint.load(folder / name)
        slim[name] = {key: content[key] for key in KEPT if key in content}
        # Earlier versions wrote the run's protocol into the last epoch's checkpoint too.
        slim[name]["selected_on"] = chosen_by[name]
    target = output / place_of(folder, run.stage)
    check_writable(target)
    _check_target(target, folder)
    if run.parent is not None:
        _check_stage_1(output / place_of(run.parent.folder, 1), run.parent.folder, folder)
    with made_folder(target):
        for name, content in slim.items():
            checkpoint.save(target / name, content)
    return [target / name for name in found]


def _check_target(target: Path, folder: Path) -> None:
    """Checks that the checkpoints in the target folder are small ones of the exported run.

    Raises:
        UserError: they are the run's own, one has the state that a resumed run needs, or one has
            other weights than the run's checkpoint of the same name.
    """
    if target.exists() and target.samefile(folder):
        raise UserError(f"{target} is the run's own folder: give another --output")
    # Those that this export does not replace count too: all in a folder belong to one run.
    for path in sorted(target.glob("ckpt*.pth.tar")):
        content, own = checkpoint.load(path), folder / path.name
        if "optimizers" in content:
            raise UserError(
                f"{path} is there already, a checkpoint with which a run can be resumed: give "
                "another --output"
            )
        weights = _weights(own) if own.is_file() else {}
        if not _are_equal(weights, content["state_dict"]):
            raise UserError(
                f"{path} is there already, and its weights are not those of {folder}: delete it, "
                "or give another --output"
            )


def _check_stage_1(target: Path, stage_1: Path, folder: Path) -> None:
    """Checks that the stage 1 in the target, if there is one, is the one below which the exported
    stage 2 was trained.

    Raises:
        UserError: it has other weights than the checkpoint of the same name in `stage_1`.
    """
    for path in sorted(target.glob("ckpt*.pth.tar")):
        own = stage_1 / path.name
        if own.is_file() and not _are_equal(*(_weights(place) for place in (own, path))):
            raise UserError(
                f"{path} is there already, and it is not the stage 1 of {folder}: delete it, or "
                "give another --output"
            )


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)["state_dict"]


def _are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
