"""Numbers in [-1, 1] as they travel to clients: evenly spaced levels, told given those of the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hedgerow.codec import (
    Context,
    Floats,
    Levels,
    Section,
    Sections,
    layer_context,
    levels_section,
    plain_levels_section,
    read_levels,
)
from hedgerow.config import WireSettings
from hedgerow.representation.base import Published
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["LevelCoder", "dequantised", "quantised"]


@dataclass(frozen=True, slots=True)
class LevelCoder:
    """How one vector of levels travels. `layers` are the lengths of the tensors that it is made of.

    Attributes:
        levels: how many there are, 2 to 255.
        wire: how they are coded.
    """

    levels: int
    wire: WireSettings

    @property
    def has_deltas(self) -> bool:
        """Whether `encode` makes use of a base."""
        return self.wire.coder != "plain"

    def publish(self, values: Floats) -> Levels:
        """(n,) the levels of values in [-1, 1]."""
        return quantised(values, levels=self.levels)

    def start(self, published: Published) -> Floats:
        """(n,) float32, the values that levels stand for."""
        return dequantised(published, levels=self.levels)

    def encode(self, published: Published, *, base: Published | None, layers: Sequence[int]) -> Section:
        """Levels given the base's levels."""
        if self.wire.coder == "plain":
            return plain_levels_section(pb.KIND_VOTES, published, alphabet=self.levels)
        contexts = self.contexts(base, layers=layers)
        return levels_section(pb.KIND_VOTES, published, alphabet=self.levels, contexts=contexts)

    def decode(self, sections: Sections, *, base: Published | None, layers: Sequence[int]) -> Levels:
        """What `publish` gave.

        Raises:
            PayloadError: the section is missing, of the wrong size or out of bounds.
        """
        contexts = self.contexts(base, layers=layers)
        return read_levels(sections, pb.KIND_VOTES, sum(layers), alphabet=self.levels, contexts=contexts)

    def contexts(self, known: Published | None, *, layers: Sequence[int]) -> list[Context]:
        """What both ends know of each element: its level in `known`, where there is one, and its tensor."""
        return [*([] if known is None else [Context(known, self.levels)]), layer_context(layers)]


def quantised(theta: Floats, *, levels: int) -> Levels:
    """Uniform quantiser of [-1, 1]: the nearest of `levels` symbols. With an even number of levels signs are kept.

    >>> quantised(np.array([-1, -0.1, 0.1, 1], dtype=np.float32), levels=4).tolist()
    [0, 1, 2, 3]
    """
    # Levels lie at half steps around 0 when their number is even. Rounding is never across 0 then, as it would be with
    # rint(theta + 1), and a split vote, 0, reads as +1 like everywhere else.
    steps = theta * np.float32((levels - 1) / 2) + np.float32(0.5 * (levels % 2))
    symbols: Levels = (np.floor(steps) + levels // 2).astype(np.uint8)
    return symbols


def dequantised(symbols: Levels, *, levels: int) -> Floats:
    """The values that symbols stand for.

    >>> dequantised(np.array([0, 3], dtype=np.uint8), levels=4).tolist()
    [-1.0, 1.0]
    """
    return symbols.astype(np.float32) * np.float32(2 / (levels - 1)) - np.float32(1)
