"""Data: where images come from, which of them are used, and how they reach the model."""

from datasets.load import load_data
from datasets.long_tail import long_tail_counts, long_tail_indices
from datasets.samplers import ClassAwareSampler
from datasets.splits import BalancedData, LongTailedData, Split
from datasets.subset import make_long_tailed

__all__ = [
    "BalancedData",
    "ClassAwareSampler",
    "LongTailedData",
    "Split",
    "load_data",
    "long_tail_counts",
    "long_tail_indices",
    "make_long_tailed",
]
