"""The state of a run between two rounds: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hedgerow.codec import Floats
from hedgerow.pruning import Mask

__all__ = ["RoundState"]


@dataclass(frozen=True, slots=True)
class RoundState:
    """The network after `round` rounds.

    Random numbers need no state: every stream is derived from the seed and the round (`hedgerow.seeds`).

    Attributes:
        round: rounds that are done.
        mask: the kept positions.
        kept: (mask.kept,) float32, the representation's state: mean votes θ, or weights.
        floats: (f,) float32, all that is never pruned.
        held: for each node that has acknowledged a version, the last one: the number of its round.
        since: the first version that is of this mask; who holds it or a later one has the mask.
    """

    round: int
    mask: Mask
    kept: Floats
    floats: Floats
    held: Mapping[int, int] = field(default_factory=dict)
    since: int = 1

    def __post_init__(self) -> None:
        assert self.kept.shape == (self.mask.kept,)
        assert self.kept.dtype == self.floats.dtype == np.float32
        assert 1 <= self.since <= self.round + 1
