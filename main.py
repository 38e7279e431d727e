"""DRO-LT: distributional robustness loss for long-tail learning (Samuel and Chechik, ICCV 2021).

Stage 1, cross-entropy on long-tailed CIFAR-100:

    python main.py --gpu 1 --dataset cifar100 --imb_type exp --imb_factor 0.01 --loss_type CE \\
        --train_rule None

Stage 2, DRO-LT fine-tuning; with `--evaluation True` added, its evaluation:

    python main.py --gpu 1 --dataset cifar100 --imb_type exp --imb_factor 0.01 --resume True \\
        --epochs 100 --pretrained cifar100_resnet32_CE_None_exp_0.01_0 --feat_sampler resample,4 \\
        --feat_lr 0.005 --feat_loss ce_lt,robust_loss --cls_sampler none --cls_lr 0.01 \\
        --cls_loss ce --temperature 1 -b 128 --margin 1 --margin_type learned

Both in one process, for three seeds: the second with `--pretrain_epochs 200 --seeds 0,1,2` instead
of `--pretrained ...`.

Where the paper is: `utils/training/stage2.py` (the two phases: losses, samplers, rates),
`losses/dro.py` (the robust loss), `losses/margins.py`, `datasets/samplers.py` (`ClassAwareOrder`),
`utils/training/trainer.py` (the loop, and the centroids of each epoch).
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    found = ".".join(str(part) for part in sys.version_info[:2])
    sys.stderr.write("main.py: error: Python 3.11 or newer is needed, this is " + found + "\n")
    sys.exit(2)

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from utils.errors import (
    ENDINGS,
    Interrupted,
    ending,
    ignore_backend_of_notebooks,
    say,
    set_up_streams,
)
from utils.machine.processes import ALONE, World, world_of_environment
from utils.options.data_paths import check_data
from utils.options.parse import parse_stages
from utils.runs.folders import linked


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit status.

    Args:
        argv: the command line without the program's name; `sys.argv[1:]` if None.

    Returns:
        0: done; 1: the run failed; 2: bad input; 129, 130 or 143: a signal interrupted the run;
        141: nobody reads the output any more.
    """
    world = ALONE
    try:
        set_up_streams()
        ignore_backend_of_notebooks()
        world = world_of_environment()
        with _only_main_prints(world):
            _run(argv, world)
            sys.stdout.flush()
    except Interrupted as error:
        if world.is_main:
            say("main.py: interrupted; --resume True continues")
        return error.exit_status
    except ENDINGS as error:
        return _end(error, world)
    return 0


def _run(argv: Sequence[str] | None, world: World) -> None:
    stages = parse_stages(argv)
    # A finished run needs no data. If one of several processes lacks them, it can tell the others
    # only after they have joined: `load_data` looks again.
    if world.size == 1 and not stages[-1].resume:
        check_data(stages[-1])
    # Torch is imported only after the options have been checked, so that errors come at once.
    if stages[-1].check_images:
        from utils.commands.check import check_images

        check_images(stages[-1])
        return
    stages = linked(stages)
    from utils.commands.evaluate import evaluate
    from utils.commands.train import train

    if stages[-1].evaluation:
        evaluate(stages[-1])
    else:
        train(stages)


@contextmanager
def _only_main_prints(world: World) -> Iterator[None]:
    """Inside, only the main process of a run prints anything."""
    if world.is_main:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _end(error: BaseException, world: World) -> int:
    """Prints the error and returns the exit status. If all processes have the error, only the main
    process prints it."""
    status, message = ending(error)
    if message and (world.is_main or not getattr(error, "is_shared", False)):
        say(f"main.py: error: {message}")
    return status


if __name__ == "__main__":
    sys.exit(main())
