"""A device that adjusts its own mask in the midst of a round (FedDST, Bibikar et al. 2022, arXiv 2112.09824)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hedgerow.client.growth import GrowthBatch, gradients_of
from hedgerow.codec import Floats, Growth
from hedgerow.exchange import asked_counts
from hedgerow.pruning import Mask, Moves, adjusted
from hedgerow.representation import Representation, Said
from hedgerow.sparse import KeptNetwork, read_vector

__all__ = ["OwnMask", "first_steps", "own_mask"]


@dataclass(frozen=True, slots=True)
class OwnMask:
    """What a device has made of the mask that it was sent.

    Attributes:
        sent: that mask.
        mask: its own.
        moves: from that one to its own.
        kept: (mask.kept,) float32, the values to train on from.
        floats: (f,) float32, the others.
        peak_bytes: measured peak of what torch held to find it.
    """

    sent: Mask
    mask: Mask
    moves: Moves
    kept: Floats
    floats: Floats
    peak_bytes: int

    def residual(self, values: Floats | None) -> Floats | None:
        """What rounding left over under the mask that was sent, as under its own; 0 where weights grew."""
        return None if values is None else self.moves.carried(values, grown=0)

    def remembered(self, said: Said) -> Said:
        """A reply about its own mask, with what rounding left over as under the mask that was sent."""
        if said.memory is None:
            return said
        return replace(said, memory=Moves.between(self.mask, self.sent).carried(said.memory, grown=0))


def first_steps(steps: int, *, after: float) -> int:
    """How many of a round's steps come before the adjustment: `after` of them, rounded up, but neither none nor all.

    A single step comes before it.

    >>> [first_steps(steps, after=0.5) for steps in (1, 2, 5, 8)], first_steps(8, after=0.0)
    ([1, 1, 3, 4], 1)
    """
    return max(1, min(math.ceil(after * steps), steps - 1))


def own_mask(
    network: KeptNetwork,
    sent: Mask,
    *,
    growth: Sequence[Growth],
    representation: Representation,
    batch: GrowthBatch,
) -> OwnMask:
    """Prunes a device's smallest weights, and lets as many grow where its own gradients are the largest.

    Args:
        network: as it is trained so far; it comes out as it went in.
        sent: the mask of the request.
        growth: how many weights of each tensor, as it came from the network.
        representation: says which weights matter least, and what a weight grows at.
        batch: the device's.

    Raises:
        PayloadError: the request asks for what there is not.
        TrainingError: the loss or a gradient is not finite.
    """
    counts = asked_counts(growth, mask=sent)
    found, peak = gradients_of(network, counts, batch=batch)
    kept, floats = read_vector(network.kept), read_vector(network.floats)
    mask = adjusted(sent, scores=representation.drop_scores(kept), gradients=found, goes=counts, comes=counts)
    moves = Moves.between(sent, mask)
    # What weights grow at does not depend on their gradients; signs, where it does, have no masks of devices' own.
    grown = representation.grown(np.zeros(moves.grown, dtype=np.float32))
    return OwnMask(sent, mask, moves, moves.carried(kept, grown=grown), floats, peak)
