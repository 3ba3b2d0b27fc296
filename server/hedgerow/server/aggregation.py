"""Sums of replies, folded one by one: memory does not depend on how many clients reply.

All sums are of integers, so they come out bit by bit the same in whatever order the replies arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Bits, Floats, Votes
from hedgerow.errors import FailureKind, PayloadError
from hedgerow.native.library import INTEGER, POINTER, Kernel, status
from hedgerow.server.votes import VoteCounter

__all__ = ["Aggregator", "FloatMean", "HeldMean", "Nested", "SignMean"]

Integers: TypeAlias = npt.NDArray[np.int64]

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

    @property
    def weight(self) -> int:
        """Of all that was folded."""

    def sums(self) -> tuple[Integers, ...]:
        """What is divided by the weight, each (count,) int64; those of several aggregators may be added up."""

    def mean_of(self, sums: Sequence[Integers], weight: Integers) -> Floats:
        """The mean that such sums come to, (n,) float32, and 0 where the weight, (n,) int64, is 0."""


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

    @property
    def weight(self) -> int:
        """See `Aggregator`."""
        return self._weight

    def sums(self) -> tuple[Integers, Integers]:
        """P and S."""
        voted = np.zeros(self._count, dtype=np.int64) if self._spoken is None else self._spoken.sums()
        return self._positive.sums(), voted + self._everybody

    def mean_of(self, sums: Sequence[Integers], weight: Integers) -> Floats:
        """See `Aggregator`."""
        positive, voted = sums
        return ((2 * positive - voted) / np.maximum(voted if self._of_speakers else weight, 1)).astype(np.float32)


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
        return self.mean_of(self.sums(), np.asarray(self._weight))

    @property
    def weight(self) -> int:
        """See `Aggregator`."""
        return self._weight

    def sums(self) -> tuple[Integers, Integers]:
        """The upper and the lower limb."""
        return self._high, self._low

    def mean_of(self, sums: Sequence[Integers], weight: Integers) -> Floats:
        """See `Aggregator`."""
        high, low = sums
        total = high.astype(np.float64) * float(1 << _LIMB) + low
        # Below 2**36, so that a float holds the weight, and its product with a power of 2.
        result: Floats = (total / (_SCALE * np.maximum(weight, 1))).astype(np.float32)
        return result


class Nested:
    """A mean over several levels: of each weight over the clients of those levels that hold it.

    Each level has sums of its own, which are added up as integers in the end, so that the result is the same bit by bit
    in whatever order the replies arrive. Who does not hold a weight is not in what its sum is divided by; who holds it
    and abstains is. With one level it is the mean of that one.

    Args:
        parts: of each level what sums its clients, all of one kind.
        places: of each level its weights among all, (count,) bool; None where it has all.
        count: of weights, in all levels together.
    """

    def __init__(self, parts: Sequence[Aggregator], *, places: Sequence[Bits | None], count: int) -> None:
        self._parts, self._places, self._count = parts, places, count

    def part(self, level: int) -> Aggregator:
        """What sums the clients of one level."""
        return self._parts[level]

    def check(self, values: Any, *, level: int = 0) -> None:
        """Refuses what `add` could not sum exactly; see `Aggregator`."""
        self._parts[level].check(values)

    def add(self, values: Any, *, weight: int, level: int = 0) -> None:
        """Folds the values of one client of that level, in the order of its places."""
        self._parts[level].add(values, weight=weight)

    def mean(self) -> Floats:
        """(count,) float32; 0 where nobody held the weight."""
        if len(self._parts) == 1:
            return self._parts[0].mean()
        heard = [(part, self._among(places)) for part, places in zip(self._parts, self._places, strict=True)]
        weight = np.zeros(self._count, dtype=np.int64)
        sums: list[Integers] = []
        for part, places in heard:
            if not part.weight:
                continue
            weight[places] += part.weight
            own = part.sums()
            sums = sums or [np.zeros(self._count, dtype=np.int64) for _ in own]
            for total, values in zip(sums, own, strict=True):
                total[places] += values
        assert sums, "nothing was folded"
        return self._parts[0].mean_of(sums, weight)

    def held(self) -> Bits:
        """(count,) bool, where there was a client that held the weight."""
        held = np.zeros(self._count, dtype=np.bool_)
        for part, places in zip(self._parts, self._places, strict=True):
            if part.weight:
                held[self._among(places)] = True
        return held

    def _among(self, places: Bits | None) -> Bits | slice:
        return slice(None) if places is None else places


class HeldMean:
    """A mean of each weight over the clients that hold it, where each has a mask of its own.

    Sums are those of `FloatMean`, so the result is the same bit by bit in whatever order the replies arrive. They take
    24 bytes for each weight, kept or not, however many clients there are.

    Args:
        count: of all prunable weights.
    """

    def __init__(self, count: int) -> None:
        self._sum = FloatMean(count)
        self._weights = np.zeros(count, dtype=np.int64)

    def check(self, values: Floats) -> None:
        """Refuses what `add` could not sum exactly; see `Aggregator`."""
        self._sum.check(values)

    def add(self, values: Floats, *, held: Bits, weight: int) -> None:
        """Folds one client's values, (k,) float32, with its number of samples as weight.

        Args:
            values: of the weights that it holds.
            held: (count,) bool, which these are; k of them.
            weight: its number of samples.
        """
        whole = np.zeros(held.size, dtype=np.float32)
        whole[held] = values
        # Who does not hold a weight adds 0 to its sum, and nothing to what that is divided by.
        self._sum.add(whole, weight=weight)
        self._weights[held] += weight

    def mean(self) -> Floats:
        """(count,) float32; 0 where nobody held the weight."""
        return self._sum.mean_of(self._sum.sums(), self._weights)

    def held(self) -> Bits:
        """(count,) bool, where there was a client that held the weight."""
        return self._weights > 0


def _add_native(values: Floats, weight: int, high: npt.NDArray[np.int64], low: npt.NDArray[np.int64]) -> None:
    _add_fixed(values.ctypes.data, weight, high.ctypes.data, low.ctypes.data, values.size)


def _add_numpy(values: Floats, weight: int, high: npt.NDArray[np.int64], low: npt.NDArray[np.int64]) -> None:
    fixed = np.rint(values.astype(np.float64) * _SCALE).astype(np.int64)
    high += (fixed >> _LIMB) * weight
    low += (fixed & ((1 << _LIMB) - 1)) * weight
