"""How far confidences are from accuracies. Imports no torch."""

import numpy as np

BINS = 15


def reliability_bins(
    confs: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of images, mean confidence and accuracy of each bin ``[bins]``, the last two NaN for an
    empty bin, of confidences ``[N]`` in [0, 1] and what is right ``[N]``. Bins are open below and
    closed above: (0, 1/15], (1/15, 2/15], ..."""
    confs = np.asarray(confs, dtype=np.float64)
    index = np.clip(np.ceil(confs * bins).astype(int), 1, bins) - 1
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, confs, minlength=bins) / counts
        accuracy = np.bincount(index, correct, minlength=bins) / counts
    return counts / len(confs), confidence, accuracy


def expected_calibration_error(confs: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Σ_b n_b/N · |accuracy_b − confidence_b| in [0, 1], of confidences ``[N]`` and what is right
    ``[N]`` (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3)."""
    shares, confidence, accuracy = reliability_bins(confs, correct, bins)
    filled = shares > 0
    return float((shares * np.abs(accuracy - confidence))[filled].sum())
