"""Symbols of a small alphabet, with a frequency table for each context (CODEC_SYMBOLS_RANS).

A context is a small integer beside each symbol that both ends know: the layer, an old level. The parameter is 0. The
data is, for more than 0 symbols:

- the number of bytes of the tables, LEB128;
- the tables, of the coder in `hedgerow.codec.adaptive`: which candidate of contexts is used, a `uniform` number below
  the number of candidates; unless that is the first, whether predictions are shifted, a `uniform` number below 2; the
  tables themselves, see `code_rows` in `hedgerow.codec.tables`;
- the symbols, of the coder in `hedgerow.codec.rans`, with these tables; nothing if in each context that occurs a single
  symbol has all of the frequency.

The candidates are: no contexts; each of the given ones; the pairs (i, j), i < j, ordered by i, then j, whose context is
i's value · size of j + j's value, unless the product of the sizes is above 255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hedgerow.codec import rans
from hedgerow.codec.adaptive import Reader, Writer, divided, prefixed
from hedgerow.codec.coded import Coded
from hedgerow.codec.symbols import Levels
from hedgerow.codec.tables import Counts, code_rows
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Context", "contexts_used", "decode_levels", "encode_levels"]

_MOST_CONTEXTS = 255
_LEAST_ROW_BITS = 2
"""Less is never paid for a context, as a rule of thumb."""
_WORTH = 1 - 1 / 128
"""Contexts that save less than this are not used: they make reading slower."""


@dataclass(frozen=True, slots=True)
class Context:
    """What both ends know about each symbol.

    Attributes:
        values: (n,) uint8, below `size`.
        size: how many values there can be, 1 to 255.
    """

    values: Levels
    size: int

    def __post_init__(self) -> None:
        assert 1 <= self.size <= _MOST_CONTEXTS
        assert self.values.size == 0 or int(self.values.max()) < self.size


@dataclass(frozen=True, slots=True)
class _Plan:
    head: bytes
    frequencies: rans.Frequencies
    contexts: Levels | None
    cost: float
    entropy: float


def encode_levels(symbols: Levels, *, alphabet: int, contexts: Sequence[Context] = ()) -> Coded:
    """The bytes of these symbols, with the contexts that make them few.

    Contexts have to save one part in 128 against the candidates before.

    Args:
        symbols: (n,) uint8 below `alphabet`.
        alphabet: 1 to 256.
        contexts: each (n,); coarse ones before fine ones.

    >>> encode_levels(np.zeros(1000, dtype=np.uint8), alphabet=3).data.hex()
    '0140'
    """
    assert 1 <= alphabet <= 256
    assert symbols.size == 0 or int(symbols.max()) < alphabet
    assert all(c.values.shape == symbols.shape for c in contexts)
    if symbols.size == 0:
        return Coded(pb.CODEC_SYMBOLS_RANS, b"")
    candidates = _candidates(contexts)
    best: _Plan | None = None
    for choice, candidate in enumerate(candidates):
        counts = _counts(symbols, candidate, alphabet=alphabet)
        entropy = _entropy(counts)
        limit = math.inf if best is None else best.cost * _WORTH
        if entropy + np.count_nonzero(counts.any(axis=1)) * _LEAST_ROW_BITS / 8 >= limit:
            continue
        for shift in (False, True) if candidate else (False,):
            writer = Writer()
            writer.uniform(len(candidates), choice)
            if candidate:
                writer.uniform(2, int(shift))
            frequencies = code_rows(writer, counts, counts.sum(axis=1).tolist(), shift=shift)
            head = writer.finish()
            cost = len(head) + _cost(counts, frequencies)
            if cost < limit:
                best = _Plan(head, frequencies, _values(candidate), cost, entropy)
                limit = cost
    assert best is not None
    body = b"" if _is_known(best.frequencies) else rans.encode(symbols, best.frequencies, best.contexts)
    return Coded(pb.CODEC_SYMBOLS_RANS, prefixed(best.head) + body, entropy=best.entropy)


def decode_levels(coded: Coded, count: int, *, alphabet: int, contexts: Sequence[Context] = ()) -> Levels:
    """Inverse of `encode_levels` for `count` symbols, (count,) uint8; other arguments as there.

    Raises:
        PayloadError: no such symbols have these bytes.
    """
    assert all(c.values.size == count for c in contexts)
    if coded.codec != pb.CODEC_SYMBOLS_RANS:
        raise PayloadError(f"codec {coded.codec} is none of levels", kind="mismatch")
    if coded.parameter:
        raise PayloadError(f"levels with the parameter {coded.parameter}, which they do not have")
    if count == 0:
        if coded.data:
            raise PayloadError(f"{len(coded.data)} bytes for no symbols")
        return np.zeros(0, dtype=np.uint8)
    head, body = divided(coded.data)
    reader = Reader(head)
    candidates = _candidates(contexts)
    candidate = candidates[reader.uniform(len(candidates))]
    shift = bool(candidate and reader.uniform(2))
    values = _values(candidate)
    size = _size(candidate)
    samples = [count] if values is None else np.bincount(values, minlength=size).tolist()
    frequencies = code_rows(reader, np.zeros((size, alphabet), dtype=np.int64), samples, shift=shift)
    reader.finish()
    if not _is_known(frequencies):
        return rans.decode(body, count, frequencies, values)
    if body:
        raise PayloadError(f"{len(body)} bytes of symbols that the tables say already")
    only = frequencies.argmax(axis=1).astype(np.uint8)
    return np.full(count, only[0]) if values is None else only[values]


def contexts_used(coded: Coded, contexts: Sequence[Context]) -> Levels | None:
    """The context of each symbol that `coded` uses of those that it could; None where it uses none.

    Raises:
        PayloadError: the bytes do not say.
    """
    if not coded.data:
        return None
    candidates = _candidates(contexts)
    return _values(candidates[Reader(divided(coded.data)[0]).uniform(len(candidates))])


def _candidates(contexts: Sequence[Context]) -> list[tuple[Context, ...]]:
    pairs = [(a, b) for a, b in combinations(contexts, 2) if a.size * b.size <= _MOST_CONTEXTS]
    return [(), *((c,) for c in contexts), *pairs]


def _size(candidate: tuple[Context, ...]) -> int:
    return math.prod(c.size for c in candidate)


def _values(candidate: tuple[Context, ...]) -> Levels | None:
    if not candidate:
        return None
    values: Levels = candidate[0].values
    for context in candidate[1:]:
        # Sizes multiply to 255 at most, so that nothing overflows.
        values = values * np.uint8(context.size) + context.values
    return values


def _counts(symbols: Levels, candidate: tuple[Context, ...], *, alphabet: int) -> Counts:
    """(contexts, alphabet): how often each symbol occurs in each context."""
    values, size = _values(candidate), _size(candidate)
    joint = symbols if values is None else values * np.uint16(alphabet) + symbols
    return np.bincount(joint, minlength=size * alphabet).reshape(size, alphabet)


def _is_known(frequencies: rans.Frequencies) -> bool:
    """Whether a context alone says which symbol it is; so it is for contexts that do not occur."""
    return bool((frequencies == 1 << rans.PRECISION).any(axis=1).all())


def _entropy(counts: Counts) -> float:
    """Bytes of Shannon's bound when each row has its own table of true frequencies."""
    sums = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    there = counts > 0
    return float((counts[there] * np.log2(sums[there] / counts[there])).sum() / 8)


def _cost(counts: Counts, frequencies: rans.Frequencies) -> float:
    there = counts > 0
    return float((counts[there] * (rans.PRECISION - np.log2(frequencies[there]))).sum() / 8)
