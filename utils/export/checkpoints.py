"""Small checkpoints of a finished run, to be published: weights and what they are, without the
state that only going on needs."""

from pathlib import Path

from utils.errors import UserError
from utils.runs.records import place_of, read_run
from utils.runs.run_folder import BEST_CHECKPOINT, LAST_CHECKPOINT, best_by

KEPT = (
    *("epoch", "arch", "state_dict", "best_acc1", "stage", "dataset", "class_counts"),
    *("fingerprint", "data", "selected_on", "results", "epsilons"),
    *("loss_type", "feat_loss", "cls_loss", "prior_weight"),
)


def export_checkpoints(folder: Path, output: Path, with_last: bool) -> list[Path]:
    """Writes the slim checkpoints and returns their paths.

    Args:
        folder: of a finished run.
        output: below which they go, at the run's place (`place_of`), where `--pretrained` and
            `--evaluation` look for them.
        with_last: the last epoch's too, from which `--select_on last` starts.

    Raises:
        UserError: no finished run, or a damaged checkpoint.
    """
    run = read_run(folder)
    if not run.is_finished:
        raise UserError(f"{folder}: this run is not finished (no summary.json)")
    from utils.runs import checkpoint

    chosen_by = {BEST_CHECKPOINT: run.arguments.get("select_on", "test")}
    if run.stage == 1:
        # A stage 2's would be of a chain whose start another protocol has chosen.
        chosen_by |= {best_by(protocol): protocol for protocol in ("test", "heldout")}
    if with_last:
        chosen_by[LAST_CHECKPOINT] = "last"
    found = [name for name in chosen_by if (folder / name).is_file()]
    slim = {}
    for name in found:
        content = checkpoint.load(folder / name)
        slim[name] = {key: content[key] for key in KEPT if key in content}
        # Earlier versions said of the last epoch too what the run was selected on.
        slim[name]["selected_on"] = chosen_by[name]
    target = output / place_of(folder, run.stage)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in slim.items():
        checkpoint.save(target / name, content)
    return [target / name for name in found]
