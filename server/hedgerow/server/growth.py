"""What devices say of pruned weights, folded one by one, and what becomes of the state when the mask changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from hedgerow.codec import Floats, Growth, Sections
from hedgerow.errors import PayloadError
from hedgerow.exchange import asked_counts, read_growth
from hedgerow.pruning import Adjustment, Gradients, Mask, Moves, adjusted
from hedgerow.representation import Representation
from hedgerow.server.state import RoundState
from hedgerow.telemetry import AdjustmentRecord

__all__ = ["GradientSum", "adjusted_state", "grown_state"]

_SCALE = 2.0**40
_LIMB = 26
_BOUND = 2.0**12


class GradientSum:
    """Mean gradient Σ wᵢ·gᵢ / Σ wᵢ of each pruned weight; who says nothing of one says 0, and counts.

    The sums are of fixed-point integers of 2⁻⁴⁰ in two limbs, as those of `FloatMean`, so that they come out bit by bit
    the same in whatever order the replies arrive. They take 16 bytes for each weight of the tensors that were asked
    for, kept or not, however many replies there are.
    """

    def __init__(self, mask: Mask, growth: Sequence[Growth]) -> None:
        sizes = {name: math.prod(mask.shapes[name]) for name in asked_counts(growth, mask=mask)}
        self._high = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}
        self._low = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}
        self._mask, self._growth = mask, growth
        self._weight = 0

    def read(self, sections: Sections) -> Gradients:
        """What a reply says.

        Raises:
            PayloadError: see `read_growth`.
        """
        return read_growth(sections, mask=self._mask, growth=self._growth)

    def check(self, found: Gradients) -> None:
        """Refuses gradients of 2¹² and more in size, and NaN.

        Raises:
            PayloadError: there is one.
        """
        largest = max((float(np.abs(values).max(initial=0)) for _, values in found.values()), default=0.0)
        if not largest < _BOUND:
            raise PayloadError(
                f"a gradient of size {largest:.3g}; below {_BOUND:.0f} is allowed",
                kind="bounds" if math.isfinite(largest) else "not_finite",
            )

    def add(self, found: Gradients, *, weight: int) -> None:
        """Folds what one device said, as `read_growth` gave it, with its number of samples as weight."""
        for name, (positions, values) in found.items():
            fixed = np.rint(values.astype(np.float64) * _SCALE).astype(np.int64)
            # No position occurs twice in a reply.
            self._high[name][positions] += (fixed >> _LIMB) * weight
            self._low[name][positions] += (fixed & ((1 << _LIMB) - 1)) * weight
        self._weight += weight

    def mean(self) -> Gradients:
        """Of each tensor the positions whose mean is not 0, (k,), ascending, and the means, (k,) float32."""
        result = {}
        for name, high in self._high.items():
            low = self._low[name]
            # Both limbs can be something and their sum nothing, which only their carried form shows.
            positions = np.flatnonzero((high + (low >> _LIMB)) | (low & ((1 << _LIMB) - 1)))
            total = high[positions].astype(np.float64) * float(1 << _LIMB) + low[positions]
            result[name] = (positions, (total / (_SCALE * max(1, self._weight))).astype(np.float32))
        return result


def adjusted_state(
    state: RoundState, adjustment: Adjustment | None, gradients: GradientSum | None, *, representation: Representation
) -> tuple[RoundState, AdjustmentRecord | None]:
    """The state after a round's adjustment of the mask, and what was exchanged; as it is where there is none.

    Args:
        state: after the round's training, with the mask that was trained.
        adjustment: what was planned.
        gradients: what devices said.
        representation: says which weights matter least, and what a weight grows at.
    """
    if adjustment is None or gradients is None:
        return state, None
    mean = gradients.mean()
    scores = representation.drop_scores(state.kept)
    mask = adjusted(state.mask, scores=scores, gradients=mean, counts=adjustment.counts)
    exchanged = {name: int(torch.count_nonzero(mask[name] & ~state.mask[name])) for name in adjustment.counts}
    record = AdjustmentRecord(block=adjustment.block, exchanged=exchanged)
    if mask is state.mask:
        return state, record
    kept = grown_state(state.kept, mask=state.mask, new_mask=mask, gradients=mean, representation=representation)
    return replace(state, mask=mask, kept=kept, since=state.round + 1), record


def grown_state(
    state: Floats, *, mask: Mask, new_mask: Mask, gradients: Gradients, representation: Representation
) -> Floats:
    """The coordinator's vector of kept weights after an adjustment, (new_mask.kept,) float32.

    Args:
        state: (mask.kept,) before it.
        mask: what was kept.
        new_mask: what `adjusted` gave for these gradients.
        gradients: mean gradients, with all of the weights that grew among them.
        representation: knows what a weight grows at.
    """
    grown = [np.zeros(0, dtype=np.float32)]
    for name in mask:
        comes = np.flatnonzero((new_mask[name] & ~mask[name]).numpy().reshape(-1))
        if comes.size:
            positions, values = gradients[name]
            places = np.searchsorted(positions, comes)
            assert (positions[places] == comes).all(), "a weight grew without a gradient"
            grown.append(values[places])
    return Moves.between(mask, new_mask).carried(state, grown=representation.grown(np.concatenate(grown)))
