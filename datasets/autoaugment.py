"""The public name of `datasets.loading.operations`, which other people's scripts import."""

from datasets.loading.operations import apply_operation

__all__ = ["apply_operation"]
