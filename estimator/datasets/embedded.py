"""The digits of scikit-learn, which need no files."""

from __future__ import annotations

import torch

from estimator.datasets.splits import Splits, dealt
from estimator.handlers.base import require


def digits(*, seed: int = 0) -> Splits:
    """1,797 grey digits of 8x8 pixels (Alpaydin, Kaynak, 1998), which scikit-learn brings along.

    Args:
        seed: Of the split: 70 % train, 15 % validate and 15 % test.

    Returns:
        Pairs of images (N, 1, 8, 8) uint8 from 0 to 255 and labels (N,) int64.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> data = digits()
        >>> data.train[0].shape, len(data.val[1]), len(data.test[1])
        (torch.Size([1257, 1, 8, 8]), 270, 270)
    """
    sklearn = require("sklearn.datasets", "datasets", "digits()")
    bunch = sklearn.load_digits()
    # Sixteen levels of grey.
    images = (torch.from_numpy(bunch.images) * 255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    train, val, test = (
        (images[rows], labels[rows]) for rows in dealt(len(labels), (0.15, 0.15), seed)
    )
    return Splits(train, val, test, tuple(str(name) for name in bunch.target_names))
