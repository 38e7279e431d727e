"""Several seeds of one command: trained side by side, and what they have in common."""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.evaluation.statistics import deviation
from utils.files import write_json


def side_by_side(runs: Sequence[Iterator[None]], device: torch.device) -> None:
    """Takes a step of each run in turn, on a CUDA stream for each.

    The steps of one run are too small to fill a GPU, so those of the others fill the gaps, and each
    run computes exactly what it would alone.
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
    """Records of one form as one record.

    A measured number (a float) becomes ``{"mean": m, "std": s}``, s the sample deviation, None for
    one seed; what is equal in all (texts, class counts) stays, other whole numbers (selected
    epochs) become a list; what is unknown in any (None) is None; a key that any lacks is left out.

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
    """Writes and gives the `summary.json` of several seeds, from theirs; its seconds are the sum of
    theirs, or the most where they were trained `together`, each beside the others."""
    read = [json.loads(summary.read_text()) for summary in summaries]
    combined = combine(read) | {
        "seeds": [summary["seed"] for summary in read],
        "seconds": (max if together else sum)(summary["seconds"] for summary in read),
    }
    del combined["seed"]
    write_json(path, combined)
    return combined
