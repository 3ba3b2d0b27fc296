"""The digits of scikit-learn: 1,797 grey images of 8x8, in the wheel, so that everything runs without a download."""

from __future__ import annotations

import numpy as np

from hedgerow.data.arrays import split_arrays
from hedgerow.data.dataset import Dataset

__all__ = ["load_digits"]


def load_digits() -> Dataset:
    """Load the digits: (1, 8, 8) uint8, 10 classes, a fifth of each class for testing, always the same.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).

    >>> data = load_digits()
    >>> data.input_shape, len(data.train), len(data.test)
    ((1, 8, 8), 1438, 359)
    """
    from sklearn.datasets import load_digits as load_bundled  # slow to import, and only needed here

    bundled = load_bundled()
    # The 17 grey levels 0 to 16 become bytes as all other images are: 16 becomes 255.
    pixels = np.rint(bundled.images * 255 / 16).astype(np.uint8)
    return split_arrays("digits", images=pixels, labels=bundled.target)
