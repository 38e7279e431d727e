"""The public name of `utils.evaluation.metrics`, which other people's scripts import."""

from utils.evaluation.metrics import nearest_centroid_accuracy, shot_accuracy

__all__ = ["nearest_centroid_accuracy", "shot_accuracy"]
