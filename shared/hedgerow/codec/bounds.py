"""Shannon's bounds for readers: how few bytes could have said it, with the statistics that its codec uses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hedgerow.codec.coded import Coded
from hedgerow.codec.entropy import binary_entropy_bytes, symbol_entropy_bytes
from hedgerow.codec.integers import encode_integers
from hedgerow.codec.levels import Context, contexts_used
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Levels
from hedgerow.codec.uniform import update_integers
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["bits_entropy", "levels_entropy", "values_entropy"]


def bits_entropy(bits: PackedBits, groups: Sequence[int]) -> float:
    """Bytes of independent bits, each group of them with its own share of ones."""
    flat, ends = bits.to_bools(), np.cumsum([0, *groups])
    ones = [int(np.count_nonzero(flat[a:b])) for a, b in pairwise(ends)]
    return sum(binary_entropy_bytes(one, count) for one, count in zip(ones, groups, strict=True))


def levels_entropy(coded: Coded, symbols: Levels, contexts: Sequence[Context]) -> float:
    """Bytes of independent symbols, given those contexts that `coded` uses; `symbols` were read from it."""
    values = contexts_used(coded, contexts) if coded.codec == pb.CODEC_SYMBOLS_RANS else None
    if values is None:
        return symbol_entropy_bytes(symbols)
    return sum(symbol_entropy_bytes(symbols[values == value]) for value in np.flatnonzero(np.bincount(values)))


def values_entropy(coded: Coded, count: int, *, groups: Sequence[int]) -> float:
    """Bytes of quantised changes given their steps; of other values what is sent: their bits have no useful bound."""
    if coded.codec != pb.CODEC_UNIFORM:
        return float(len(coded.data))
    integers = update_integers(coded, count, groups=groups)
    if not integers.size:
        return 0.0
    return encode_integers(integers, scales=np.zeros(integers.size, dtype=np.int32))[1]
