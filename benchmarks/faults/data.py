"""The embedded digits with a test part that takes a second to go through, so that a kill can hit the evaluation."""

from __future__ import annotations

import dataclasses

import numpy as np

from hedgerow.data import Dataset, Samples
from hedgerow.data.digits import load_digits

__all__ = ["slow_to_evaluate"]

_TIMES = 40


def slow_to_evaluate() -> Dataset:
    """The digits; 14,360 test samples, each of the 359 forty times."""
    digits = load_digits()
    test = Samples(np.tile(digits.test.images, (_TIMES, 1, 1, 1)), np.tile(digits.test.labels, _TIMES))
    return dataclasses.replace(digits, test=test)
