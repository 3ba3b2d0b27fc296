"""Masks: the kept pattern of all prunable tensors, whole (CODEC_BITS or CODEC_MASK_RANS) or against an older one.

CODEC_MASK_RANS has the parameter 0. Its data is, for more than 0 weights:

- the number of bytes of the densities, LEB128;
- the densities of all tensors that have weights, in order, see `hedgerow.codec.densities`;
- the bits of all weights whose density is neither none nor all, in order, of the coder in `hedgerow.codec.rans`. The
  context is the density; with its index i, the frequency of 1 is `portion(i, 255, 2**PRECISION)` of
  `hedgerow.codec.tables`, but at least 1.

A delta is one bit a weight, 1 where the masks differ: first for all weights that the older mask keeps, then for all
that it does not. These are two groups of the bits in `hedgerow.codec.bitstreams`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from hedgerow.codec import rans
from hedgerow.codec.adaptive import Reader, Writer, divided, prefixed
from hedgerow.codec.bitstreams import decode_bits, encode_bits
from hedgerow.codec.coded import Coded
from hedgerow.codec.densities import GRID, Shape, code_tensor
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Bits, Levels, pack_bits, unpack_bits
from hedgerow.codec.tables import portion
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["decode_mask", "decode_mask_delta", "encode_mask", "encode_mask_delta"]


def encode_mask(bits: Bits, *, shapes: Sequence[Shape]) -> Coded:
    """The bytes of a mask.

    Args:
        bits: (n,) the bits of all tensors one after the other, row-major; True = kept.
        shapes: those of the tensors, in order.

    >>> encode_mask(np.ones(1000, dtype=np.bool_), shapes=[(10, 100)]).data.hex()
    '0140'
    """
    assert bits.size == sum(math.prod(shape) for shape in shapes)
    if bits.size == 0:
        return Coded(pb.CODEC_MASK_RANS, b"")
    writer, entropy = Writer(), 0.0
    densities = np.empty(bits.size, dtype=np.uint8)
    for part, shape in _parts(shapes):
        densities[part], bound = code_tensor(writer, bits[part], shape)
        entropy += bound
    head = writer.finish()
    undecided = _undecided(densities)
    body = rans.encode(bits[undecided].view(np.uint8), _frequencies(), densities[undecided])
    data = prefixed(head) + body
    if len(data) <= (bits.size + 7) // 8:
        return Coded(pb.CODEC_MASK_RANS, data, entropy=entropy)
    ones = int(np.count_nonzero(bits))
    return Coded(pb.CODEC_BITS, pack_bits(bits), entropy=binary_entropy_bytes(ones, bits.size))


def decode_mask(coded: Coded, count: int, *, shapes: Sequence[Shape]) -> Bits:
    """Inverse of `encode_mask` for `count` weights of tensors of these shapes, (count,) bool.

    Raises:
        PayloadError: no such mask has these bytes.
    """
    assert count == sum(math.prod(shape) for shape in shapes)
    if coded.parameter:
        raise PayloadError(f"a mask with the parameter {coded.parameter}, which it does not have")
    if coded.codec == pb.CODEC_BITS:
        return unpack_bits(coded.data, count)
    if coded.codec != pb.CODEC_MASK_RANS:
        raise PayloadError(f"codec {coded.codec} is none of masks", kind="mismatch")
    if count == 0:
        if coded.data:
            raise PayloadError(f"{len(coded.data)} bytes for no weights")
        return np.zeros(0, dtype=np.bool_)
    head, body = divided(coded.data)
    reader = Reader(head)
    densities = np.empty(count, dtype=np.uint8)
    for part, shape in _parts(shapes):
        densities[part], _ = code_tensor(reader, None, shape)
    reader.finish()
    undecided = _undecided(densities)
    rows = densities[undecided]
    bits: Bits = densities == GRID
    bits[undecided] = rans.decode(body, rows.size, _frequencies(), rows).view(np.bool_)
    return bits


def encode_mask_delta(new: Bits, old: Bits) -> Coded:
    """What makes `new` of `old`, (n,) each: which kept weights are pruned, and which pruned ones grow.

    >>> mask = np.arange(1000) % 20 == 0
    >>> encode_mask_delta(mask, mask).data
    b''
    """
    assert new.shape == old.shape
    changed = new != old
    bits = PackedBits.from_bools(np.concatenate([changed[old], changed[~old]]))
    return encode_bits(bits, groups=_groups(old))


def decode_mask_delta(coded: Coded, old: Bits) -> Bits:
    """Inverse of `encode_mask_delta`: the new mask, (n,) bool.

    Raises:
        PayloadError: no such masks have this delta.
    """
    groups = _groups(old)
    changed = decode_bits(coded, old.size, groups=groups).to_bools()
    new = old.copy()
    new[old] = ~changed[: groups[0]]
    new[~old] = changed[groups[0] :]
    return new


def _groups(old: Bits) -> tuple[int, int]:
    kept = int(np.count_nonzero(old))
    return kept, old.size - kept


def _parts(shapes: Sequence[Shape]) -> Iterator[tuple[slice, Shape]]:
    """Where each tensor that has weights lies, and its shape."""
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        if stop > start:
            yield slice(start, stop), shape
        start = stop


def _undecided(densities: Levels) -> Bits:
    undecided: Bits = (densities != 0) & (densities != GRID)
    return undecided


@cache
def _frequencies() -> rans.Frequencies:
    """(256, 2): a row for each density."""
    whole = 1 << rans.PRECISION
    ones = [portion(i, GRID, whole) for i in range(GRID + 1)]
    ones[1:-1] = [min(max(one, 1), whole - 1) for one in ones[1:-1]]
    return np.array([[whole - one, one] for one in ones], dtype=np.uint32)
