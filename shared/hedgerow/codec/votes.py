"""The votes of one client: up or down for each kept weight, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Bits, Floats, Levels

__all__ = ["Votes"]

_ABSTAINS = 1
_UP = 2


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Votes, in one or two bits each.

    The arrays belong to it: whoever made them does not change them afterwards. They can be read only.

    Attributes:
        positive: (⌈count / 8⌉,) uint8, packed as in `PackedBits`: 1 where the vote is up.
        spoken: the same: 1 where there is a vote. It is one wherever `positive` is. None when nobody abstains.
        count: number of votes.

    >>> votes = Votes.from_ternary(np.array([2, 0, 1], dtype=np.uint8))
    >>> votes.to_floats().tolist()
    [1.0, -1.0, 0.0]
    """

    positive: Levels
    spoken: Levels | None
    count: int

    def __post_init__(self) -> None:
        # PackedBits checks the sizes and the padding.
        object.__setattr__(self, "positive", _read_only(PackedBits(self.positive, self.count).data))
        if self.spoken is not None:
            object.__setattr__(self, "spoken", _read_only(PackedBits(self.spoken, self.count).data))

    @classmethod
    def of(cls, bits: PackedBits) -> Votes:
        """A vote for each bit, up where it is 1."""
        return cls(bits.data, None, bits.count)

    @classmethod
    def from_bools(cls, up: Bits) -> Votes:
        """A vote for each of (n,) booleans, up where it is True."""
        return cls.of(PackedBits.from_bools(up))

    @classmethod
    def of_some(cls, bits: PackedBits, speaks: Bits) -> Votes:
        """A vote for each bit, at the places where (n,) `speaks` is True; none elsewhere."""
        up = np.zeros(speaks.size, dtype=np.bool_)
        up[speaks] = bits.to_bools()
        return cls(np.packbits(up), np.packbits(speaks), speaks.size)

    @classmethod
    def from_ternary(cls, symbols: Levels) -> Votes:
        """Votes of (n,) symbols: 0 is down, 1 abstains, 2 is up."""
        return cls(np.packbits(symbols == _UP), np.packbits(symbols != _ABSTAINS), symbols.size)

    def to_floats(self) -> Floats:
        """(count,) float32: 1 where the vote is up, -1 where it is down, 0 where there is none."""
        up = np.unpackbits(self.positive, count=self.count).astype(np.float32)
        spoken = 1 if self.spoken is None else np.unpackbits(self.spoken, count=self.count).astype(np.float32)
        values: Floats = 2 * up - spoken
        return values


def _read_only(data: Levels) -> Levels:
    view = data.view()
    view.flags.writeable = False
    return view
