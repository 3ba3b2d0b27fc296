"""Bits eight a byte, as they are counted, compared, coded and sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hedgerow.codec.symbols import Bits, Levels

__all__ = ["PackedBits", "count_ones"]

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

    def to_bools(self) -> Bits:
        """(n,) booleans."""
        return np.unpackbits(self.data, count=self.count).view(np.bool_)

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


def count_ones(data: Levels) -> int:
    """How many bits of (n,) bytes are 1."""
    whole = data.size // 8 * 8
    words = np.ascontiguousarray(data[:whole]).view(np.uint64)
    # In blocks, so that the counts do not go through memory; the sum of a block stays far below 2**32.
    blocks = (words[at : at + _BLOCK] for at in range(0, words.size, _BLOCK))
    total = sum(int(np.bitwise_count(block).sum(dtype=np.uint32)) for block in blocks)
    return total + int(np.bitwise_count(data[whole:]).sum())
