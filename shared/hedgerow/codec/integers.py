"""Signed integers of unknown spread: tokens by a range coder, and the bits below them raw.

Both ends know a scale p for each value v, about log2 of its magnitude. A radius r and a number of mantissa bits m are
chosen by the writer. All divisions round down.

- The shift is s = max(p - r, 0). The lowest s bits of v are raw, as they are noise.
- The rest, h = v div 2**s, is folded: u = 2h if h >= 0, else -2h - 1.
- The bucket is the smallest b >= 0 with u div 2**b < 2**(m + 1). The token is 2**m · b + u div 2**b. The lowest b bits
  of u are raw. This is the generalised Exp-Golomb code, as in the hybrid integers of JPEG XL.

The bytes:

- one byte, 4 · i + m: r is 1, 2, 4 or 6 for i = 0 to 3, m is at most 3;
- the size of the next part, LEB128 of at most 5 bytes;
- the tokens, see `levels`, of an alphabet of (17 - m) · 2**m. They have one context, 1 + p but from 0 to r + 1, of size
  r + 2; none if it is the same for all;
- the raw bits of each value as one number, u's above v's. First the lowest bit of each value that has one, then the
  second of each that has two, and so on; packed eight a byte, most significant first, padded with zeros.

Integers wrap around at 16 bits.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec.coded import Coded
from hedgerow.codec.levels import Context, decode_levels, encode_levels
from hedgerow.codec.symbols import pack_bits, unpack_bits
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Int16", "Ints", "decode_integers", "encode_integers"]

Int16: TypeAlias = npt.NDArray[np.int16]
Ints: TypeAlias = npt.NDArray[np.int32]

_RADII = (1, 2, 4, 6)
_MANTISSAS = (0, 1, 2, 3)
_MOST = 17
"""Bits of the largest folded value, and one."""
_SAMPLE = 1 << 16
"""The writer estimates sizes from about so many values."""
_TABLE_BYTES = 1.2
"""About what a token that occurs costs in the table of its scale."""
_LENGTH_BYTES = 5
"""Tokens of 11 million values take more than the 3 bytes that `levels` allows its tables."""


class _Plan(NamedTuple):
    radius: int
    mantissa: int

    @property
    def alphabet(self) -> int:
        return (_MOST - self.mantissa) << self.mantissa


class _Split(NamedTuple):
    tokens: Ints
    contexts: Ints
    widths: Ints
    raw: Ints


def encode_integers(values: Int16, *, scales: Ints) -> tuple[bytes, float]:
    """The bytes of `values`.

    Args:
        values: (n,) int16.
        scales: (n,) int32, about log2 of each value's magnitude, as far as both ends know it.

    Returns:
        The bytes, and Shannon's bound in bytes: the tokens' entropy given their contexts, and the raw bits.
    """
    wide = values.astype(np.int32)
    plan = _plan(wide, scales)
    split = _split(wide, scales, plan)
    contexts = _given(split.contexts, plan)
    tokens = encode_levels(split.tokens.astype(np.uint8), alphabet=plan.alphabet, contexts=contexts)
    planes = [(split.raw[split.widths > i] >> i & 1).astype(np.bool_) for i in range(int(split.widths.max(initial=0)))]
    raw = pack_bits(np.concatenate(planes)) if planes else b""
    head = _RADII.index(plan.radius) << 2 | _MANTISSAS.index(plan.mantissa)
    data = bytes([head]) + _number(len(tokens.data)) + tokens.data + raw
    return data, tokens.entropy + float(split.widths.sum()) / 8


def decode_integers(data: bytes, count: int, *, scales: Ints) -> Int16:
    """Inverse of `encode_integers` for `count` values; whatever else the bytes say becomes some int16 or an error.

    Raises:
        PayloadError: the bytes are too few, too many or out of bounds.
    """
    if not data:
        raise PayloadError(f"{count} integers in no bytes")
    head = data[0]
    if head >= 16:
        raise PayloadError(f"integers of an unknown layout {head}", kind="bounds")
    plan = _Plan(_RADII[head >> 2], _MANTISSAS[head & 3])
    length, start = _read_number(data, 1)
    if length > len(data) - start:
        raise PayloadError(f"{length} bytes of tokens where {len(data) - start} are left", kind="bounds")
    shifts = _shifts(scales, plan)
    coded = Coded(pb.CODEC_SYMBOLS_RANS, data[start : start + length])
    contexts = _given(_contexts(scales, plan), plan)
    tokens = decode_levels(coded, count, alphabet=plan.alphabet, contexts=contexts).astype(np.int32)
    buckets = np.maximum((tokens >> plan.mantissa) - 1, 0)
    folded = (tokens - (buckets << plan.mantissa)) << buckets
    widths = shifts + buckets
    bits = unpack_bits(data[start + length :], int(widths.sum()))
    raw, place = np.zeros(count, dtype=np.int32), 0
    for i in range(int(widths.max(initial=0))):
        here = widths > i
        end = place + int(np.count_nonzero(here))
        raw[here] |= bits[place:end].astype(np.int32) << i
        place = end
    folded |= raw >> shifts
    low = raw & ((1 << shifts) - 1)
    values: Int16 = ((folded >> 1 ^ -(folded & 1)) << shifts | low).astype(np.int16)
    return values


def _shifts(scales: Ints, plan: _Plan) -> Ints:
    return np.maximum(scales - plan.radius, 0)


def _contexts(scales: Ints, plan: _Plan) -> Ints:
    return np.clip(scales, -1, plan.radius) + 1


def _given(contexts: Ints, plan: _Plan) -> tuple[Context, ...]:
    if contexts.size == 0 or contexts.min() == contexts.max():
        return ()
    return (Context(contexts.astype(np.uint8), plan.radius + 2),)


def _split(values: Ints, scales: Ints, plan: _Plan) -> _Split:
    shifts = _shifts(scales, plan)
    high = values >> shifts
    folded = high << 1 ^ high >> 31
    lengths = np.frexp(folded.astype(np.float32))[1]
    buckets = np.maximum(lengths - 1 - plan.mantissa, 0)
    tokens = (buckets << plan.mantissa) + (folded >> buckets)
    raw = (folded & ((1 << buckets) - 1)) << shifts | (values & ((1 << shifts) - 1))
    return _Split(tokens, _contexts(scales, plan), shifts + buckets, raw)


def _plan(values: Ints, scales: Ints) -> _Plan:
    stride = values.size // _SAMPLE + 1
    values, scales = values[::stride], scales[::stride]
    # Where all scales are small, every radius says the same.
    radii = _RADII if scales.max(initial=0) > _RADII[0] else _RADII[:1]
    plans = [_Plan(radius, mantissa) for radius in radii for mantissa in _MANTISSAS]
    return min(plans, key=lambda plan: _estimate(_split(values, scales, plan), plan, stride=stride))


def _estimate(split: _Split, plan: _Plan, *, stride: int) -> float:
    rows, width = plan.radius + 2, plan.alphabet
    counts = np.bincount(split.contexts * width + split.tokens, minlength=rows * width).reshape(rows, width)
    return float(split.widths.sum()) / 8 * stride + min(_bytes(counts, stride), _bytes(counts.sum(0)[None], stride))


def _bytes(counts: npt.NDArray[np.int64], stride: int) -> float:
    totals = counts.sum(axis=1, keepdims=True)
    used = counts > 0
    bits = -(counts * np.log2(np.where(used, counts, 1) / np.maximum(totals, 1))).sum()
    return float(bits) / 8 * stride + _TABLE_BYTES * int(used.sum())


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_number(data: bytes, start: int) -> tuple[int, int]:
    """A LEB128 number at `start`, and where it ends."""
    value = 0
    for i, byte in enumerate(data[start : start + _LENGTH_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, start + i + 1
    raise PayloadError("a length that does not end")
