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
from hedgerow.codec.densities import GRID, Densities, Shape, code_tensor
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.packed_bits import PackedBits, Packer
from hedgerow.codec.symbols import Bits, Levels
from hedgerow.codec.tables import portion
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["decode_mask", "decode_mask_delta", "encode_mask", "encode_mask_delta"]

_BLOCK = 1 << 17
"""So many weights at once; a byte for each weight of a network may be more than a device has."""


def encode_mask(bits: PackedBits, *, shapes: Sequence[Shape]) -> Coded:
    """The bytes of a mask.

    Args:
        bits: n bits, of all tensors one after the other, row-major; 1 = kept.
        shapes: those of the tensors, in order.

    >>> encode_mask(PackedBits.from_bools(np.ones(1000, dtype=np.bool_)), shapes=[(10, 100)]).data.hex()
    '0140'
    """
    assert bits.count == sum(math.prod(shape) for shape in shapes)
    if bits.count == 0:
        return Coded(pb.CODEC_MASK_RANS, b"")
    writer, entropy = Writer(), 0.0
    tensors = []
    for begin, end, shape in _parts(shapes):
        densities, bound = code_tensor(writer, bits.between(begin, end), shape)
        tensors.append(densities)
        entropy += bound
    head = writer.finish()
    encoder = rans.Encoder(sum(densities.undecided for densities in tensors), _frequencies())
    # The coder goes from the last weight to the first.
    for begin, densities, outputs in reversed(list(_blocks(tensors))):
        if not densities.undecided:
            continue
        levels = densities.of(*outputs)
        undecided, here = _undecided(levels), bits.between(begin, begin + levels.size)
        encoder.put(here[undecided].view(np.uint8), levels[undecided])
    data = prefixed(head) + encoder.finish()
    if len(data) <= (bits.count + 7) // 8:
        return Coded(pb.CODEC_MASK_RANS, data, entropy=entropy)
    return Coded(pb.CODEC_BITS, bits.data.tobytes(), entropy=binary_entropy_bytes(bits.ones(), bits.count))


def decode_mask(coded: Coded, count: int, *, shapes: Sequence[Shape]) -> PackedBits:
    """Inverse of `encode_mask` for `count` weights of tensors of these shapes.

    Raises:
        PayloadError: no such mask has these bytes.
    """
    assert count == sum(math.prod(shape) for shape in shapes)
    if coded.parameter:
        raise PayloadError(f"a mask with the parameter {coded.parameter}, which it does not have")
    if coded.codec == pb.CODEC_BITS:
        return PackedBits.read(coded.data, count)
    if coded.codec != pb.CODEC_MASK_RANS:
        raise PayloadError(f"codec {coded.codec} is none of masks", kind="mismatch")
    if count == 0:
        if coded.data:
            raise PayloadError(f"{len(coded.data)} bytes for no weights")
        return PackedBits.read(b"", 0)
    head, body = divided(coded.data)
    reader = Reader(head)
    tensors = [code_tensor(reader, None, shape)[0] for _, _, shape in _parts(shapes)]
    reader.finish()
    decoder = rans.Decoder(body, sum(densities.undecided for densities in tensors), _frequencies())
    packer = Packer(count)
    for begin, densities, outputs in _blocks(tensors):
        levels = densities.of(*outputs)
        bits = levels == GRID
        if densities.undecided:
            undecided = _undecided(levels)
            rows = levels[undecided]
            bits[undecided] = decoder.take(rows.size, rows).view(np.bool_)
        packer.put(begin, bits)
    decoder.finish()
    return packer.packed()


def encode_mask_delta(new: PackedBits, old: PackedBits) -> Coded:
    """What makes `new` of `old`, n bits each: which kept weights are pruned, and which pruned ones grow.

    >>> mask = PackedBits.from_bools(np.arange(1000) % 20 == 0)
    >>> encode_mask_delta(mask, mask).data
    b''
    """
    assert new.count == old.count
    groups = _groups(old)
    packer, kept_at, pruned_at = Packer(old.count), 0, groups[0]
    for begin in range(0, old.count, _BLOCK):
        end = min(begin + _BLOCK, old.count)
        kept = old.between(begin, end)
        changed = new.between(begin, end) ^ kept
        kept_at, pruned_at = packer.put(kept_at, changed[kept]), packer.put(pruned_at, changed[~kept])
    return encode_bits(packer.packed(), groups=groups)


def decode_mask_delta(coded: Coded, old: PackedBits) -> PackedBits:
    """Inverse of `encode_mask_delta`: the new mask.

    Raises:
        PayloadError: no such masks have this delta.
    """
    groups = _groups(old)
    changed = decode_bits(coded, old.count, groups=groups)
    packer, kept_at, pruned_at = Packer(old.count), 0, groups[0]
    for begin in range(0, old.count, _BLOCK):
        new = old.between(begin, min(begin + _BLOCK, old.count))
        kept, pruned = np.flatnonzero(new), np.flatnonzero(~new)
        new[kept] = ~changed.between(kept_at, kept_at + kept.size)
        new[pruned] = changed.between(pruned_at, pruned_at + pruned.size)
        packer.put(begin, new)
        kept_at, pruned_at = kept_at + kept.size, pruned_at + pruned.size
    return packer.packed()


def _groups(old: PackedBits) -> tuple[int, int]:
    kept = old.ones()
    return kept, old.count - kept


def _parts(shapes: Sequence[Shape]) -> Iterator[tuple[int, int, Shape]]:
    """From where to before where each tensor lies that has weights, and its shape."""
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        if stop > start:
            yield start, stop, shape
        start = stop


def _blocks(tensors: Sequence[Densities]) -> Iterator[tuple[int, Densities, tuple[int, int]]]:
    """Blocks of few weights: where each begins among all, of which tensor it is, and of which outputs of that."""
    start = 0
    for densities in tensors:
        for begin, end in densities.blocks():
            yield start + begin * densities.of_output, densities, (begin, end)
        start += densities.size


def _undecided(levels: Levels) -> Bits:
    undecided: Bits = (levels != 0) & (levels != GRID)
    return undecided


@cache
def _frequencies() -> rans.Frequencies:
    """(256, 2): a row for each density."""
    whole = 1 << rans.PRECISION
    ones = [portion(i, GRID, whole) for i in range(GRID + 1)]
    ones[1:-1] = [min(max(one, 1), whole - 1) for one in ones[1:-1]]
    return np.array([[whole - one, one] for one in ones], dtype=np.uint32)
