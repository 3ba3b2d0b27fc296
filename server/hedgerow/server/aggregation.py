"""Sums of replies, folded one by one: memory does not depend on how many clients reply.

All sums are of integers, so they come out bit by bit the same in whatever order the replies arrive.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Floats, Votes
from hedgerow.errors import FailureKind, PayloadError
from hedgerow.native.library import INTEGER, POINTER, Kernel, status
from hedgerow.server.votes import VoteCounter

__all__ = ["Aggregator", "FloatMean", "SignMean"]

_SCALE = 2.0**32
_LIMB = 26
_BOUND = 2.0**20


class Aggregator(Protocol):
    """A weighted mean that takes one reply at a time: votes or values, as the aggregator wants them."""

    def check(self, values: Any) -> None:
        """Refuses what `add` could not sum exactly.

        Raises:
            PayloadError: a value is too large or not finite, or a vote is none.
        """

    def add(self, values: Any, *, weight: int) -> None:
        """Folds one client's values."""

    def mean(self) -> Floats:
        """The weighted mean of what was folded; there must be something."""


class SignMean:
    """Mean vote θ = (Σ wᵢ·upᵢ − Σ wᵢ·downᵢ) / Σ wᵢ for each kept weight, in [-1, 1].

    With P the weights of those who voted up and S of those who voted at all it is (2·P − S) / Σ wᵢ, so who abstains
    counts in the last sum only; or, `of_speakers`, (2·P − S) / S, and 0 where nobody voted. P and S are counted by
    `VoteCounter`.
    """

    def __init__(self, count: int, *, of_speakers: bool = False) -> None:
        self._count, self._of_speakers = count, of_speakers
        self._positive = VoteCounter(count)
        self._spoken: VoteCounter | None = None
        self._everybody = 0
        self._weight = 0

    def check(self, values: Votes) -> None:
        """Refuses a vote that is up and none."""
        if values.spoken is not None and (values.positive & ~values.spoken).any():
            raise PayloadError("a vote is up where its client abstains", kind="bounds")

    def add(self, values: Votes, *, weight: int) -> None:
        """Folds one client's votes with its number of samples as weight.

        It may hold the votes, and not a copy of them, until some more are there.
        """
        assert values.count == self._count, f"{values.count} votes for {self._count} weights"
        self._positive.add(values.positive, weight=weight)
        if values.spoken is None:
            self._everybody += weight
        else:
            self._spoken = self._spoken or VoteCounter(self._count)
            self._spoken.add(values.spoken, weight=weight)
        self._weight += weight

    def mean(self) -> Floats:
        """θ, (count,) float32."""
        assert self._weight > 0, "nothing was folded"
        theta = np.empty(self._count, dtype=np.float32)
        spoken = None if self._spoken is None else self._spoken.parts()
        for first, positive in self._positive.parts():
            voted = self._everybody if spoken is None else next(spoken)[1] + self._everybody
            # Both integers are below 2**53, so that only the division rounds, and then float32.
            weight = np.maximum(voted, 1) if self._of_speakers else self._weight
            theta[first : first + positive.size] = (2 * positive - voted) / weight
        return theta


_add_fixed = Kernel("add_fixed", POINTER, INTEGER, *[POINTER] * 2, INTEGER)


class FloatMean:
    """Mean Σ wᵢ·vᵢ / Σ wᵢ for each value, summed in fixed point of 2⁻³², in two limbs of 26 bits and the rest.

    Values up to 2²⁰ and weights that sum to less than 2³⁶ cannot overflow the 64 bits of a limb.
    """

    def __init__(self, count: int) -> None:
        self._high = np.zeros(count, dtype=np.int64)
        self._low = np.zeros(count, dtype=np.int64)
        self._weight = 0

    def check(self, values: Floats) -> None:
        """Refuses values of 2²⁰ and more in size, and NaN."""
        largest = float(np.abs(values).max()) if values.size else 0.0
        if not largest < _BOUND:
            kind: FailureKind = "bounds" if math.isfinite(largest) else "not_finite"
            raise PayloadError(f"a value of size {largest:.3g}; below {_BOUND:.0f} is allowed", kind=kind)

    def add(self, values: Floats, *, weight: int) -> None:
        """Folds one client's values, (count,) float32, with its number of samples as weight."""
        assert values.shape == self._high.shape, f"{values.shape} values for {self._high.shape}"
        add = _add_native if status().available else _add_numpy
        add(np.ascontiguousarray(values, dtype=np.float32), weight, self._high, self._low)
        self._weight += weight

    def mean(self) -> Floats:
        """(count,) float32."""
        assert self._weight > 0, "nothing was folded"
        total = self._high.astype(np.float64) * float(1 << _LIMB) + self._low
        result: Floats = (total / (_SCALE * self._weight)).astype(np.float32)
        return result


def _add_native(values: Floats, weight: int, high: npt.NDArray[np.int64], low: npt.NDArray[np.int64]) -> None:
    _add_fixed(values.ctypes.data, weight, high.ctypes.data, low.ctypes.data, values.size)


def _add_numpy(values: Floats, weight: int, high: npt.NDArray[np.int64], low: npt.NDArray[np.int64]) -> None:
    fixed = np.rint(values.astype(np.float64) * _SCALE).astype(np.int64)
    high += (fixed >> _LIMB) * weight
    low += (fixed & ((1 << _LIMB) - 1)) * weight
