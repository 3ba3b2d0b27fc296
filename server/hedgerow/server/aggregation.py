"""Sums of replies, folded one by one: memory does not depend on how many clients reply.

All sums are of integers, so they come out bit by bit the same in whatever order the replies arrive.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Floats
from hedgerow.errors import FailureKind, PayloadError

__all__ = ["Aggregator", "FloatMean", "SignMean"]

_SCALE = 2.0**32
_LIMB = 26
_BOUND = 2.0**20


class Aggregator(Protocol):
    """A weighted mean that takes one reply at a time."""

    def check(self, values: npt.NDArray[Any]) -> None:
        """Refuses what `add` could not sum exactly.

        Raises:
            PayloadError: a value is too large or not finite.
        """

    def add(self, values: npt.NDArray[Any], *, weight: int) -> None:
        """Folds one client's values."""

    def mean(self) -> Floats:
        """The weighted mean of what was folded; there must be something."""


class SignMean:
    """Mean vote θ = Σ wᵢ·signᵢ / Σ wᵢ for each kept weight, in [-1, 1]."""

    def __init__(self, count: int) -> None:
        self._positive = np.zeros(count, dtype=np.int64)
        self._weight = 0

    def check(self, values: npt.NDArray[Any]) -> None:
        """Every vote can be summed."""

    def add(self, values: npt.NDArray[Any], *, weight: int) -> None:
        """Folds one client's votes, (count,) True = positive, with its number of samples as weight."""
        self._positive += np.multiply(values, weight, dtype=np.int64)
        self._weight += weight

    def mean(self) -> Floats:
        """θ, (count,) float32."""
        assert self._weight > 0, "nothing was folded"
        theta: Floats = ((2 * self._positive - self._weight) / self._weight).astype(np.float32)
        return theta


class FloatMean:
    """Mean Σ wᵢ·vᵢ / Σ wᵢ for each value, summed in fixed point of 2⁻³², in two limbs of 26 bits and the rest.

    Values up to 2²⁰ and weights that sum to less than 2³⁶ cannot overflow the 64 bits of a limb.
    """

    def __init__(self, count: int) -> None:
        self._high = np.zeros(count, dtype=np.int64)
        self._low = np.zeros(count, dtype=np.int64)
        self._weight = 0

    def check(self, values: npt.NDArray[Any]) -> None:
        """Refuses values of 2²⁰ and more in size, and NaN."""
        largest = float(np.abs(values).max()) if values.size else 0.0
        if not largest < _BOUND:
            kind: FailureKind = "bounds" if math.isfinite(largest) else "not_finite"
            raise PayloadError(f"a value of size {largest:.3g}; below {_BOUND:.0f} is allowed", kind=kind)

    def add(self, values: npt.NDArray[Any], *, weight: int) -> None:
        """Folds one client's values, (count,) float32, with its number of samples as weight."""
        fixed = np.rint(values.astype(np.float64) * _SCALE).astype(np.int64)
        self._high += (fixed >> _LIMB) * weight
        self._low += (fixed & ((1 << _LIMB) - 1)) * weight
        self._weight += weight

    def mean(self) -> Floats:
        """(count,) float32."""
        assert self._weight > 0, "nothing was folded"
        total = self._high.astype(np.float64) * float(1 << _LIMB) + self._low
        result: Floats = (total / (_SCALE * self._weight)).astype(np.float32)
        return result
