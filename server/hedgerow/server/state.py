"""The state of a run between two rounds: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hedgerow.budget.nests import within
from hedgerow.codec import Bits, Floats
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
        nests: where devices train smaller parts, for each level from 1 on (mask.kept,) bool: its weights among the kept
            ones. Each is inside the one before, and level 0 is the whole.
        own_floats: for each of those levels its own `floats`; none where all levels share theirs.
        plans: for each node whose level is known, that level.
        trained: the level of the largest part that was ever trained; 0 before any training.
    """

    round: int
    mask: Mask
    kept: Floats
    floats: Floats
    held: Mapping[int, int] = field(default_factory=dict)
    since: int = 1
    nests: tuple[Bits, ...] = ()
    own_floats: tuple[Floats, ...] = ()
    plans: Mapping[int, int] = field(default_factory=dict)
    trained: int = 0

    def __post_init__(self) -> None:
        assert self.kept.shape == (self.mask.kept,)
        assert self.kept.dtype == self.floats.dtype == np.float32
        assert 1 <= self.since <= self.round + 1
        assert all(nest.shape == self.kept.shape and nest.dtype == np.bool_ for nest in self.nests)
        assert all(own.shape == self.floats.shape and own.dtype == np.float32 for own in self.own_floats)
        assert len(self.own_floats) in (0, len(self.nests))
        assert 0 <= self.trained < self.levels

    @property
    def levels(self) -> int:
        """How many there are."""
        return 1 + len(self.nests)

    def places(self, level: int) -> Bits | None:
        """Where the weights of a level are among all, (mask.kept,) bool; None where it has all."""
        return self.nests[level - 1] if level else None

    def part(self, level: int) -> RoundState:
        """The network of one level, as the state of a run that has no other."""
        whole = replace(self, nests=(), own_floats=(), plans={}, trained=0)
        if not level:
            return whole
        places = self.nests[level - 1]
        floats = self.own_floats[level - 1] if self.own_floats else self.floats
        return replace(whole, mask=within(self.mask, places), kept=self.kept[places], floats=floats)

    def best(self) -> RoundState:
        """The largest part that was ever trained: what is evaluated and delivered."""
        return self if not self.nests else self.part(self.trained)

    def with_floats(self, level: int, floats: Floats) -> RoundState:
        """With other floats of one level, or of all where they share theirs."""
        if not level or not self.own_floats:
            return replace(self, floats=floats)
        own = [floats if number == level else old for number, old in enumerate(self.own_floats, 1)]
        return replace(self, own_floats=tuple(own))
