"""`make demo`: both stages, the control and an evaluation on long-tailed handwritten digits, with a
table of the accuracies. It takes a minute or two on two cores and downloads nothing.

    python -m utils.demo [--seed N] [--folder DIR]
"""

import argparse
import json
import sys
from pathlib import Path

from main import main
from utils.options.parse import parse_options
from utils.runs.folders import run_folder
from utils.training.summary import accuracy_table

# With `last`, test images choose nothing, so they may be reported.
DATA = "--dataset digits --arch resnet20 --imb_factor 0.02 --augment none --select_on last"
STAGE_1 = f"{DATA} --epochs 40 --schedule scaled --wd 5e-4"
STAGE_2 = (
    f"{DATA} --epochs 10 --balanced_clf_nepochs 4 --feat_sampler resample,4 --feat_lr 0.005 "
    "--feat_loss LOSSES --cls_sampler none --cls_lr 0.01 --cls_loss ce "
    "--temperature 1 --margin 1 --margin_type learned"
)
CROSS_ENTROPY, CONTROL, DRO_LT = "cross-entropy", "without the robust loss", "DRO-LT"


def commands(seed: int, folder: Path) -> dict[str, list[str]]:
    """Returns the flags of three runs, by the name of the run: stage 1, and from it one stage 2
    with and one without the robust loss. The difference of the two is the effect of the loss."""
    common = f"--seed {seed} --root_log {folder} --root_model {folder} --exp_str demo{seed}"
    stage_1 = f"{STAGE_1} {common}".split()
    pretrained = run_folder(parse_options(stage_1)).models.name
    stage_2 = f"{STAGE_2} {common} --pretrained {pretrained}"
    return {
        CROSS_ENTROPY: stage_1,
        CONTROL: stage_2.replace("LOSSES", "ce_lt").split(),
        DRO_LT: stage_2.replace("LOSSES", "ce_lt,robust_loss").split(),
    }


def demo(seed: int, folder: Path) -> int:
    """Runs both stages, the control and the evaluation, prints the table, and returns the exit
    status of the first run that fails, or 0."""
    runs = commands(seed, folder)
    for title, command in (
        ("Stage 1: cross-entropy", [*runs[CROSS_ENTROPY], "--overwrite", "True"]),
        ("Stage 2 without the robust loss: the control", [*runs[CONTROL], "--overwrite", "True"]),
        ("Stage 2: DRO-LT", [*runs[DRO_LT], "--overwrite", "True"]),
        ("Evaluation of DRO-LT", [*runs[DRO_LT], "--evaluation", "True"]),
    ):
        print(f"\n{title}\n$ python main.py {' '.join(command)}", flush=True)
        status = main(command)
        if status != 0:
            return status
    folders = {name: run_folder(parse_options(flags)).records for name, flags in runs.items()}
    summaries = {name: json.loads((f / "summary.json").read_text()) for name, f in folders.items()}
    rows = {
        f"{name}, {text}": summary["test"]["last"][classifier]
        for name, summary in summaries.items()
        for classifier, text in (("linear", "linear"), ("ncm", "NCM"))
    }
    print("\nLong-tailed digits, test accuracy (%) at the last epoch, one seed")
    print(accuracy_table(rows, summaries[DRO_LT]["class_counts"]))
    print(f"figure: {folders[DRO_LT] / 'report.png'}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m utils.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    sys.exit(demo(arguments.seed, arguments.folder))
