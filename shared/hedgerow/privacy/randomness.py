"""Where the noise of privacy comes from.

What protects a device is that nobody else can foresee its noise. In production that is the operating system's
randomness, `system_words`. A seed makes a simulation repeatable, and protects nothing: whoever knows the seed, as the
coordinator does, subtracts the noise. NumPy's generators are not cryptographic, however they are seeded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Draw", "Words", "in_chunks", "normals", "seeded_words", "system_words"]

Words: TypeAlias = npt.NDArray[np.uint32]
"""Independent and uniform over all 32-bit words."""
Draw: TypeAlias = Callable[[int], Words]
"""Draws so many words."""

_CHUNK = 1 << 20
_TO_UNIT = 2.0**-53


def system_words(count: int) -> Words:
    """So many words, (count,) uint32, from the operating system's cryptographic generator."""
    return _from_bytes(os.urandom(4 * count))


def seeded_words(generator: np.random.Generator) -> Draw:
    """Words that a seed decides, the same on each platform: for simulations only, see the module.

    >>> draw = seeded_words(np.random.Generator(np.random.PCG64(0)))
    >>> draw(2).tolist()
    [3653403231, 2735729615]
    """

    def draw(count: int) -> Words:
        return _from_bytes(generator.bytes(4 * count))

    return draw


def normals(draw: Draw, count: int) -> npt.NDArray[np.float64]:
    """Standard normal values, (count,) float64, by the transform of Box and Muller (1958), two words a value.

    The largest is √(2·53·ln 2) = 8.57 in size. The same words give the same values up to the last bit of a platform's
    sine and logarithm. They are floating-point numbers: see `hedgerow.privacy.gaussian` for what
    that means.
    """
    pairs = (count + 1) // 2
    words = draw(4 * pairs).astype(np.uint64)
    # (0, 1], so that the logarithm is finite.
    radius = np.sqrt(-2 * np.log((_high_bits(words[0::4], words[1::4]) + 1) * _TO_UNIT))
    angle = _high_bits(words[2::4], words[3::4]) * (2 * math.pi * _TO_UNIT)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def in_chunks(count: int) -> Iterator[slice]:
    """Slices of 0 … count, so that noise needs little memory beside the values it is for."""
    return (slice(begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK))


def _from_bytes(data: bytes) -> Words:
    return np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False)


def _high_bits(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """53 uniform bits as a whole number."""
    return ((high << np.uint64(21)) | (low >> np.uint64(11))).astype(np.float64)
