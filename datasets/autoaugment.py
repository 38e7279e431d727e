"""The public name of `datasets.loading.autoaugment`, which other people's scripts import."""

from datasets.loading.autoaugment import apply_operation

__all__ = ["apply_operation"]
