"""Frequencies of a range coder that both ends derive from shares of ones, in whole numbers only."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from hedgerow.codec.rans import PRECISION, Frequencies

__all__ = ["SHARES", "byte_cost", "byte_frequencies", "gap_frequencies", "low_bits", "share_of"]

_UNIT = 14
SHARES = 1 << _UNIT
"""A share of ones is a whole number of parts of 1 / SHARES."""

_FEW = 1 << 20
_MOST = 255


def share_of(ones: int, count: int) -> int:
    """The share of ones as a whole number of 2**-14, as near as it can be said, and neither 0 nor 1.

    >>> share_of(1, 4)
    4096
    """
    return min(max((ones * SHARES + count // 2) // max(count, 1), 1), SHARES - 1)


def byte_frequencies(*shares: int) -> Frequencies:
    """Frequencies of bytes whose eight bits are 1 independently of each other: (n, 256) uint32, a row a share.

    With the share p / 2**14, a byte with j ones has the frequency

        max(1, (p**j · (2**14 - p)**(8 - j) + 2**96) div 2**97)

    and what is missing to the sum of 2**15, or is too much, is added to the byte 0 if p <= 2**13, else to the byte 255.
    The products take up to 112 bits. If p = 0, byte 0 has all, and no other byte can occur.

    Args:
        shares: each from 0 to SHARES - 1.

    >>> byte_frequencies(2**13)[0, :3].tolist()
    [128, 128, 128]
    """
    table = np.zeros((len(shares), 256), dtype=np.uint32)
    number = np.bitwise_count(np.arange(256, dtype=np.uint8))
    shift = 8 * _UNIT - PRECISION
    for row, p in zip(table, shares, strict=True):
        assert 0 <= p < SHARES, p
        if p:
            products = [p**j * (SHARES - p) ** (8 - j) for j in range(9)]
            row[:] = np.array([max(1, w + (1 << shift - 1) >> shift) for w in products], dtype=np.uint32)[number]
        commonest = 0 if 2 * p <= SHARES else 255
        row[commonest] = (1 << PRECISION) - (int(row.sum()) - int(row[commonest]))
    return table


def byte_cost(ones: int, count: int, share: int) -> float:
    """Bytes of `count` independent bits, each 1 with the chance ones / count, when they are coded with this share."""
    if ones == 0 and share == 0:
        return 0.0
    frequencies = byte_frequencies(share)[0]
    p = ones / max(count, 1)
    cost = 0.0
    for j in range(9):
        chance = math.comb(8, j) * p**j * (1 - p) ** (8 - j)
        cost += chance * (PRECISION - math.log2(frequencies[(1 << j) - 1]))
    return cost * count / 64


def low_bits(ones: int, count: int) -> int:
    """How many low bits of a gap are as good as random, so that they are sent as they are.

    The largest k with 2**k · 16 · ones <= count, or 0 if there is none.

    >>> [low_bits(ones, 1600) for ones in (100, 51, 50, 1)]
    [0, 0, 1, 6]
    """
    return max((count // (16 * ones)).bit_length() - 1, 0)


def gap_frequencies(ones: int, count: int) -> Frequencies:
    """Frequencies of the gaps' high parts, when `ones` of `count` independent bits are 1: (n,) uint32.

    With k = `low_bits`, let r = (2**32 · (count - ones)) div count, then k times r = r² div 2**32: the chance that a
    high part goes on. S[0] = 2**32 and S[h + 1] = S[h] · r div 2**32 are the chances to come to h; all of it fits into
    64 bits. The last symbol e, which stands for all high parts from e on, is the first one with S[e] < 2**20, but at
    most 255. Frequencies are

        max(1, (S[h] - S[h + 1]) div 2**17) for h < e,  max(1, S[e] div 2**17) for e

    and what is missing to the sum of 2**15, or is too much, is added to symbol 0.

    Args:
        ones: from 1 to `count`.
        count: below 2**32.

    >>> gap_frequencies(1, 2)[:4].tolist()
    [16384, 8192, 4096, 2048]
    """
    r = ((count - ones) << 32) // count
    for _ in range(low_bits(ones, count)):
        r = r * r >> 32
    chances = [1 << 32]
    while chances[-1] >= _FEW and len(chances) <= _MOST:
        chances.append(chances[-1] * r >> 32)
    shift = 32 - PRECISION
    row = [max(1, here - following >> shift) for here, following in pairwise(chances)]
    row.append(max(1, chances[-1] >> shift))
    row[0] += (1 << PRECISION) - sum(row)
    return np.array(row, dtype=np.uint32)
