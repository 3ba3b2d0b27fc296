"""Masks that were drawn by chance, as the seed of the draw (CODEC_MASK_DRAWN), and what has changed in them since.

A draw has a number for each weight of all tensors, in order: the first 53 bits of the words of PCG64, see
`hedgerow.codec.drop`. Of each tensor those weights are kept whose numbers are the largest, of equal ones the first.

CODEC_MASK_DRAWN has the parameter 0. Its data is

- the seed, 4 bytes, little-endian;
- how many weights of each tensor that has some are kept, LEB128;
- unless the mask is that of the draw, the codec of the delta that makes it of that one (see `hedgerow.codec.masks`), a
  byte, its parameter, LEB128, and its data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hedgerow.codec.coded import Coded
from hedgerow.codec.densities import Shape
from hedgerow.codec.drop import SEED_BYTES
from hedgerow.codec.masks import decode_mask_delta, encode_mask_delta
from hedgerow.codec.packed_bits import PackedBits, Packer
from hedgerow.codec.varints import read_varint, varint
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["SEEDS", "decode_drawn_mask", "drawn_mask", "encode_drawn_mask", "likeliest_seed"]

Draws = npt.NDArray[np.uint64]

SEEDS = 1 << 8 * SEED_BYTES
"""So many seeds there are."""

_BLOCK = 1 << 15
"""So many weights at once, whose numbers take 8 bytes each."""

_SAMPLE = 1 << 12
"""So many weights of each tensor say which draw a mask came of."""

_BINS = 1 << 16
_TO_NUMBER, _TO_BIN = np.uint64(11), np.uint64(48)


def drawn_mask(seed: int, *, kept: Sequence[int], sizes: Sequence[int]) -> PackedBits:
    """The mask of a draw, in the memory of its bits and a megabyte.

    It is that of `hedgerow.pruning.random` scores.

    Args:
        seed: below `SEEDS`.
        kept: how many weights of each tensor are kept.
        sizes: how many each has.

    >>> drawn_mask(0, kept=[1, 2], sizes=[4, 3]).to_bools().tolist()
    [True, False, False, False, True, True, False]
    """
    packer, start = Packer(sum(sizes)), 0
    for count, size in zip(kept, sizes, strict=True):
        assert 0 <= count <= size, f"{count} of {size} weights"
        if count == size:
            packer.put(start, np.ones(size, dtype=np.bool_))
        elif count:
            _draw(packer, seed, start, start + size, count)
        start += size
    return packer.packed()


def likeliest_seed(bits: PackedBits, *, sizes: Sequence[int], seeds: Sequence[int]) -> int:
    """That of some draws whose numbers are the largest where the mask keeps weights, which is quick to see.

    Args:
        bits: n bits, of all tensors one after the other.
        sizes: how many weights each tensor has.
        seeds: one at least.
    """

    def kept_total(seed: int) -> float:
        total, start = 0.0, 0
        for size in sizes:
            for begin, draws in _blocks(seed, start, start + min(size, _SAMPLE)):
                total += float(draws[bits.between(begin, begin + draws.size)].astype(np.float64).sum())
            start += size
        return total

    return seeds[0] if len(seeds) == 1 else max(seeds, key=kept_total)


def encode_drawn_mask(bits: PackedBits, *, shapes: Sequence[Shape], seed: int) -> Coded:
    """The bytes of a mask for who can draw as well; few where it is near the mask of this draw.

    Args:
        bits: n bits, of all tensors one after the other, row-major; 1 = kept.
        shapes: those of the tensors, in order.
        seed: of the draw.

    >>> encode_drawn_mask(drawn_mask(7, kept=[5], sizes=[100]), shapes=[(10, 10)], seed=7).data.hex()
    '0700000005'
    """
    sizes = _sizes(shapes)
    kept = [bits.ones_between(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
    head = seed.to_bytes(SEED_BYTES, "little") + b"".join(map(varint, kept))
    drawn = drawn_mask(seed, kept=kept, sizes=sizes)
    if np.array_equal(drawn.data, bits.data):
        return Coded(pb.CODEC_MASK_DRAWN, head, entropy=float(len(head)))
    delta = encode_mask_delta(bits, drawn)
    data = head + bytes([delta.codec]) + varint(delta.parameter) + delta.data
    return Coded(pb.CODEC_MASK_DRAWN, data, entropy=len(head) + delta.entropy)


def decode_drawn_mask(coded: Coded, count: int, *, shapes: Sequence[Shape]) -> PackedBits:
    """Inverse of `encode_drawn_mask` for `count` weights of tensors of these shapes.

    Raises:
        PayloadError: no such mask has these bytes.
    """
    sizes = _sizes(shapes)
    assert count == sum(sizes)
    if coded.codec != pb.CODEC_MASK_DRAWN:
        raise PayloadError(f"codec {coded.codec} is none of masks", kind="mismatch")
    if coded.parameter:
        raise PayloadError(f"a mask with the parameter {coded.parameter}, which it does not have")
    data, at, kept = coded.data, SEED_BYTES, []
    for size in sizes:
        own, at = read_varint(data, at, below=size + 1)
        kept.append(own)
    if len(data) < at:
        raise PayloadError("the seed of a mask is missing")
    drawn = drawn_mask(int.from_bytes(data[:SEED_BYTES], "little"), kept=kept, sizes=sizes)
    if len(data) == at:
        return drawn
    # Whatever number a reader does not know is refused by the bits' decoder.
    codec: pb.Codec = data[at]  # type: ignore[assignment]
    parameter, at = read_varint(data, at + 1, below=count + 1)
    return decode_mask_delta(Coded(codec, data[at:], parameter), drawn)


def _sizes(shapes: Sequence[Shape]) -> list[int]:
    return [size for size in map(math.prod, shapes) if size]


def _draw(packer: Packer, seed: int, start: int, stop: int, kept: int) -> None:
    """Keeps the `kept` largest numbers, fewer than all, of the weights from `start` to before `stop`."""
    above = np.zeros(_BINS + 1, dtype=np.int64)
    for _, draws in _blocks(seed, start, stop):
        above[:_BINS] += np.bincount((draws >> _TO_BIN).astype(np.int64), minlength=_BINS)
    above = above[::-1].cumsum()[::-1]
    # The first bin of which all that are in higher ones are kept, and some of its own.
    bin = int(np.count_nonzero(above >= kept)) - 1
    places, values = [], []
    for begin, draws in _blocks(seed, start, stop):
        bins = draws >> _TO_BIN
        packer.put(begin, bins > bin)
        here = np.flatnonzero(bins == bin)
        places.append(here + begin)
        values.append(draws[here] >> _TO_NUMBER)
    highest = np.argsort(-np.concatenate(values).astype(np.int64), kind="stable")
    for place in np.concatenate(places)[highest][: kept - int(above[bin + 1])].tolist():
        packer.put(place, np.ones(1, dtype=np.bool_))


def _blocks(seed: int, start: int, stop: int) -> Iterator[tuple[int, Draws]]:
    """Words of the draw for a block of weights at a time, and where it begins."""
    generator = np.random.PCG64(seed)
    generator.advance(start)
    for begin in range(start, stop, _BLOCK):
        yield begin, np.asarray(generator.random_raw(min(_BLOCK, stop - begin)), dtype=np.uint64)
