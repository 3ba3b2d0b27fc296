"""What devices say of gradients, folded one by one, and what becomes of the state when the mask changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from hedgerow.codec import Floats, Growth, Sections
from hedgerow.errors import PayloadError
from hedgerow.exchange import asked_counts, read_growth, read_kept_gradients
from hedgerow.pruning import (
    Adjustment,
    Gradients,
    Mask,
    Moves,
    adjusted,
    keep_top,
    lowest_together,
    marked,
    traded_together,
)
from hedgerow.representation import Representation
from hedgerow.server.aggregation import HeldMean
from hedgerow.server.state import RoundState
from hedgerow.telemetry import AdjustmentRecord

__all__ = ["GradientSum", "adjusted_state", "agreed_state", "grown_state"]

_SCALE = 2.0**40
_LIMB = 26
_BOUND = 2.0**12


class GradientSum:
    """Mean gradient Σ wᵢ·gᵢ / Σ wᵢ of each pruned weight; who says nothing of one says 0, and counts.

    The sums are of fixed-point integers of 2⁻⁴⁰ in two limbs, as those of `FloatMean`, so that they come out bit by bit
    the same in whatever order the replies arrive. They take 16 bytes for each weight of the tensors that were asked
    for, kept or not, however many replies there are.

    Args:
        mask: what is kept.
        growth: what devices are asked.
        kept: whether each says the gradients of all its kept weights too; the sums then are of all tensors. The mean of
            a kept weight is that of all devices; of a pruned one it is too small where not all had it among their
            largest.
    """

    def __init__(self, mask: Mask, growth: Sequence[Growth], *, kept: bool = False) -> None:
        asked = asked_counts(growth, mask=mask)
        sizes = {name: math.prod(shape) for name, shape in mask.shapes.items() if kept or name in asked}
        self._high = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}
        self._low = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}
        self._mask, self._growth = mask, growth
        self._weight = 0
        self.kept = kept

    @property
    def sections(self) -> int:
        """How many sections of a reply say gradients."""
        return 1 + self.kept

    def read(
        self, sections: Sections, *, mask: Mask | None = None, growth: Sequence[Growth] | None = None
    ) -> Gradients:
        """What a reply says of weights that nobody keeps, and behind those of each tensor of the kept ones if asked.

        Args:
            sections: of the reply.
            mask: what its device keeps, where that is a part of all that is kept. Of the rest it may speak, but nothing
                is to grow there.
            growth: what it was asked; the same as all others when None.

        Raises:
            PayloadError: see `read_growth` and `read_kept_gradients`.
        """
        asked = self._growth if growth is None else growth
        if mask is None:
            found = read_growth(sections, mask=self._mask, growth=asked)
            return self._with_kept(found, read_kept_gradients(sections, self._mask.kept)) if self.kept else found
        assert not self.kept, "who keeps a part of the mask is not asked for the gradients of that"
        result = {}
        for name, (positions, values) in read_growth(sections, mask=mask, growth=asked).items():
            pruned = ~self._mask[name].numpy().reshape(-1)[positions]
            result[name] = (positions[pruned], values[pruned])
        return result

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
        """Folds what one device said, as `read` gave it, with its number of samples as weight."""
        for name, (positions, values) in found.items():
            fixed = np.rint(values.astype(np.float64) * _SCALE).astype(np.int64)
            # No position occurs twice in a reply.
            self._high[name][positions] += (fixed >> _LIMB) * weight
            self._low[name][positions] += (fixed & ((1 << _LIMB) - 1)) * weight
        self._weight += weight

    def mean(self) -> Gradients:
        """Of each tensor the pruned positions whose mean is not 0, (k,), ascending, and the means, (k,) float32."""
        result = {}
        for name, high in self._high.items():
            low = self._low[name]
            # Both limbs can be something and their sum nothing, which only their carried form shows.
            positions = np.flatnonzero((high + (low >> _LIMB)) | (low & ((1 << _LIMB) - 1)))
            if self.kept:
                positions = positions[~self._mask[name].numpy().reshape(-1)[positions]]
            result[name] = (positions, self._means(name, positions))
        return result

    def kept_mean(self) -> Floats:
        """The means of the kept weights, (mask.kept,) float32, in the mask's order."""
        assert self.kept, "nobody said them"
        places = {name: np.flatnonzero(bits.numpy().reshape(-1)) for name, bits in self._mask.items()}
        return np.concatenate([self._means(name, positions) for name, positions in places.items()])

    def _means(self, name: str, positions: npt.NDArray[np.int64]) -> Floats:
        total = self._high[name][positions].astype(np.float64) * float(1 << _LIMB) + self._low[name][positions]
        means: Floats = (total / (_SCALE * max(1, self._weight))).astype(np.float32)
        return means

    def _with_kept(self, found: Gradients, kept: Floats) -> Gradients:
        result, begin = dict(found), 0
        for name, bits in self._mask.items():
            places = np.flatnonzero(bits.numpy().reshape(-1))
            own, begin = kept[begin : begin + places.size], begin + places.size
            positions, values = found.get(name, (places[:0], own[:0]))
            result[name] = (np.concatenate((positions, places)), np.concatenate((values, own)))
        return result


def adjusted_state(
    state: RoundState,
    adjustment: Adjustment | None,
    gradients: GradientSum | None,
    *,
    representation: Representation,
    mean: Floats | None = None,
    marked_by: Floats | None = None,
    operations: Mapping[str, int] | None = None,
) -> tuple[RoundState, AdjustmentRecord | None]:
    """The state after a round's adjustment of the mask, and what was changed; as it is where there is none.

    Args:
        state: after the round's training, with the mask that was trained.
        adjustment: what was planned.
        gradients: what devices said; None where they were not asked.
        representation: says which weights matter least, and what a weight grows at.
        mean: (state.mask.kept,) of the round's replies.
        marked_by: (state.mask.kept,) what training started from, if it pressed the weights that were marked then: only
            those go. All of them, unless fewer weights come than were to.
        operations: what a weight of each tensor costs, where gradients decide what goes; all the same when None.
    """
    if adjustment is None:
        return state, None
    found = {} if gradients is None else gradients.mean()
    scores = representation.drop_scores(state.kept, mean=mean)
    among, layers = None, state.mask.layer_kept()
    if marked_by is not None:
        counts = [adjustment.goes.get(name, 0) for name in layers]
        among = marked(representation.drop_scores(marked_by), layers=list(layers.values()), counts=counts)
    goes, comes = adjustment.goes, adjustment.comes
    if gradients is not None and gradients.kept:
        own = gradients.kept_mean()
        among = marked(scores, layers=list(layers.values()), counts=[goes.get(name, 0) for name in layers])
        scores = np.abs(own)
        goes, comes = traded_together(
            state.mask, kept=own, gradients=found, among=among, comes=comes, operations=operations
        )
    elif adjustment.together:
        goes = lowest_together(scores, layers=layers, count=adjustment.together)
    mask = adjusted(state.mask, scores=scores, gradients=found, goes=goes, comes=comes, among=among)
    record = AdjustmentRecord(
        block=adjustment.block,
        pruned=_counts(goes, state.mask, without=mask),
        grown=_counts(comes, mask, without=state.mask),
    )
    if mask is state.mask:
        return state, record
    kept = grown_state(state.kept, mask=state.mask, new_mask=mask, gradients=found, representation=representation)
    return replace(state, mask=mask, kept=kept, since=state.round + 1), record


def agreed_state(state: RoundState, adjustment: Adjustment, held: HeldMean) -> tuple[RoundState, AdjustmentRecord]:
    """The state after a round in which each device adjusted its mask, and what was changed.

    Each tensor keeps as many weights as before, those of the largest mean in size; of equal ones the first. What no
    device holds goes (FedDST, Bibikar et al. 2022, arXiv 2112.09824, section 3.2).

    Args:
        state: after the round, with the mask that was sent.
        adjustment: what each device was to change at most.
        held: what they said; at least one of them.
    """
    means, somebody, begin = held.mean(), held.held(), 0
    scores, tensors, counts = np.where(somebody, np.abs(means), np.float32(-1)), {}, state.mask.layer_kept()
    for name, shape in state.mask.shapes.items():
        end = begin + math.prod(shape)
        tensors[name] = torch.from_numpy(scores[begin:end].reshape(shape))
        # Each device holds as many as were kept, so the union has enough.
        assert np.count_nonzero(somebody[begin:end]) >= counts[name], "a device holds too few weights"
        begin = end
    mask = keep_top(tensors, counts)
    record = AdjustmentRecord(
        block=adjustment.block,
        pruned=_counts(adjustment.goes, state.mask, without=mask),
        grown=_counts(adjustment.comes, mask, without=state.mask),
    )
    changed = mask != state.mask
    return replace(
        state,
        mask=mask if changed else state.mask,
        kept=means[mask.flat()],
        since=state.round + 1 if changed else state.since,
    ), record


def _counts(names: Iterable[str], mask: Mask, *, without: Mask) -> dict[str, int]:
    """How many weights of each tensor `mask` keeps and `without` does not."""
    return {name: int(torch.count_nonzero(mask[name] & ~without[name])) for name in names}


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
