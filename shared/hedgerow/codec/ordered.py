"""Half-precision floats as integers of the same order, so that a small change of a value is a small difference.

binary16 and bfloat16 are sign and magnitude. Their magnitude's bits, negated where the sign is set, are integers that
grow with the value: 0 is zero (of either sign), 1 the smallest subnormal, -1 its negative. A *version* of some values
is their integers. The codec of ordered integers has two layouts, told apart by its parameter:

- 0: the differences from the base's integers, see `differences`. The unit of a value is the exponent field of the
  base's value, but at least 1; the cap is the number of fraction bits, 10 or 7.
- 1: the median of each tensor, little-endian int16, 0 for an empty one; then the differences from them. All units are
  0, the cap is 15.

Differences wrap around at 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec.coded import Coded
from hedgerow.codec.differences import decode_differences, encode_differences
from hedgerow.codec.integers import Int16, Ints
from hedgerow.codec.symbols import Floats
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "HalfKind",
    "Int16",
    "decode_halves",
    "decode_ordered",
    "encode_halves",
    "encode_ordered",
    "from_ordered",
    "to_ordered",
]

HalfKind: TypeAlias = Literal["fp16", "bf16"]

_LARGEST: dict[HalfKind, int] = {"fp16": 0x7BFF, "bf16": 0x7F7F}
"""Bits of the largest finite value; above are infinity and what is not a number."""
_MANTISSA: dict[HalfKind, int] = {"fp16": 10, "bf16": 7}
_ORDERED: dict[HalfKind, pb.Codec] = {"fp16": pb.CODEC_ORDERED16, "bf16": pb.CODEC_ORDERED_BFLOAT16}
_RAW: dict[HalfKind, pb.Codec] = {"fp16": pb.CODEC_FLOAT16, "bf16": pb.CODEC_BFLOAT16}
_LARGEST_FLOAT16 = 65504.0
_AGAINST_BASE, _WHOLE = 0, 1
_WIDEST = 15
"""log2 of the largest difference of two int16 that wraps around."""


def to_ordered(values: Floats, *, kind: HalfKind) -> Int16:
    """The ordered integers of the nearest half-precision values: ties to the even one, what is beyond to the largest.

    Args:
        values: (n,) float32, finite.
        kind: binary16 or bfloat16.

    Returns:
        (n,) int16.

    Raises:
        PayloadError: a value is not finite.

    >>> to_ordered(np.array([1.0, -1.0, 0.0], dtype=np.float32), kind="bf16").tolist()
    [16256, -16256, 0]
    """
    if not np.isfinite(values).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    if kind == "fp16":
        halves = np.clip(values, -_LARGEST_FLOAT16, _LARGEST_FLOAT16).astype(np.float16)
        bits = halves.view(np.uint16).astype(np.int32)
    else:
        whole = values.astype(np.float32).view(np.uint32).astype(np.int64)
        bits = ((whole + 0x7FFF + (whole >> 16 & 1)) >> 16).astype(np.int32)
    return _signed(bits & 0x8000, np.minimum(bits & 0x7FFF, _LARGEST[kind]))


def from_ordered(integers: Int16, *, kind: HalfKind) -> Floats:
    """The values of ordered integers, (n,) float32; zero is positive.

    Raises:
        PayloadError: an integer stands for no finite value.

    >>> from_ordered(np.array([16256, -1], dtype=np.int16), kind="fp16").tolist()
    [1.875, -5.960464477539063e-08]
    """
    bits = _bits(integers, kind=kind)
    if kind == "fp16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_halves(integers: Int16, *, kind: HalfKind) -> Coded:
    """The half-precision values themselves, 2 bytes each."""
    data = _bits(integers, kind=kind).astype("<u2").tobytes()
    return Coded(_RAW[kind], data, entropy=float(len(data)))


def decode_halves(coded: Coded, count: int, *, kind: HalfKind) -> Int16:
    """Inverse of `encode_halves` for `count` values; the integers of both zeros are 0.

    Raises:
        PayloadError: another number of bytes, or a value that is not finite.
    """
    if coded.codec != _RAW[kind]:
        raise PayloadError(f"codec {coded.codec} where values in {kind} are expected", kind="mismatch")
    if len(coded.data) != 2 * count:
        raise PayloadError(f"{count} values take {2 * count} bytes in {kind}, found {len(coded.data)}")
    bits = np.frombuffer(coded.data, dtype="<u2").astype(np.int32)
    magnitudes = bits & 0x7FFF
    if magnitudes.max(initial=0) > _LARGEST[kind]:
        raise PayloadError("a value is not finite", kind="not_finite")
    return _signed(bits & 0x8000, magnitudes)


def encode_ordered(integers: Int16, *, kind: HalfKind, base: Int16 | None, groups: Sequence[int]) -> Coded:
    """A version's integers in the smallest of three codings: against `base`, whole, or raw.

    Args:
        integers: (n,) int16, as `to_ordered` gives them.
        kind: what they stand for.
        base: (n,) the version that the reader holds; None if it holds none.
        groups: lengths of the tensors, which sum to n.

    >>> version = to_ordered(np.ones(500, dtype=np.float32), kind="fp16")
    >>> len(encode_ordered(version, kind="fp16", base=version, groups=[300, 200]).data)
    0
    """
    assert sum(groups) == integers.size
    candidates = [encode_halves(integers, kind=kind), _whole(integers, kind=kind, groups=groups)]
    if base is not None:
        candidates.append(_against(integers, base, kind=kind, groups=groups))
    return min(candidates, key=lambda coded: len(coded.data))


def decode_ordered(coded: Coded, count: int, *, kind: HalfKind, base: Int16 | None, groups: Sequence[int]) -> Int16:
    """Inverse of `encode_ordered` for `count` integers, each of a finite value; other arguments as there.

    Raises:
        PayloadError: bytes that are no version of so many values, or one against a base that this side lacks.
    """
    assert sum(groups) == count
    if coded.codec == _RAW[kind]:
        return decode_halves(coded, count, kind=kind)
    if coded.codec != _ORDERED[kind]:
        raise PayloadError(f"codec {coded.codec} where a version in {kind} is expected", kind="mismatch")
    if coded.parameter == _WHOLE:
        taken = 2 * len(groups)
        if len(coded.data) < taken:
            raise PayloadError(f"the medians of {len(groups)} tensors take {taken} bytes, found {len(coded.data)}")
        medians = np.frombuffer(coded.data, dtype="<i2", count=len(groups)).astype(np.int16)
        start, units, cap = np.repeat(medians, groups), np.zeros(count, dtype=np.int32), _WIDEST
    elif coded.parameter == _AGAINST_BASE:
        if base is None:
            raise PayloadError("a version against one that this side does not hold", kind="mismatch")
        # Where a value changes by more than itself, its integer moves by a few octaves, however small it was.
        taken, start, units, cap = 0, base, _exponents(base, kind=kind), _MANTISSA[kind]
    else:
        raise PayloadError(f"an ordered version of unknown layout {coded.parameter}", kind="bounds")
    integers = start + decode_differences(coded.data[taken:], units=units, groups=groups, cap=cap)
    _bits(integers, kind=kind)
    return integers


def _signed(negative: Ints, magnitudes: Ints) -> Int16:
    integers: Int16 = np.where(negative, -magnitudes, magnitudes).astype(np.int16)
    return integers


def _bits(integers: Int16, *, kind: HalfKind) -> npt.NDArray[np.uint16]:
    magnitudes = np.abs(integers.astype(np.int32))
    if magnitudes.max(initial=0) > _LARGEST[kind]:
        raise PayloadError(f"an ordered integer of no finite value in {kind}", kind="not_finite")
    return np.where(integers < 0, magnitudes | 0x8000, magnitudes).astype(np.uint16)


def _exponents(integers: Int16, *, kind: HalfKind) -> Ints:
    """log2 of what a difference of 1 means here, up to a constant."""
    exponents: Ints = np.maximum(np.abs(integers.astype(np.int32)) >> _MANTISSA[kind], 1)
    return exponents


def _whole(integers: Int16, *, kind: HalfKind, groups: Sequence[int]) -> Coded:
    ends = np.cumsum(groups, dtype=np.int64)
    parts = [integers[end - length : end] for end, length in zip(ends, groups, strict=True)]
    medians = np.array([np.sort(p)[p.size // 2] if p.size else 0 for p in parts], dtype=np.int16)
    differences = integers - np.repeat(medians, groups)
    sizes = np.abs(differences.astype(np.float64))
    units = np.zeros(integers.size, dtype=np.int32)
    data, entropy = encode_differences(differences, sizes=sizes, units=units, groups=groups, cap=_WIDEST)
    return Coded(_ORDERED[kind], medians.astype("<i2").tobytes() + data, _WHOLE, entropy)


def _against(integers: Int16, base: Int16, *, kind: HalfKind, groups: Sequence[int]) -> Coded:
    # A step of the optimiser is about as large for all values of a tensor, so it moves the integer of a large value,
    # which are far apart, by less than that of a small one.
    units = _exponents(base, kind=kind)
    sizes = np.abs(_magnitudes(integers, kind=kind) - _magnitudes(base, kind=kind))
    cap = _MANTISSA[kind]
    data, entropy = encode_differences(integers - base, sizes=sizes, units=units, groups=groups, cap=cap)
    return Coded(_ORDERED[kind], data, _AGAINST_BASE, entropy)


def _magnitudes(integers: Int16, *, kind: HalfKind) -> npt.NDArray[np.float64]:
    """The values, in the unit in which `_exponents` counts."""
    wide = np.abs(integers.astype(np.int32))
    exponents = wide >> _MANTISSA[kind]
    fractions = (wide & ((1 << _MANTISSA[kind]) - 1)) + np.where(exponents > 0, 1 << _MANTISSA[kind], 0)
    values: npt.NDArray[np.float64] = np.ldexp(
        np.sign(integers) * fractions.astype(np.float64), np.maximum(exponents, 1)
    )
    return values
