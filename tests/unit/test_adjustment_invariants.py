"""What holds for every adjustment of a mask, whoever replies and whatever they say.

Each property fails for a mutant: with `goes` pruned whatever comes (densities), with gradients of kept positions let in
(nothing goes and comes at once), without limbs (order of replies), with trained scores in place of the start (marks).
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.codec import Floats, Growth
from hedgerow.config import AdjustmentSettings, AggregationSettings, SignSettings, WireSettings
from hedgerow.exchange import growth_of
from hedgerow.pruning import Adjustment, Mask, marked, prunable_tensors
from hedgerow.representation import Representation, Signs, Weights
from hedgerow.server.growth import GradientSum, adjusted_state
from hedgerow.server.state import RoundState
from hedgerow.sparse import scatter_kept
from hedgerow.telemetry import AdjustmentRecord
from tests.unit.test_adjustment import Found

WEIGHTS: list[Representation] = [Weights(), *(Weights(wire=WireSettings(down=down)) for down in ("bf16", "uniform"))]
SIGNS: list[Representation] = [
    Signs(SignSettings(drop=drop), AggregationSettings(signs="drift", levels=levels))
    for drop in ("theta", "margin", "both")
    for levels in (3, 5, 16)
]
VALUES = [0.0, -0.0, 0.5, -0.5, 1.0, -2.0, 1e-30, 1 / 3]


class Case:
    """A round's end: state, plan, and for each device its samples and gradients."""

    def __init__(
        self,
        state: RoundState,
        adjustment: Adjustment,
        replies: list[tuple[int, Found]],
        representation: Representation,
        *,
        mean: Floats,
        start: Floats,
    ) -> None:
        self.state, self.adjustment, self.replies, self.representation = state, adjustment, replies, representation
        self.mean, self.start = mean, start

    @property
    def growth(self) -> tuple[Growth, ...]:
        return growth_of(self.adjustment.comes, mask=self.state.mask)

    def adjusted(
        self, replies: list[tuple[int, Found]], *, pressed: bool = False
    ) -> tuple[RoundState, AdjustmentRecord]:
        gradients = GradientSum(self.state.mask, self.growth) if self.growth else None
        for weight, found in replies:
            assert gradients is not None
            gradients.check(found)
            gradients.add(found, weight=weight)
        state, record = adjusted_state(
            self.state,
            self.adjustment,
            gradients,
            representation=self.representation,
            mean=self.mean,
            marked_by=self.start if pressed else None,
        )
        assert record is not None
        return state, record


@st.composite
def cases(draw: st.DrawFn, *, pressed: bool = False) -> Case:
    bits = {}
    for tensor in range(draw(st.integers(1, 3))):
        size = draw(st.integers(2, 16))
        # At least one is kept, at least one is pruned.
        kept = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size - 1))
        bits[f"l{tensor}.weight"] = torch.tensor([[place in kept for place in range(size)]])
    mask = Mask(bits)
    representation = draw(st.sampled_from(WEIGHTS if pressed else WEIGHTS + SIGNS))
    vectors = [
        np.array(draw(st.lists(st.sampled_from(VALUES), min_size=mask.kept, max_size=mask.kept)), dtype=np.float32)
        for _ in range(3)
    ]
    counts = {}
    for name, kept_of in mask.layer_kept().items():
        most = min(kept_of - 1, bits[name].numel() - kept_of)
        if most > 0:
            counts[name] = draw(st.integers(1, most))
    adjustment = Adjustment(0, 0, goes=counts, comes=counts)
    replies = []
    for _ in range(draw(st.integers(0, 4)) if counts else 0):
        found = {}
        for name, count in counts.items():
            pruned = np.flatnonzero(~bits[name].numpy().reshape(-1)).tolist()
            at = sorted(draw(st.sets(st.sampled_from(pruned), max_size=count)))
            values = draw(st.lists(st.sampled_from(VALUES), min_size=len(at), max_size=len(at)))
            found[name] = (np.array(at, dtype=np.int64), np.array(values, dtype=np.float32))
        replies.append((draw(st.integers(1, 9)), found))
    state = RoundState(
        round=3, mask=mask, kept=np.clip(vectors[0], -1, 1), floats=np.zeros(0, dtype=np.float32), since=2
    )
    mean = np.clip(vectors[1], -1, 1)
    return Case(state, adjustment, replies, representation, mean=mean, start=vectors[2])


def weights_of(vector: Floats, mask: Mask) -> dict[str, np.ndarray]:
    """Those of the dense network, in which something else was before."""
    layers = {name.removesuffix(".weight"): nn.Linear(shape[1], 1, bias=False) for name, shape in mask.shapes.items()}
    model = nn.Sequential(OrderedDict(layers))
    scatter_kept(model, mask, vector)
    return {name: weight.detach().numpy().reshape(-1) for name, weight in prunable_tensors(model).items()}


@given(cases())
@settings(max_examples=60, deadline=None)
def test_densities_are_exact_and_nothing_goes_and_comes_at_once(case: Case) -> None:
    old = case.state.mask
    state, record = case.adjusted(case.replies)
    assert state.mask.layer_kept() == old.layer_kept()
    assert record.pruned == record.grown
    for name, kept in state.mask.layer_kept().items():
        before, after = old[name].numpy(), state.mask[name].numpy()
        went, came = int(np.count_nonzero(before & ~after)), int(np.count_nonzero(after & ~before))
        assert went == came == record.pruned.get(name, 0) <= case.adjustment.goes.get(name, 0)
        assert kept >= 1
    changed = sum(record.pruned.values()) > 0
    assert (state.mask is old) != changed
    assert (state.since == case.state.since) != changed


@given(cases(), st.data())
@settings(max_examples=50, deadline=None)
def test_the_order_of_replies_and_those_that_are_missing_change_no_bit(case: Case, data: st.DataObject) -> None:
    usable = [reply for reply in case.replies if data.draw(st.booleans())]
    first, again = case.adjusted(usable)[0], case.adjusted(data.draw(st.permutations(usable)))[0]
    assert first.mask.digest == again.mask.digest
    assert first.kept.tobytes() == again.kept.tobytes()
    assert first.mask.layer_kept() == case.state.mask.layer_kept()


@given(cases())
@settings(max_examples=30, deadline=None)
def test_without_a_gradient_nothing_changes(case: Case) -> None:
    silent = [(weight, {name: (p[:0], v[:0]) for name, (p, v) in found.items()}) for weight, found in case.replies]
    for replies in ([], silent):
        state, record = case.adjusted(replies)
        assert state is case.state
        assert record.weights == 0


@given(cases())
@settings(max_examples=60, deadline=None)
def test_what_grows_starts_at_0_or_against_its_gradient_also_where_it_is_read(case: Case) -> None:
    old = case.state.mask
    state, _ = case.adjusted(case.replies)
    representation = case.representation
    read = representation.start(representation.publish(state.kept, layers=[state.kept.size]))
    ours, theirs, before = (
        weights_of(state.kept, state.mask),
        weights_of(read, state.mask),
        weights_of(case.state.kept, old),
    )
    for name in old:
        was, now = old[name].numpy().reshape(-1), state.mask[name].numpy().reshape(-1)
        stays, came = was & now, now & ~was
        np.testing.assert_array_equal(ours[name][stays], before[name][stays])
        assert not ours[name][~now].any()
        assert not theirs[name][~now].any()
        total = np.zeros(now.size)
        for weight, found in case.replies:
            positions, values = found.get(name, (np.zeros(0, dtype=np.int64), np.zeros(0)))
            total[positions] += weight * values.astype(np.float64)
        if isinstance(representation, Weights):
            assert not ours[name][came].any()
            assert not theirs[name][came].any()
        else:
            np.testing.assert_array_equal(np.sign(ours[name][came]), -np.sign(total[came]))
            np.testing.assert_array_equal(np.where(theirs[name][came] >= 0, 1, -1), -np.sign(total[came]))


@given(cases(pressed=True))
@settings(max_examples=50, deadline=None)
def test_only_what_was_marked_before_the_round_goes(case: Case) -> None:
    old, layers = case.state.mask, case.state.mask.layer_kept()
    state, record = case.adjusted(case.replies, pressed=True)
    assert state.mask.layer_kept() == layers
    counts = [case.adjustment.goes.get(name, 0) for name in layers]
    # As a device reckons it, from what the version says.
    bits = marked(np.abs(case.start), layers=list(layers.values()), counts=counts)
    for (name, kept), count, own in zip(
        layers.items(), counts, np.split(bits, np.cumsum(list(layers.values()))[:-1]), strict=True
    ):
        went = np.flatnonzero((old[name] & ~state.mask[name]).numpy().reshape(-1))
        places = np.flatnonzero(old[name].numpy().reshape(-1))
        assert set(went) <= set(places[own])
        if record.pruned.get(name, 0) == count:
            assert set(went) == set(places[own])
        assert kept == len(places)


@given(cases())
@settings(max_examples=40, deadline=None)
def test_what_only_goes_goes_whatever_anybody_says(case: Case) -> None:
    goes = Adjustment(0, 0, goes=case.adjustment.goes, comes={})
    state, record = adjusted_state(case.state, goes, None, representation=case.representation, mean=case.mean)
    assert record is not None
    for name, kept in case.state.mask.layer_kept().items():
        assert state.mask.layer_kept()[name] == kept - case.adjustment.goes.get(name, 0) >= 1
    assert record.pruned == case.adjustment.goes
    assert record.grown == {}
    assert state.kept.shape == (state.mask.kept,)


def test_a_schedule_without_adjustments_changes_nothing() -> None:
    assert AdjustmentSettings().every == 0
    mask = Mask({"a": torch.tensor([True, False])})
    state = RoundState(round=1, mask=mask, kept=np.ones(1, dtype=np.float32), floats=np.zeros(0, dtype=np.float32))
    assert adjusted_state(state, None, None, representation=Weights()) == (state, None)
