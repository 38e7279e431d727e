"""`make demo`: both stages and the evaluation on long-tailed handwritten digits, in about a minute
on two cores and without a download, and a table of what fine-tuning changed.

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

DATA = "--dataset digits --arch resnet20 --imb_factor 0.02 --augment none"
STAGE_1 = f"{DATA} --epochs 40 --schedule scaled --wd 5e-4"
STAGE_2 = (
    f"{DATA} --epochs 10 --balanced_clf_nepochs 4 --feat_sampler resample,4 --feat_lr 0.005 "
    "--feat_loss ce_lt,robust_loss --cls_sampler none --cls_lr 0.01 --cls_loss ce "
    "--temperature 1 --margin 1 --margin_type learned"
)


def demo(seed: int, folder: Path) -> int:
    """Runs the two stages and the evaluation, and prints the table; the exit status."""
    common = f"--seed {seed} --root_log {folder} --root_model {folder} --exp_str demo{seed}"
    stage_1 = f"{STAGE_1} {common} --overwrite True".split()
    pretrained = run_folder(parse_options(stage_1)).models
    stage_2 = f"{STAGE_2} {common} --pretrained {pretrained.name}".split()
    for title, command in (
        ("Stage 1: cross-entropy", stage_1),
        ("Stage 2: DRO-LT", [*stage_2, "--overwrite", "True"]),
        ("Evaluation", [*stage_2, "--evaluation", "True"]),
    ):
        print(f"\n{title}\n$ python main.py {' '.join(command)}", flush=True)
        status = main(command)
        if status != 0:
            return status
    rows = {}
    for method, command in (("cross-entropy", stage_1), ("DRO-LT", stage_2)):
        records = run_folder(parse_options(command)).records
        summary = json.loads((records / "summary.json").read_text())
        rows |= {
            f"{method}, {text}": summary["test"]["last"][reading]
            for reading, text in (("linear", "linear"), ("ncm", "NCM"))
        }
    print("\nLong-tailed digits, test accuracy (%) at the last epoch")
    print(accuracy_table(rows, summary["class_counts"]))
    print(f"figure: {records / 'report.png'}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m utils.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    sys.exit(demo(arguments.seed, arguments.folder))
