"""`make demo`: both stages, the control and an evaluation on long-tailed handwritten digits, with a
table of the accuracies. It takes about three minutes on two slow cores and downloads nothing.

    python -m utils.demo [--seed N] [--folder DIR]
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from main import main
from utils.errors import run_program
from utils.evaluation.tables import accuracy_table
from utils.options import values
from utils.options.parse import Parser, parse_options
from utils.runs.folders import run_folder

# With `last`, test images choose nothing, so they may be reported.
DATA = "--dataset digits --arch resnet20 --imb_factor 0.02 --augment none --select_on last"
STAGE_1 = f"{DATA} --epochs 40 --schedule scaled --wd 5e-4"
STAGE_2 = f"{DATA} --epochs 10 --balanced_clf_nepochs 4"
CROSS_ENTROPY, CONTROL, DRO_LT = "cross-entropy", "without the robust loss", "DRO-LT"


def commands(seed: int, folder: Path) -> dict[str, list[str]]:
    """Returns the flags of three runs, by the name of the run: stage 1, and from it one stage 2
    with and one without the robust loss. The difference of the two is the effect of the loss."""
    roots = ["--root_log", str(folder), "--root_model", str(folder)]
    common = ["--seed", str(seed), "--exp_str", f"demo{seed}", *roots]
    stage_1 = [*STAGE_1.split(), *common]
    start = ["--pretrained", run_folder(parse_options(stage_1)).models.name]
    stage_2 = [*STAGE_2.split(), *common, *start, "--recipe"]
    return {
        CROSS_ENTROPY: stage_1,
        CONTROL: [*stage_2, "control"],
        DRO_LT: [*stage_2, "dro_lt"],
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
        print(f"\n{title}\n$ python main.py {shlex.join(command)}", flush=True)
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


def run(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration that the command line `argv` (`sys.argv` if None) asks for, and
    returns its exit status: 0 done, 1 a failure of a run, 2 bad input."""

    def program() -> int:
        parser = Parser(prog="python -m utils.demo", description=__doc__)
        parser.add_argument(
            "--seed",
            type=values.seed,
            default=0,
            metavar="N",
            help="seed of all runs, 0 <= N < 2^32 (default: 0)",
        )
        parser.add_argument(
            "--folder",
            type=values.path,
            default=Path("demo"),
            metavar="DIR",
            help="folder for the runs (default: demo)",
        )
        arguments = parser.parse_args(argv)
        return demo(arguments.seed, arguments.folder)

    return run_program("demo", program)


if __name__ == "__main__":
    sys.exit(run())
