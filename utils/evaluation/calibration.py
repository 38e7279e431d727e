"""Calibration: how far confidences are from accuracies. This module does not import torch."""

import numpy as np

BINS = 15
"""Number of bins of confidences, all of the same width."""


def reliability_bins(
    confs: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each bin of confidences the share of images in it, their mean confidence and
    their accuracy, each ``[BINS]`` in [0, 1]. For an empty bin the last two are NaN.

    A bin includes its upper bound but not its lower one: (0, 1/15], (1/15, 2/15], ... The first
    bin also includes 0.

    Args:
        confs: confidences ``[N]`` in [0, 1].
        correct: True for each image whose prediction is right, bool ``[N]``.
    """
    confs = np.asarray(confs, dtype=np.float64)
    index = np.clip(np.ceil(confs * BINS).astype(int), 1, BINS) - 1
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, confs, minlength=BINS) / counts
        accuracy = np.bincount(index, correct, minlength=BINS) / counts
    return counts / len(confs), confidence, accuracy


def expected_calibration_error(confs: np.ndarray, correct: np.ndarray) -> float:
    """Returns the expected calibration error, Σ_b n_b/N · |accuracy_b − confidence_b|, in [0, 1].

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Args:
        confs, correct: as for `reliability_bins`.
    """
    shares, confidence, accuracy = reliability_bins(confs, correct)
    filled = shares > 0
    return float((shares * np.abs(accuracy - confidence))[filled].sum())
