"""Updates as multiples of a step for each tensor, coded as integers; what rounding leaves is for the next update.

The step is a setting times the root mean square of the tensor's update, rounded to one of four in an octave, so that it
takes one byte. The integers then have about the same statistics in all tensors. A writer that adds what an update has
over its reconstruction to its next update loses nothing in the long run (error feedback: Seide et al., "1-bit
stochastic gradient descent", 2014; Karimireddy et al., "Error feedback fixes SignSGD", 2019).

The bytes; none if no tensor has an update:

- one byte for each tensor, its code: 0 for no update, else the step is the binary32 whose upper 11 bits are 347 + code
  and whose other bits are 0: 2**-40 for 1, then 1.25, 1.5, 1.75 and 2 times that, and so on;
- the integers of the other tensors, see `integers`; all scales are 0.

A value is its integer times its tensor's step, in binary32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hedgerow.codec.coded import Coded
from hedgerow.codec.integers import Int16, decode_integers, encode_integers
from hedgerow.codec.symbols import Floats
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["decode_update", "encode_update", "update_integers"]

_BELOW_SMALLEST = 347
"""The largest of the 255 steps is 1.5 · 2**23, so that no multiple of a step overflows."""
_LOWER_BITS = 21
_MOST_STEPS = 2**15 - 1


def encode_update(update: Floats, *, groups: Sequence[int], step: float) -> tuple[Coded, Floats]:
    """The bytes of an update, and what the reader makes of them.

    Args:
        update: (n,) float32, finite.
        groups: lengths of the tensors, which sum to n.
        step: of the quantiser, in root mean squares of a tensor's update, above 0; 1.0 costs about 2.1 bits for each
            normally distributed value, and each halving one bit more.

    Returns:
        The bytes, and the reconstruction (n,) float32: the same bits in every reader. A tensor whose integers are all 0
        costs its byte only.

    Raises:
        PayloadError: a value is not finite.

    >>> coded, reconstruction = encode_update(np.array([4, -4, 3, 0], np.float32), groups=[3, 1], step=1.0)
    >>> reconstruction.tolist()
    [3.5, -3.5, 3.5, 0.0]
    """
    assert sum(groups) == update.size
    assert 0 < step < math.inf, step
    if not np.isfinite(update).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    exact = update.astype(np.float64)
    index = np.repeat(np.arange(len(groups)), groups)
    squares = np.bincount(index, weights=exact * exact, minlength=len(groups))
    codes = _codes(step * np.sqrt(squares / np.maximum(groups, 1)))
    # The quotient of two binary32 in binary64 rounds to the same integer everywhere.
    quotients = np.rint(exact / _steps(codes).astype(np.float64)[index])
    integers = np.clip(quotients, -_MOST_STEPS, _MOST_STEPS).astype(np.int16)
    codes[np.bincount(index, weights=integers != 0, minlength=len(groups)) == 0] = 0
    sent = codes[index] > 0
    integers = integers[sent]
    reconstruction = np.zeros(update.size, dtype=np.float32)
    reconstruction[sent] = integers.astype(np.float32) * _steps(codes)[index][sent]
    if not integers.size:
        return Coded(pb.CODEC_UNIFORM, b""), reconstruction
    data, entropy = encode_integers(integers, scales=np.zeros(integers.size, dtype=np.int32))
    return Coded(pb.CODEC_UNIFORM, codes.tobytes() + data, entropy=entropy), reconstruction


def decode_update(coded: Coded, count: int, *, groups: Sequence[int]) -> Floats:
    """The reconstruction that `encode_update` gave for `count` values, (n,) float32, finite.

    Raises:
        PayloadError: bytes that are no update of so many values.
    """
    reconstruction = np.zeros(count, dtype=np.float32)
    each, integers = _read(coded, count, groups)
    reconstruction[each > 0] = integers.astype(np.float32) * _steps(each[each > 0])
    return reconstruction


def update_integers(coded: Coded, count: int, *, groups: Sequence[int]) -> Int16:
    """The multiples of the steps, of those tensors that have some; arguments and errors as of `decode_update`."""
    return _read(coded, count, groups)[1]


def _read(coded: Coded, count: int, groups: Sequence[int]) -> tuple[npt.NDArray[np.uint8], Int16]:
    """The code of each value's step, and the integers of those whose code is not 0."""
    assert sum(groups) == count
    if coded.codec != pb.CODEC_UNIFORM:
        raise PayloadError(f"codec {coded.codec} where a quantised update is expected", kind="mismatch")
    if not coded.data:
        return np.zeros(count, dtype=np.uint8), np.zeros(0, dtype=np.int16)
    if len(coded.data) < len(groups):
        raise PayloadError(f"the steps of {len(groups)} tensors take as many bytes, found {len(coded.data)}")
    each = np.repeat(np.frombuffer(coded.data, dtype=np.uint8, count=len(groups)), groups)
    scales = np.zeros(int(np.count_nonzero(each)), dtype=np.int32)
    return each, decode_integers(coded.data[len(groups) :], scales.size, scales=scales)


def _codes(steps: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The nearest code from 1 of each step above 0."""
    # Beyond 2**30 all have the largest code.
    bits = np.minimum(steps, 2.0**30).astype(np.float32).view(np.uint32).astype(np.int64)
    nearest = (bits + (1 << _LOWER_BITS - 1)) >> _LOWER_BITS
    codes: npt.NDArray[np.uint8] = np.clip(nearest - _BELOW_SMALLEST, 1, 255).astype(np.uint8)
    return codes


def _steps(codes: npt.NDArray[np.uint8]) -> Floats:
    return ((codes.astype(np.uint32) + _BELOW_SMALLEST) << _LOWER_BITS).view(np.float32)
