"""How far confidences are from accuracies. Imports no torch."""

import numpy as np

BINS = 15


def reliability_bins(
    confs: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each bin of confidences the share of images, the mean confidence and the
    accuracy, each ``[bins]``; the last two are NaN for an empty bin.

    Bins are open below and closed above: (0, 1/15], (1/15, 2/15], ...

    Args:
        confs: confidences ``[N]`` in [0, 1].
        correct: whether the prediction is right, bool ``[N]``.
        bins: how many.
    """
    confs = np.asarray(confs, dtype=np.float64)
    index = np.clip(np.ceil(confs * bins).astype(int), 1, bins) - 1
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, confs, minlength=bins) / counts
        accuracy = np.bincount(index, correct, minlength=bins) / counts
    return counts / len(confs), confidence, accuracy


def expected_calibration_error(confs: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Returns Σ_b n_b/N · |accuracy_b − confidence_b|, in [0, 1] (Guo et al., "On Calibration of
    Modern Neural Networks", ICML 2017, equation 3). The arguments are those of
    `reliability_bins`."""
    shares, confidence, accuracy = reliability_bins(confs, correct, bins)
    filled = shares > 0
    return float((shares * np.abs(accuracy - confidence))[filled].sum())
