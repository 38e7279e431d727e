"""scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998). They need no download,
so the program can be tried and tested with them."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from datasets.splits import BalancedData, Split

TEST_IMAGES_PER_CLASS = 60
SIDE = 32


def load_digits() -> BalancedData:
    """Returns the digits, uint8 ``[N, 3, 32, 32]``: the 8×8 grey images enlarged (bilinear), with
    grey repeated in three channels. The test split is fixed and has 60 images per class."""
    from sklearn import datasets as sklearn_datasets  # a second to import, so only where needed

    digits: Any = sklearn_datasets.load_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    everything = Split(images, torch.from_numpy(digits.target.astype(np.int64)))
    shuffled = np.random.RandomState(0).permutation(len(everything))
    labels = everything.labels.numpy()[shuffled]
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[:TEST_IMAGES_PER_CLASS]] = True
    return BalancedData(
        train=everything.subset(shuffled[~is_test]),
        test=everything.subset(shuffled[is_test]),
        class_names=[str(digit) for digit in range(10)],
    )
