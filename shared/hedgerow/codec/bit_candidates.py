"""The ways to code bits that `hedgerow.codec.bitstreams` picks from, each with the bytes that it should take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import zstandard

from hedgerow.codec import rans
from hedgerow.codec.bit_tables import byte_cost, byte_frequencies, share_of
from hedgerow.codec.coded import Coded
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.gaps import Group, encode_gaps
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Levels
from hedgerow.codec.varints import varint
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["MOST_GROUPS", "candidates", "group_bytes", "group_contexts", "with_pattern"]

_LANE_COST = 3
_GAPS_COST = 1.0007
"""Of the entropy."""
_FASTER = 1.002
"""Bytes are coded faster than gaps, so where there are many they have to be larger by so much to be given up."""
_MANY_BYTES = 1 << 16
_SAMPLES = 4
_SAMPLE_BYTES = 4096
_PATTERN = 0.9
"""Zstandard's share of the other codecs' size on a sample, below which it is tried on all."""
MOST_GROUPS = 256
"""That can have statistics of their own: a context is one byte."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to code bits: bytes that it should take, and how to do it."""

    cost: float
    run: Callable[[], Coded]


def candidates(bits: PackedBits, groups: Sequence[int] | None) -> list[Candidate]:
    """All of them but Zstandard; those with groups only if there are any."""
    whole = Group(bits.count, bits.ones())
    found = [_raw(bits, whole), _bytes(bits, whole), _gaps(bits, whole)]
    return found if groups is None else [*found, _grouped_bytes(bits, groups), _grouped_gaps(bits, groups)]


def with_pattern(bits: PackedBits, *, better_than: float) -> Coded | None:
    """By Zstandard, in fewer bytes than that; None if it cannot, or a sample does not promise it."""
    data = bits.data
    sample = data
    if data.size > _SAMPLES * _SAMPLE_BYTES:
        starts = np.linspace(0, data.size - _SAMPLE_BYTES, _SAMPLES).astype(np.int64)
        sample = np.concatenate([data[at : at + _SAMPLE_BYTES] for at in starts])
    compressed = zstandard.ZstdCompressor(level=1).compress(sample.tobytes())
    if len(compressed) * data.size > _PATTERN * better_than * sample.size:
        return None
    packed = zstandard.ZstdCompressor(level=9).compress(data.tobytes())
    if len(packed) >= better_than:
        return None
    return Coded(pb.CODEC_BITS_ZSTD, packed, 0, _entropy([Group(bits.count, bits.ones())]))


def group_bytes(groups: Sequence[int]) -> list[int]:
    """Number of bytes whose first bit is in a group, for each group that has any."""
    ends = (np.cumsum(np.asarray(groups, dtype=np.int64)) + 7) // 8
    return [length for length in np.diff(ends, prepend=0).tolist() if length]


def group_contexts(groups: Sequence[int]) -> Levels:
    """(n,) uint8: for each byte, the place of its group among those that have bytes."""
    lengths = group_bytes(groups)
    return np.repeat(np.arange(len(lengths), dtype=np.uint8), lengths)


def _raw(bits: PackedBits, whole: Group) -> Candidate:
    return Candidate(bits.data.size, lambda: Coded(pb.CODEC_BITS, bits.data.tobytes(), 0, _entropy([whole])))


def _bytes(bits: PackedBits, whole: Group) -> Candidate:
    share = share_of(whole.ones, whole.count)
    return Candidate(
        byte_cost(whole.ones, whole.count, share) + _lanes_cost(bits.data.size),
        lambda: Coded(pb.CODEC_BITS_RANS, rans.encode(bits.data, byte_frequencies(share)), share, _entropy([whole])),
    )


def _gaps(bits: PackedBits, whole: Group) -> Candidate:
    few = Group(whole.count, min(whole.ones, whole.count - whole.ones))

    def run() -> Coded:
        coded = bits if few == whole else bits.inverted()
        return Coded(pb.CODEC_GAPS_RANS, encode_gaps(coded, [few]), whole.ones, _entropy([whole]))

    return Candidate(_gaps_cost([few]), run)


def _grouped_bytes(bits: PackedBits, groups: Sequence[int]) -> Candidate:
    bounds = np.cumsum([0, *group_bytes(groups)]).tolist()
    parts = [
        Group(8 * (end - begin), bits.ones_between(8 * begin, min(8 * end, bits.count)))
        for begin, end in pairwise(bounds)
    ]
    shares = [share_of(part.ones, part.count) if part.ones else 0 for part in parts]

    def run() -> Coded:
        data = rans.encode(bits.data, byte_frequencies(*shares), group_contexts(groups))
        return Coded(pb.CODEC_BITS_RANS, np.array(shares, dtype="<u2").tobytes() + data, 0, _entropy(parts))

    costs = (byte_cost(part.ones, part.count, share) for part, share in zip(parts, shares, strict=True))
    fits = 1 < len(parts) <= MOST_GROUPS
    return Candidate(sum(costs) + 2 * len(parts) + _lanes_cost(bits.data.size) if fits else np.inf, run)


def _grouped_gaps(bits: PackedBits, groups: Sequence[int]) -> Candidate:
    bounds = np.cumsum([0, *(length for length in groups if length)]).tolist()
    parts = [Group(end - begin, bits.ones_between(begin, end)) for begin, end in pairwise(bounds)]
    head = b"".join(varint(part.ones) for part in parts)
    fits = 1 < len(parts) <= MOST_GROUPS and any(part.ones for part in parts)
    return Candidate(
        _gaps_cost(parts) + len(head) if fits else np.inf,
        lambda: Coded(pb.CODEC_GAPS_RANS, head + encode_gaps(bits, parts), 0, _entropy(parts)),
    )


def _entropy(parts: Sequence[Group]) -> float:
    return sum(binary_entropy_bytes(part.ones, part.count) for part in parts)


def _lanes_cost(count: int) -> float:
    return _LANE_COST * rans.lanes_of(count)


def _gaps_cost(parts: Sequence[Group]) -> float:
    ones, size = sum(part.ones for part in parts), sum(part.count for part in parts) / 8
    if ones == 0:
        return 0
    cost = _entropy(parts) * _GAPS_COST + _lanes_cost(ones) + 1
    return cost * _FASTER if size >= _MANY_BYTES else cost
