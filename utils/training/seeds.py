"""Several seeds of one command: trained side by side, and summarised in one record."""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.evaluation.statistics import deviation
from utils.files import write_json


def side_by_side(runs: Sequence[Iterator[None]], device: torch.device) -> None:
    """Takes one step of each run in turn, each run on its own CUDA stream.

    The steps of one run are too small to fill a GPU, so the other runs fill the gaps. Each run
    takes the steps that it would take alone.

    Args:
        runs: iterators that stop after each step, such as `Trainer.steps`.
        device: the CUDA device of all runs.
    """
    streams = [torch.cuda.Stream(device) for _ in runs]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(device))
    active = list(zip(runs, streams, strict=True))
    while active:
        for run, stream in list(active):
            with torch.cuda.stream(stream):
                if next(run, "over") == "over":
                    active.remove((run, stream))
    torch.cuda.synchronize(device)


def combine(summaries: Sequence[Any]) -> Any:
    """Returns several records of one form as one record.

    - A measured number (a float) becomes ``{"mean": m, "std": s}``, where s is the sample standard
      deviation, or None for one record.
    - A value that is None in any record is None.
    - A key that any record lacks is left out.
    - Other values (texts, class counts) stay if they are equal in all records; if they are not
      (selected epochs), they become a list.

    Example:
        >>> combine([{"arch": "resnet32", "top1": 1.0}, {"arch": "resnet32", "top1": 3.0}])
        {'arch': 'resnet32', 'top1': {'mean': 2.0, 'std': 1.4142}}
    """
    first = summaries[0]
    if any(summary is None for summary in summaries):
        return None
    if isinstance(first, dict):
        # A summary made earlier may lack a key.
        shared = [key for key in first if all(key in summary for summary in summaries)]
        return {key: combine([summary[key] for summary in summaries]) for key in shared}
    if isinstance(first, list):
        return [combine(values) for values in zip(*summaries, strict=True)]
    if isinstance(first, float):
        spread = deviation(summaries)
        std = None if spread is None else round(spread, 4)
        return {"mean": round(statistics.fmean(summaries), 4), "std": std}
    return first if all(summary == first for summary in summaries) else list(summaries)


def summarise_seeds(path: Path, summaries: Sequence[Path], together: bool) -> dict:
    """Writes the `summary.json` of several seeds and returns its content.

    Args:
        path: the file to write.
        summaries: the `summary.json` of each seed.
        together: True if the seeds were trained side by side. Then ``seconds`` is the longest time
            of a seed, otherwise the sum.
    """
    read = [json.loads(summary.read_text()) for summary in summaries]
    combined = combine(read) | {
        "seeds": [summary["seed"] for summary in read],
        "seconds": (max if together else sum)(summary["seconds"] for summary in read),
    }
    del combined["seed"]
    write_json(path, combined)
    return combined
