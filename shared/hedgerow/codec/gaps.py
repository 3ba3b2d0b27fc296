"""Rare ones among bits: the zeros before each one, range-coded.

The bits are those of one group or of several, one behind the other. Both ends know the `count` and the `ones` of each
group; what follows its last one is not sent, since it is 0. From the two numbers follow k = `low_bits` and frequencies
(`hedgerow.codec.bit_tables`) of the group; e is the last symbol that these have. A gap is the number of zeros between
a one and the one before, or the begin of the group. Its high part is gap div 2**k. The bytes are, in this order:

1. how many gaps have a high part of e or more, as LEB128;
2. for each of these, in their order, the high part minus e, as LEB128;
3. for each group, the k low bits of each gap, highest first, packed most significant bit first, then zeros up to a
   whole byte;
4. the smaller of high part and e of each gap, range-coded (`hedgerow.codec.rans`); the context is the place of the
   group among those that have ones.

When there are no ones, there are no bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hedgerow.codec import rans
from hedgerow.codec.bit_tables import gap_frequencies, low_bits
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.rans import Frequencies
from hedgerow.codec.symbols import Levels
from hedgerow.codec.varints import read_varint, varint
from hedgerow.errors import PayloadError
from hedgerow.native.library import INTEGER, POINTER, Kernel, status

__all__ = ["Group", "decode_gaps", "encode_gaps"]

Numbers = npt.NDArray[np.int64]

_split = Kernel("gaps_split", POINTER, *[INTEGER] * 4, *[POINTER] * 3)
_join = Kernel("gaps_join", *[POINTER] * 3, *[INTEGER] * 5, *[POINTER] * 2)


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive bits: how many they are, below 2**32, and how many of them are 1."""

    count: int
    ones: int


@dataclass(frozen=True, slots=True)
class _Place:
    """The bits from `begin` to before `end`, of which `ones` > 0 are 1."""

    begin: int
    end: int
    ones: int
    k: int
    frequencies: Frequencies

    @property
    def last(self) -> int:
        return self.frequencies.size - 1

    @property
    def low_bytes(self) -> int:
        return (self.ones * self.k + 7) // 8


def encode_gaps(bits: PackedBits, groups: Sequence[Group]) -> bytes:
    """The bytes of these bits, which are those of the groups; see the module. At most 256 groups have ones."""
    assert bits.count == sum(group.count for group in groups), "groups of other bits"
    places = _places(groups)
    if not places:
        return b""
    split = _split_native if status().available else _split_numpy
    highs, lows, beyonds = zip(*(split(bits, place) for place in places), strict=True)
    beyond = np.concatenate(beyonds)
    long_ones = b"".join(varint(n) for n in (beyond.size, *beyond.tolist()))
    body = rans.encode(np.concatenate(highs), _table(places), _contexts(places))
    return b"".join((long_ones, *(low.tobytes() for low in lows), body))


def decode_gaps(data: bytes, groups: Sequence[Group]) -> PackedBits:
    """Inverse of `encode_gaps`.

    Raises:
        PayloadError: no such bits have these bytes.
    """
    count, ones = sum(group.count for group in groups), sum(group.ones for group in groups)
    places = _places(groups)
    packed = np.zeros((count + 7) // 8, dtype=np.uint8)
    if not places:
        if data:
            raise PayloadError(f"{len(data)} bytes of gaps, and no ones")
        return PackedBits(packed, count)
    beyond, at = _read_beyond(data, most=min(ones, len(data)), below=count + 1)
    begin = at + sum(place.low_bytes for place in places)
    if len(data) < begin:
        raise PayloadError(f"the low bits of {ones} gaps end at byte {begin}, found {len(data)}")
    high = rans.decode(data[begin:], ones, _table(places), _contexts(places))
    join = _join_native if status().available else _join_numpy
    first = used = 0
    for place in places:
        part, low = high[first : first + place.ones], np.frombuffer(data, np.uint8, place.low_bytes, at)
        if place.ones * place.k % 8 and low[-1] & 0xFF >> place.ones * place.k % 8:
            raise PayloadError("the padding after the low bits of gaps is not zero")
        long_ones = int(np.count_nonzero(part == place.last))
        if used + long_ones > beyond.size:
            raise PayloadError(f"more long gaps than the {beyond.size} that were declared")
        if not join(packed, place, part, low, beyond[used : used + long_ones]):
            raise PayloadError(f"a one behind the last of {place.end} bits", kind="bounds")
        first, at, used = first + place.ones, at + place.low_bytes, used + long_ones
    if used != beyond.size:
        raise PayloadError(f"{beyond.size} long gaps are declared, and there are {used}")
    return PackedBits(packed, count)


def _places(groups: Sequence[Group]) -> list[_Place]:
    places, begin = [], 0
    for group in groups:
        assert 0 <= group.ones <= group.count < 1 << 32, group
        end = begin + group.count
        if group.ones:
            k = low_bits(group.ones, group.count)
            places.append(_Place(begin, end, group.ones, k, gap_frequencies(group.ones, group.count)))
        begin = end
    return places


def _table(places: Sequence[_Place]) -> Frequencies:
    table = np.zeros((len(places), max(place.frequencies.size for place in places)), dtype=np.uint32)
    for row, place in zip(table, places, strict=True):
        row[: place.frequencies.size] = place.frequencies
    return table


def _contexts(places: Sequence[_Place]) -> Levels | None:
    if len(places) == 1:
        return None
    return np.repeat(np.arange(len(places), dtype=np.uint8), [place.ones for place in places])


def _read_beyond(data: bytes, *, most: int, below: int) -> tuple[Numbers, int]:
    """What long gaps have beyond the last symbol, and where the bytes of it end."""
    found, at = read_varint(data, 0, below=most + 1)
    beyond = []
    for _ in range(found):
        number, at = read_varint(data, at, below=below)
        beyond.append(number)
    return np.array(beyond, dtype=np.int64), at


def _split_numpy(bits: PackedBits, place: _Place) -> tuple[Levels, Levels, Numbers]:
    gaps = np.diff(np.flatnonzero(bits.to_bools()[place.begin : place.end]), prepend=-1) - 1
    high = gaps >> place.k
    lows = (gaps[:, None] >> np.arange(place.k - 1, -1, -1)) & 1
    symbols = np.minimum(high, place.last).astype(np.uint8)
    return symbols, np.packbits(lows.astype(np.uint8)), high[high >= place.last] - place.last


def _join_numpy(packed: Levels, place: _Place, high: Levels, low: Levels, beyond: Numbers) -> bool:
    parts = high.astype(np.int64)
    parts[high == place.last] += beyond
    # Bounded first, so that their sum cannot overflow.
    if int(parts.max()) << place.k >= place.end - place.begin:
        return False
    digits = np.unpackbits(low, count=high.size * place.k).reshape(high.size, place.k)
    gaps = (parts << place.k) + digits @ (1 << np.arange(place.k - 1, -1, -1, dtype=np.int64))
    ones = place.begin + np.cumsum(gaps + 1) - 1
    if int(ones[-1]) >= place.end:
        return False
    np.bitwise_or.at(packed, ones >> 3, (0x80 >> (ones & 7)).astype(np.uint8))
    return True


def _split_native(bits: PackedBits, place: _Place) -> tuple[Levels, Levels, Numbers]:
    data = np.ascontiguousarray(bits.data)
    high, low = np.empty(place.ones, dtype=np.uint8), np.empty(place.low_bytes, dtype=np.uint8)
    most = (place.end - place.begin) // (place.last << place.k) + 1
    beyond = np.empty(min(place.ones, most), dtype=np.int64)
    arrays = [array.ctypes.data for array in (high, low, beyond)]
    _split(data.ctypes.data, place.begin, place.end, place.k, place.last, *arrays)
    return high, low, beyond[: np.count_nonzero(high == place.last)]


def _join_native(packed: Levels, place: _Place, high: Levels, low: Levels, beyond: Numbers) -> bool:
    sound = np.zeros(1, dtype=np.int64)
    arrays = [array.ctypes.data for array in (high, low, beyond)]
    numbers = (place.ones, place.k, place.last, place.begin, place.end)
    _join(*arrays, *numbers, packed.ctypes.data, sound.ctypes.data)
    return bool(sound[0])
