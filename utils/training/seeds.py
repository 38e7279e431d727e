"""Several seeds of one command: trained side by side, and summarised in one record."""

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from utils.evaluation.statistics import combine
from utils.files import write_json


def side_by_side(runs: Sequence[Generator[None, None, None]], device: torch.device) -> None:
    """Takes one step of each run in turn, each run on its own CUDA stream.

    The steps of one run are too small to fill a GPU, so the other runs fill the gaps. Each run
    takes the steps that it would take alone. If one raises an error, all are closed before it is
    raised again.

    Args:
        runs: generators that stop after each step, such as `Trainer.steps`.
        device: the CUDA device of all runs.
    """
    streams = [torch.cuda.Stream(device) for _ in runs]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(device))
    active = list(zip(runs, streams, strict=True))
    with ExitStack() as stack:
        for run in runs:
            stack.callback(run.close)
        while active:
            for run, stream in list(active):
                with torch.cuda.stream(stream):
                    if next(run, "over") == "over":
                        active.remove((run, stream))
    torch.cuda.synchronize(device)


def summarise_seeds(path: Path, summaries: Sequence[Path], is_parallel: bool) -> dict:
    """Writes the `summary.json` of several seeds and returns its content.

    Args:
        path: the file to write.
        summaries: the `summary.json` of each seed.
        is_parallel: True if the seeds were trained side by side. Then ``seconds`` is the longest
            time of a seed, otherwise the sum.
    """
    read = [json.loads(summary.read_text()) for summary in summaries]
    combined = combine(read) | {
        "seeds": [summary["seed"] for summary in read],
        "seconds": (max if is_parallel else sum)(summary["seconds"] for summary in read),
    }
    del combined["seed"]
    write_json(path, combined)
    return combined
