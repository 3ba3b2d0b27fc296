"""Shannon's bound for what is sent, in bytes: the yardstick beside every size that hedgerow reports."""

from __future__ import annotations

import math

import numpy as np

from hedgerow.codec.symbols import Levels

__all__ = ["binary_entropy_bytes", "symbol_entropy_bytes"]


def binary_entropy_bytes(ones: int, count: int) -> float:
    """Bytes that `count` independent bits need when `ones` of them are one: count · H(ones / count) / 8.

    >>> binary_entropy_bytes(4, 8)
    1.0
    >>> binary_entropy_bytes(0, 8)
    0.0
    """
    if ones in (0, count):
        return 0.0
    p = ones / count
    return -count * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8


def symbol_entropy_bytes(symbols: Levels) -> float:
    """Bytes that independent symbols of this histogram need (order-0 entropy).

    >>> symbol_entropy_bytes(np.array([0, 1, 2, 3], dtype=np.uint8))
    1.0
    """
    if symbols.size == 0:
        return 0.0
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / symbols.size
    return float(-(shares * np.log2(shares)).sum() * symbols.size / 8)
