"""Means and variances of the channels that go into a network's batch norms, and how those of parts make the whole's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Doubles", "Moments", "merged", "pooled"]

Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)  # eq=False: arrays have no single truth value
class Moments:
    """Moments of some samples. Each sample gives a channel as many values as any other does.

    Attributes:
        mean: (channels,) float64.
        variance: (channels,) float64, at least 0; biased: divided by the number of values, as a norm divides a batch.
        count: how many samples, at least 1.
    """

    mean: Doubles
    variance: Doubles
    count: int

    def __post_init__(self) -> None:
        assert self.mean.shape == self.variance.shape
        assert self.count >= 1


def merged(one: Moments, other: Moments) -> Moments:
    """Moments of two parts together.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979,
    equation 2.1. The difference of the means is taken before it is squared, so large means cost no digits.

    >>> both = merged(Moments(np.zeros(1), np.zeros(1), 1), Moments(np.ones(1), np.zeros(1), 3))
    >>> both.mean.item(), both.variance.item(), both.count
    (0.75, 0.1875, 4)
    """
    count = one.count + other.count
    share = other.count / count
    apart = other.mean - one.mean
    within = (1 - share) * one.variance + share * other.variance
    return Moments(one.mean + share * apart, within + share * (1 - share) * apart**2, count)


def pooled(moments: Sequence[Moments]) -> Moments:
    """Moments of the union of all parts' samples, to the rounding of float64.

    mean = Σ nᵢ·mᵢ / Σ nᵢ and variance = Σ nᵢ·(vᵢ + (mᵢ - mean)²) / Σ nᵢ: what varies within the parts and between.

    Args:
        moments: at least one, of the same channels. They are sorted by their numbers before anything is added, so their
            order does not change a bit of the result.

    >>> both = pooled([Moments(np.zeros(1), np.zeros(1), 1), Moments(np.ones(1), np.zeros(1), 3)])
    >>> both.mean.item(), both.variance.item(), both.count
    (0.75, 0.1875, 4)
    """
    assert moments, "nothing to pool"
    ordered = sorted(moments, key=lambda m: (m.count, m.mean.tobytes(), m.variance.tobytes()))
    total = sum(m.count for m in ordered)
    # A running sum, in this order: a sum over a stacked array may be grouped otherwise on another machine. Offsets from
    # the first keep their digits where means are large and close together.
    offset = np.zeros_like(ordered[0].mean)
    for m in ordered:
        offset += m.count / total * (m.mean - ordered[0].mean)
    mean = ordered[0].mean + offset
    variance = np.zeros_like(mean)
    for m in ordered:
        variance += m.count / total * (m.variance + (m.mean - mean) ** 2)
    return Moments(mean, variance, total)
