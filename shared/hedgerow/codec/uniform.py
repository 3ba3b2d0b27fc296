"""Vectors as multiples of a step for each tensor, coded as integers: updates, and values themselves.

The step is a setting times the root mean square of the tensor's values, rounded to one of four in an octave, so that it
takes one byte. The integers then have about the same statistics in all tensors. A writer that adds what an update has
over its reconstruction to its next update loses nothing in the long run (error feedback: Seide et al., "1-bit
stochastic gradient descent", 2014; Karimireddy et al., "Error feedback fixes SignSGD", 2019).

A value is its integer times its tensor's step, exactly a binary32. In memory both are one number, a *multiple*: the
code of the step, see below, above the 16 bits of the integer.

The bytes; none if no tensor has an integer other than 0:

- one byte for each tensor, its code: 0 where all its integers are 0, else the step is the binary32 whose upper 11 bits
  are 347 + code and whose other bits are 0: 2**-40 for 1, then 1.25, 1.5, 1.75 and 2 times that, and so on;
- of the other tensors, see `integers`, all scales being 0: with parameter 0 the integers; with parameter 1 what they
  have over those of a base, which are its values over the steps of this vector, rounded, ties to even, but from -32767
  to 32767. These differences wrap around at 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec.coded import Coded
from hedgerow.codec.integers import Int16, decode_integers, encode_integers
from hedgerow.codec.symbols import Floats
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "Multiples",
    "decode_multiples",
    "decode_update",
    "encode_multiples",
    "encode_update",
    "multiples_of",
    "update_integers",
    "values_of",
]

Multiples: TypeAlias = npt.NDArray[np.uint32]
"""A code of a step above the 16 bits of an integer."""

_BELOW_SMALLEST = 347
"""The largest of the 255 steps is 1.5 · 2**23, so that no multiple of a step overflows."""
_LOWER_BITS = 21
_MOST_STEPS = 2**15 - 1
_WHOLE, _AGAINST_BASE = 0, 1


def multiples_of(values: Floats, *, groups: Sequence[int], step: float) -> Multiples:
    """The nearest multiples of a step for each tensor.

    Args:
        values: (n,) float32, finite.
        groups: lengths of the tensors, which sum to n.
        step: in root mean squares of a tensor's values, above 0; 1.0 costs about 2.1 bits for each normally distributed
            value, and each halving one bit more.

    Raises:
        PayloadError: a value is not finite.

    >>> values_of(multiples_of(np.array([4, -4, 3, 0], np.float32), groups=[3, 1], step=1.0)).tolist()
    [3.5, -3.5, 3.5, 0.0]
    """
    assert sum(groups) == values.size
    assert 0 < step < math.inf, step
    if not np.isfinite(values).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    exact = values.astype(np.float64)
    index = np.repeat(np.arange(len(groups)), groups)
    squares = np.bincount(index, weights=exact * exact, minlength=len(groups))
    codes = _codes(step * np.sqrt(squares / np.maximum(groups, 1)))
    integers = _nearest(exact, _steps(codes)[index])
    codes[np.bincount(index, weights=integers != 0, minlength=len(groups)) == 0] = 0
    return _together(codes[index], integers)


def values_of(multiples: Multiples) -> Floats:
    """(n,) float32, what multiples stand for: the same bits everywhere."""
    codes, integers = _apart(multiples)
    values = np.zeros(multiples.size, dtype=np.float32)
    some = codes > 0
    values[some] = integers[some].astype(np.float32) * _steps(codes[some])
    return values


def encode_multiples(multiples: Multiples, *, groups: Sequence[int], base: Floats | None = None) -> Coded:
    """The bytes of multiples; against a base where there is one and that is smaller.

    Args:
        multiples: (n,), with one step for each tensor, as `multiples_of` gives them.
        groups: lengths of the tensors, which sum to n.
        base: (n,) float32, finite, values that the reader holds.
    """
    assert sum(groups) == multiples.size
    each, integers = _apart(multiples)
    sent = each > 0
    if not sent.any():
        return Coded(pb.CODEC_UNIFORM, b"")
    firsts = np.minimum(np.cumsum([0, *groups])[:-1], multiples.size - 1)
    codes = np.where(np.asarray(groups) > 0, each[firsts], 0).astype(np.uint8).tobytes()
    told = {_WHOLE: integers[sent]}
    if base is not None:
        told[_AGAINST_BASE] = integers[sent] - _nearest(base[sent], _steps(each[sent]))
    candidates = []
    for layout, numbers in told.items():
        data, entropy = encode_integers(numbers, scales=np.zeros(numbers.size, dtype=np.int32))
        candidates.append(Coded(pb.CODEC_UNIFORM, codes + data, layout, entropy))
    return min(candidates, key=lambda coded: len(coded.data))


def decode_multiples(coded: Coded, count: int, *, groups: Sequence[int], base: Floats | None = None) -> Multiples:
    """Inverse of `encode_multiples` for `count` values; other arguments as there.

    Raises:
        PayloadError: bytes that are no multiples of this number, or against a base that this side lacks.
    """
    assert sum(groups) == count
    if coded.codec != pb.CODEC_UNIFORM:
        raise PayloadError(f"codec {coded.codec} where multiples of a step are expected", kind="mismatch")
    if coded.parameter not in (_WHOLE, _AGAINST_BASE):
        raise PayloadError(f"multiples of an unknown layout {coded.parameter}", kind="bounds")
    if coded.parameter == _AGAINST_BASE and base is None:
        raise PayloadError("multiples against values that this side does not hold", kind="mismatch")
    if not coded.data:
        return np.zeros(count, dtype=np.uint32)
    if len(coded.data) < len(groups):
        raise PayloadError(f"the steps of {len(groups)} tensors take as many bytes, found {len(coded.data)}")
    each = np.repeat(np.frombuffer(coded.data, dtype=np.uint8, count=len(groups)), groups)
    sent = each > 0
    scales = np.zeros(int(np.count_nonzero(sent)), dtype=np.int32)
    integers = np.zeros(count, dtype=np.int16)
    integers[sent] = decode_integers(coded.data[len(groups) :], scales.size, scales=scales)
    if coded.parameter == _AGAINST_BASE and base is not None:
        integers[sent] += _nearest(base[sent], _steps(each[sent]))
    return _together(each, integers)


def encode_update(update: Floats, *, groups: Sequence[int], step: float) -> tuple[Coded, Floats]:
    """The bytes of an update, and what the reader makes of them, (n,) float32; arguments and errors as of
    `multiples_of`.

    >>> coded, reconstruction = encode_update(np.array([4, -4, 3, 0], np.float32), groups=[3, 1], step=1.0)
    >>> reconstruction.tolist()
    [3.5, -3.5, 3.5, 0.0]
    """
    multiples = multiples_of(update, groups=groups, step=step)
    return encode_multiples(multiples, groups=groups), values_of(multiples)


def decode_update(coded: Coded, count: int, *, groups: Sequence[int]) -> Floats:
    """The reconstruction that `encode_update` gave for `count` values, (n,) float32, finite.

    Raises:
        PayloadError: bytes that are no update of so many values.
    """
    return values_of(decode_multiples(coded, count, groups=groups))


def update_integers(coded: Coded, count: int, *, groups: Sequence[int]) -> Int16:
    """The multiples of the steps, of those tensors that have some; arguments and errors as of `decode_update`."""
    codes, integers = _apart(decode_multiples(coded, count, groups=groups))
    return integers[codes > 0]


def _nearest(values: npt.NDArray[np.floating], steps: Floats) -> Int16:
    # The quotient of two binary32 in binary64 rounds to the same integer everywhere.
    quotients = np.rint(values.astype(np.float64) / steps.astype(np.float64))
    integers: Int16 = np.clip(quotients, -_MOST_STEPS, _MOST_STEPS).astype(np.int16)
    return integers


def _together(codes: npt.NDArray[np.uint8], integers: Int16) -> Multiples:
    multiples: Multiples = codes.astype(np.uint32) << np.uint32(16) | integers.view(np.uint16)
    return multiples


def _apart(multiples: Multiples) -> tuple[npt.NDArray[np.uint8], Int16]:
    return (multiples >> 16).astype(np.uint8), (multiples & 0xFFFF).astype(np.uint16).view(np.int16)


def _codes(steps: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The nearest code from 1 of each step above 0."""
    # Beyond 2**30 all have the largest code.
    bits = np.minimum(steps, 2.0**30).astype(np.float32).view(np.uint32).astype(np.int64)
    nearest = (bits + (1 << _LOWER_BITS - 1)) >> _LOWER_BITS
    codes: npt.NDArray[np.uint8] = np.clip(nearest - _BELOW_SMALLEST, 1, 255).astype(np.uint8)
    return codes


def _steps(codes: npt.NDArray[np.uint8]) -> Floats:
    return ((codes.astype(np.uint32) + _BELOW_SMALLEST) << _LOWER_BITS).view(np.float32)
