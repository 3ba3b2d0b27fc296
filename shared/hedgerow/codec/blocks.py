"""Updates as 8-bit integers in blocks with a scale each: 8.06 bits a value, almost exact, whatever the values are.

A block has up to 256 values of one tensor. Its scale is the smallest bfloat16 by which 127 reaches the largest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hedgerow.codec.coded import Coded
from hedgerow.codec.symbols import Floats
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["BLOCK", "decode_blocks", "encode_blocks"]

BLOCK = 256
_MOST = 127
_LARGEST = 2.0**127
"""Larger values are taken for it, so that a block's scale times 127 is finite."""
_SMALLEST = 2.0**-100
"""Smaller scales are 0, so that no product is a subnormal, which some machines flush to 0."""
_INFINITY = 0x7F80


def encode_blocks(update: Floats, *, groups: Sequence[int]) -> tuple[Coded, Floats]:
    """The bytes of an update, and what the reader makes of them.

    Args:
        update: (n,) float32, finite.
        groups: lengths of the tensors, which sum to n; a block ends with its tensor.

    Returns:
        The bytes: all scales, bfloat16 little-endian, then all integers. And the reconstruction, (n,) float32: the same
        bits in every reader.

    Raises:
        PayloadError: a value is not finite.

    >>> coded, reconstruction = encode_blocks(np.array([127.0, -1.4], dtype=np.float32), groups=[2])
    >>> coded.data.hex(), reconstruction.tolist()
    ('803f7fff', [127.0, -1.0])
    """
    assert sum(groups) == update.size
    if not np.isfinite(update).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    exact = np.clip(update.astype(np.float64), -_LARGEST, _LARGEST)
    index = _blocks(groups)
    largest = np.zeros(int(index[-1]) + 1 if index.size else 0)
    np.maximum.at(largest, index, np.abs(exact))
    bits = _scales(largest / _MOST)
    scales = _floats(bits)[index]
    quotients = np.divide(exact, scales, out=np.zeros(exact.size), where=scales > 0)
    integers = np.rint(quotients).astype(np.int8)
    data = bits.astype("<u2").tobytes() + integers.tobytes()
    coded = Coded(pb.CODEC_INT8_BLOCK, data, entropy=float(len(data)))
    return coded, integers.astype(np.float32) * scales


def decode_blocks(coded: Coded, count: int, *, groups: Sequence[int]) -> Floats:
    """The reconstruction that `encode_blocks` gave for `count` values, (n,) float32, finite.

    Raises:
        PayloadError: another number of bytes, or a scale that is negative or too large.
    """
    assert sum(groups) == count
    if coded.codec != pb.CODEC_INT8_BLOCK:
        raise PayloadError(f"codec {coded.codec} where blocks of integers are expected", kind="mismatch")
    blocks = sum(-(-length // BLOCK) for length in groups)
    if len(coded.data) != 2 * blocks + count:
        raise PayloadError(f"{count} integers and {blocks} scales take another number of bytes: {len(coded.data)}")
    bits = np.frombuffer(coded.data, dtype="<u2", count=blocks).astype(np.uint16)
    scales = _floats(bits)
    if bits.max(initial=0) >= _INFINITY or scales.max(initial=0) > _LARGEST / _MOST * 1.01:
        raise PayloadError("a block's scale is negative or too large", kind="bounds")
    integers = np.frombuffer(coded.data, dtype=np.int8, offset=2 * blocks)
    return integers.astype(np.float32) * scales[_blocks(groups)]


def _blocks(groups: Sequence[int]) -> npt.NDArray[np.int64]:
    """The block of each value."""
    lengths = [min(BLOCK, length - start) for length in groups for start in range(0, length, BLOCK)]
    return np.repeat(np.arange(len(lengths)), lengths)


def _scales(least: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Bits of the smallest bfloat16 that is at least this."""
    bits = np.where(least < _SMALLEST, 0.0, least).astype(np.float32).view(np.uint32)
    below = (bits >> 16).astype(np.uint16)
    return below + (_floats(below) < least).astype(np.uint16) * (bits > 0).astype(np.uint16)


def _floats(bits: npt.NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)
