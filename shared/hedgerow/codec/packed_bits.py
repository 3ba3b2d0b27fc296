"""Bits eight a byte, as they are counted, compared, coded and sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hedgerow.codec.symbols import Bits, Levels
from hedgerow.errors import PayloadError

__all__ = ["PackedBits", "Packer", "count_ones"]

_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class PackedBits:
    """Bits, packed.

    Attributes:
        data: (⌈count / 8⌉,) uint8, most significant bit first; the bits behind the last one are 0.
        count: number of bits.

    >>> bits = PackedBits.from_bools(np.array([True, False, True]))
    >>> bits.data.tobytes().hex(), bits.count, bits.ones()
    ('a0', 3, 2)
    """

    data: Levels
    count: int

    def __post_init__(self) -> None:
        assert self.data.shape == ((self.count + 7) // 8,), f"{self.data.shape} bytes of {self.count} bits"
        assert not self.has_padding(), "bits behind the last one are not 0"

    @classmethod
    def from_bools(cls, bits: Bits) -> PackedBits:
        """Packs (n,) booleans."""
        return cls(np.packbits(bits), bits.size)

    @classmethod
    def read(cls, data: bytes, count: int) -> PackedBits:
        """`count` bits that came as they are, not copied.

        Raises:
            PayloadError: there are more bytes or fewer, or bits behind the last one are not 0.
        """
        expected = (count + 7) // 8
        if len(data) != expected:
            raise PayloadError(f"{count} bits take {expected} bytes, found {len(data)}")
        if count % 8 and data[-1] & 0xFF >> count % 8:
            raise PayloadError("the padding after the last bit is not zero")
        return cls(np.frombuffer(data, dtype=np.uint8), count)

    def to_bools(self) -> Bits:
        """(n,) booleans."""
        return np.unpackbits(self.data, count=self.count).view(np.bool_)

    def between(self, begin: int, end: int) -> Bits:
        """(end - begin,) booleans: the bits from `begin` to before `end`."""
        bits = np.unpackbits(self.data[begin // 8 : (end + 7) // 8]).view(np.bool_)
        return bits[begin % 8 : begin % 8 + end - begin]

    def ones(self) -> int:
        """How many bits are 1."""
        return count_ones(self.data)

    def ones_between(self, begin: int, end: int) -> int:
        """How many of the bits from `begin` to before `end` are 1."""
        if begin >= end:
            return 0
        data = self.data[begin // 8 : (end + 7) // 8]
        before, behind = begin % 8, -end % 8
        outside = int(data[0]) >> 8 - before, int(data[-1]) & (1 << behind) - 1
        return count_ones(data) - outside[0].bit_count() - outside[1].bit_count()

    def xor(self, other: PackedBits) -> PackedBits:
        """1 where the two differ."""
        assert self.count == other.count, f"{self.count} and {other.count} bits"
        return PackedBits(self.data ^ other.data, self.count)

    def inverted(self) -> PackedBits:
        """1 where this is 0."""
        data = ~self.data
        if self.count % 8:
            data[-1] &= 0xFF << -self.count % 8 & 0xFF
        return PackedBits(data, self.count)

    def has_padding(self) -> bool:
        """Whether a bit behind the last one is 1, which is not allowed."""
        return self.count > 0 and bool(self.data[-1] & (1 << -self.count % 8) - 1)


class Packer:
    """Packs bits that come in parts, for who has no room for a byte each.

    Args:
        count: of all parts together.

    >>> packer = Packer(3)
    >>> packer.put(0, np.array([True, False]))
    2
    >>> packer.put(2, np.array([True]))
    3
    >>> packer.packed().data.tobytes().hex()
    'a0'
    """

    __slots__ = ("_count", "_data")

    def __init__(self, count: int) -> None:
        self._count, self._data = count, np.zeros((count + 7) // 8, dtype=np.uint8)

    def put(self, begin: int, bits: Bits) -> int:
        """Puts (n,) booleans from the place `begin` on, where none were put before; returns where they end."""
        end = begin + bits.size
        assert 0 <= begin <= end <= self._count, f"bits {begin} to {end} of {self._count}"
        if begin % 8:
            bits = np.concatenate([np.zeros(begin % 8, dtype=np.bool_), bits])
        packed = np.packbits(bits)
        # The first byte and the last may hold bits of other parts.
        self._data[begin // 8 : begin // 8 + packed.size] |= packed
        return end

    def packed(self) -> PackedBits:
        """All bits; those that were not put are 0."""
        return PackedBits(self._data, self._count)


def count_ones(data: Levels) -> int:
    """How many bits of (n,) bytes are 1."""
    whole = data.size // 8 * 8
    words = np.ascontiguousarray(data[:whole]).view(np.uint64)
    # In blocks, so that the counts do not go through memory; the sum of a block stays far below 2**32.
    blocks = (words[at : at + _BLOCK] for at in range(0, words.size, _BLOCK))
    total = sum(int(np.bitwise_count(block).sum(dtype=np.uint32)) for block in blocks)
    return total + int(np.bitwise_count(data[whole:]).sum())
