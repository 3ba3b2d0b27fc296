"""Gradients that decide what goes as well as what comes, across tensors and by what a weight costs (PruneFL)."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.codec import Floats, Growth, decode_payload, encode_payload
from hedgerow.config import AdjustmentSettings, Experiment, load_experiment
from hedgerow.errors import TooFewRepliesError
from hedgerow.exchange import kept_gradients_section
from hedgerow.ledger import weight_operations
from hedgerow.models import build_model
from hedgerow.pruning import Adjustment, Gradients, Mask, adjusted, adjustment_of, traded_together
from hedgerow.representation import Weights
from hedgerow.server.fleet import Request
from hedgerow.server.growth import adjusted_state
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.state import RoundState
from hedgerow.telemetry import AdjustmentRecord
from tests.device_fleet import Devices
from tests.unit.adjusting import COHORT, KEPT, LIMIT, Growing, Run, kept_positions
from tests.unit.test_adjustment import bits_of, found, mask_of
from tests.unit.test_kept_gradients import floats, summed
from tests.unit.test_rounds import exchange_of, experiment_with, first_state

BY_GRADIENT = {"every": 1, "until": 1, "rate": 1.0, "criterion": "gradient"}
"""In round 1 at most 2 of the 4 weights of `a` go, 2 of the 3 of `b`, and 2 of `a` come; of `b` nothing is pruned."""
PRUNEFL = experiment_with(others={"representation": "weights", "adjustment": BY_GRADIENT})
OF_KEPT = np.array([3, 0.5, -2, 0.25, 0.1, 4, -1], dtype=np.float32)
"""Of `a` at positions 0, 3, 6 and 9, whose pruned 1, 2 and 5 have means of -12/13, 1 and -24/13; of `b` all."""


def traded(
    mask: Mask, kept: Floats, gradients: Gradients, *, may: str, comes: Mapping[str, int], **named: Any
) -> tuple[dict[str, int], dict[str, int]]:
    among = np.array([bit == "1" for bit in may])
    return traded_together(mask, kept=kept, gradients=gradients, among=among, comes=comes, **named)


def test_the_smallest_of_all_tensors_goes_for_the_largest_while_that_is_larger() -> None:
    mask = mask_of(a="1100", b="1100")
    gradients = found(a={2: -2.0, 3: 0.75}, b={2: 0.6})
    # 0.25 of b goes for 4 of a; the next pair would be 1 of a for 0.5625 of a.
    kept, most = floats(1, 3, -0.5, 4), {"a": 2, "b": 2}
    assert traded(mask, kept, gradients, may="1010", comes=most) == ({"b": 1}, {"a": 1})


def test_what_a_weight_costs_divides_its_square() -> None:
    mask = mask_of(a="1100", b="1100")
    gradients = found(a={2: -2.0, 3: 0.75}, b={2: 0.6})
    # Of a 1/16, 9/16, 4/16 and 0.5625/16: 1/16 of a goes for 0.36 of b; 0.25 of b stays, as 4/16 of a is not more.
    kept, most, costs = floats(1, 3, -0.5, 4), {"a": 1, "b": 1}, {"a": 16, "b": 1}
    assert traded(mask, kept, gradients, may="1010", comes=most, operations=costs) == ({"a": 1}, {"b": 1})


def test_no_tensor_gains_more_than_it_may_and_only_what_may_go_goes() -> None:
    mask = mask_of(a="1110", b="11000")
    kept, gradients = floats(0.1, 0.2, 0.3, 1, 5), found(b={2: 9.0, 3: 8.0, 4: 7.0})
    assert traded(mask, kept, gradients, may="11010", comes={"b": 3}) == ({"a": 2, "b": 1}, {"b": 3})
    assert traded(mask, kept, gradients, may="11000", comes={"b": 3}) == ({"a": 2}, {"b": 2})
    assert traded(mask, kept, gradients, may="00110", comes={"b": 3}) == ({"a": 1, "b": 1}, {"b": 2})
    assert traded(mask, kept, gradients, may="11010", comes={"b": 1}) == ({"a": 1}, {"b": 1})
    assert traded(mask, kept, gradients, may="11010", comes={"a": 1}) == ({}, {})
    assert traded(mask, kept, gradients, may="00000", comes={"b": 3}) == ({}, {})


def test_small_gradients_are_compared_too() -> None:
    # In float32 both squares are 0.
    mask, gradients = mask_of(a="110"), found(a={2: 2e-30})
    assert traded(mask, floats(1e-30, 1), gradients, may="10", comes={"a": 1}) == ({"a": 1}, {"a": 1})
    assert traded(mask, floats(0, 1), found(a={2: 0.0}), may="10", comes={"a": 1}) == ({}, {})


@st.composite
def drawn(draw: st.DrawFn) -> tuple[Mask, Floats, Gradients, str, dict[str, int], dict[str, int]]:
    bits = {f"l{i}": draw(st.lists(st.booleans(), min_size=1, max_size=4)) for i in range(draw(st.integers(1, 3)))}
    bits = {name: [True, *own] for name, own in bits.items()}
    mask = Mask({name: torch.tensor(own) for name, own in bits.items()})
    # Few different ones, so that there are ties.
    value = st.sampled_from([0.0, 0.5, -1.0, 2.0, 3.0])
    kept = floats(*draw(st.lists(value, min_size=mask.kept, max_size=mask.kept)))
    gradients = {name: {p: draw(value) for p, bit in enumerate(own) if not bit} for name, own in bits.items()}
    may = ""
    for size in mask.layer_kept().values():
        stays = draw(st.integers(0, size - 1))
        may += "".join("0" if place == stays else draw(st.sampled_from("01")) for place in range(size))
    comes = {name: draw(st.integers(0, 3)) for name in bits}
    costs = {name: draw(st.sampled_from([1, 2, 9])) for name in bits}
    return mask, kept, found(**gradients), may, comes, costs


@given(drawn())
@settings(max_examples=60, deadline=None)
def test_no_mask_within_the_bounds_has_more_importance(
    case: tuple[Mask, Floats, Gradients, str, dict[str, int], dict[str, int]],
) -> None:
    mask, kept, gradients, may, comes, costs = case
    squares, begin = {}, 0
    for name, count in mask.layer_kept().items():
        own = np.zeros(mask[name].numel())
        own[mask[name].numpy()] = kept[begin : begin + count].astype(np.float64) ** 2
        positions, values = gradients[name]
        own[positions] = values.astype(np.float64) ** 2
        squares[name], begin = own / costs[name], begin + count

    among = np.array([bit == "1" for bit in may])
    less, more = traded(mask, kept, gradients, may=may, comes=comes, operations=costs)
    after = adjusted(mask, scores=np.abs(kept), gradients=gradients, goes=less, comes=more, among=among)
    assert after.kept == mask.kept
    assert sum(less.values()) == sum(more.values()) <= np.count_nonzero(among)
    assert not (mask.flat() & ~after.flat())[mask.flat()][~among].any()
    for name in mask:
        assert int(torch.count_nonzero(mask[name] & ~after[name])) == less.get(name, 0)
        assert less.get(name, 0) < mask.layer_kept()[name]
        assert int(torch.count_nonzero(after[name] & ~mask[name])) == more.get(name, 0) <= comes[name]

    best = 0.0
    whole, before = np.concatenate(list(squares.values())), mask.flat()
    owner = np.repeat(np.arange(len(squares)), [own.size for own in squares.values()])
    for places in itertools.combinations(range(whole.size), mask.kept):
        bits = np.zeros(whole.size, dtype=np.bool_)
        bits[list(places)] = True
        won = np.bincount(owner[bits & ~before], minlength=len(costs))
        stayed = bits[before][~among].all()
        if stayed and (won <= list(comes.values())).all():
            best = max(best, float(whole[bits].sum()))
    assert float(whole[after.flat()].sum()) == pytest.approx(best)


def test_each_tensor_may_gain_the_share_of_its_kept_weights_and_lose_as_much() -> None:
    plan = AdjustmentSettings(every=10, until=30, rate=0.3, criterion="gradient")
    mask = mask_of(a="1" * 100 + "0" * 900, whole="1" * 20, one="10", rest="1" * 10 + "0")
    made = [adjustment_of(r, settings=plan, rounds=99, mask=mask) for r in (10, 20, 30, 40)]
    # 0.15 · (1 + cos(π/4)) = 0.2561, then 0.15 and 0.0439, of 100, 20, 1 and 10; `one` keeps its only one.
    assert made == [
        Adjustment(0, 0, goes={"a": 26, "whole": 5, "rest": 3}, comes={"a": 26, "rest": 1}),
        Adjustment(1, 0, goes={"a": 15, "whole": 3, "rest": 2}, comes={"a": 15, "rest": 1}),
        Adjustment(2, 0, goes={"a": 4, "whole": 1}, comes={"a": 4}),
        None,
    ]


def test_a_dense_network_has_nothing_to_trade() -> None:
    plan = AdjustmentSettings(every=1, criterion="gradient")
    assert adjustment_of(1, settings=plan, rounds=9, mask=mask_of(a="1" * 20)) is None


def test_a_weight_costs_the_positions_of_its_layers_output() -> None:
    model = build_model("lenet5", input_shape=(1, 28, 28), classes=10, norm="batch", seed=0)
    counts = list(weight_operations(model, (1, 28, 28)).values())
    # 5×5 windows, the first padded by 2, each before a pool by 2; then three linear layers.
    assert counts == [28 * 28, 10 * 10, 1, 1, 1]


def test_calls_add_up_and_transposed_convolutions_cost_the_positions_of_their_input() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(3, 3)
            self.turned, self.grouped = nn.ConvTranspose2d(2, 5, 2, 2), nn.Conv2d(2, 4, 1, 2, groups=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.twice(torch.relu(self.twice(x)))
            return self.turned(x).sum() + self.grouped(x).sum()  # type: ignore[no-any-return]  # modules return Any

    counts = weight_operations(Odd(), (2, 6, 4))
    assert counts == {"twice.weight": 48, "never.weight": 1, "turned.weight": 24, "grouped.weight": 6}


def test_the_state_follows_the_trade() -> None:
    mask = mask_of(a="1100", b="11")
    state = RoundState(round=3, mask=mask, kept=floats(0.01, 0.02, 5, 6), floats=floats(1))
    gradients = summed(mask, [(found(a={0: 2.0, 1: 3.0, 2: -1.0, 3: 0.5}, b={0: 0.25, 1: 0.125}), 1)])
    adjustment = Adjustment(0, 0, goes={"a": 1, "b": 1}, comes={"a": 2})
    after, record = adjusted_state(state, adjustment, gradients, representation=Weights())
    # Of the smallest weight of each the one of the smaller gradient goes; 6 has a smaller one yet, but is not asked.
    assert bits_of(after.mask) == {"a": "1110", "b": "01"}
    np.testing.assert_array_equal(after.kept, floats(0.01, 0.02, 0, 6))
    assert record == AdjustmentRecord(block=0, pruned={"b": 1}, grown={"a": 1})
    assert (record.exchange, record.balanced) == (False, True)
    dear, _ = adjusted_state(state, adjustment, gradients, representation=Weights(), operations={"a": 20, "b": 1})
    # 1/20 and 0.0625: of b nothing goes, and of a nothing that is smaller than what comes.
    assert dear is state


@dataclass
class Deciding(Growing):
    """Says the gradients of its kept weights too."""

    own: Floats = field(default_factory=lambda: OF_KEPT)
    speechless: frozenset[int] = frozenset()
    experiment: Experiment = PRUNEFL

    def _answer(self, request: Request) -> bytes:
        reply, sections = decode_payload(super()._answer(request), limit=LIMIT)
        if request.node in self.speechless:
            return encode_payload(reply, list(sections.values()))
        said = kept_gradients_section(self.own, wire=self.experiment.wire)
        return encode_payload(reply, [*sections.values(), said])


def decided(fleet: Deciding, *, operations: Mapping[str, int] | None = None) -> Round:
    fleet.speaks = exchange_of(PRUNEFL, fleet.mask)
    return play_round(
        first_state(kept=KEPT, held=dict.fromkeys(range(100, 108), 0)),
        experiment=PRUNEFL,
        exchange=fleet.speaks,
        fleet=fleet,
        observer=Observer(),
        operations=operations,
    )


def test_a_round_moves_weights_from_a_tensor_that_is_whole_to_another() -> None:
    fleet = Deciding(stride=0.0)
    played = decided(fleet)
    assert played.fold.failures == []
    # Squares: 24/13 and 1 come; 0.1 of b and 0.25 of a at 9 go.
    assert kept_positions(played.state.mask) == [0, 2, 3, 5, 6]
    assert kept_positions(played.state.mask, "b.weight") == [1, 2]
    np.testing.assert_array_equal(played.state.kept, floats(0.5, 0, -0.125, 0, 0.25, -1, 1))
    assert played.adjustment == AdjustmentRecord(block=0, pruned={"a.weight": 1, "b.weight": 1}, grown={"a.weight": 2})
    assert {decode_payload(p, limit=LIMIT)[0].growth for p in fleet.asked.values()} == {(Growth(0, 2),)}
    up = played.fold.sections()
    assert (up["gradients/float32"].bytes, up["gradients/float32"].entropy) == (5 * 7 * 4, 5 * 7 * 4)
    assert sum(s.entropy for s in up.values()) == pytest.approx(sum(played.fold.entropies))


def test_weights_that_cost_more_go_first() -> None:
    played = decided(Deciding(stride=0.0), operations={"a.weight": 1, "b.weight": 1000})
    assert kept_positions(played.state.mask) == [0, 2, 3, 5, 6, 9]
    # They are of one size, so the first two may go, with squares of 0.01/1000 and 16/1000.
    assert kept_positions(played.state.mask, "b.weight") == [2]


def test_a_reply_without_the_gradients_of_kept_weights_is_refused_and_changes_nothing() -> None:
    played = decided(Deciding(stride=0.0, speechless=frozenset({103})))
    assert [(f.client, f.kind) for f in played.fold.failures] == [("client-103", "mismatch")]
    other = decided(Deciding(stride=0.0, failing=frozenset({103})))
    assert played.state.mask.digest == other.state.mask.digest
    assert played.fold.clients == set(COHORT) - {103}


def test_a_gradient_of_a_kept_weight_that_cannot_be_summed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # An honest device says nothing as large.
    monkeypatch.setattr("hedgerow.exchange.growth._LARGEST", np.float32(np.inf))
    with pytest.raises(TooFewRepliesError, match="0 of 5 clients") as caught:
        decided(Deciding(stride=0.0, own=np.full(7, 4096, dtype=np.float32)))
    assert "below 4096 is allowed" in str(caught.value)


@pytest.mark.parametrize("up", ["fp32", "uniform"])
def test_real_devices_say_what_decides(up: str) -> None:
    run = Run(
        "weights",
        pruning={"saliency": "random", "rule": "erk", "density": 0.1},
        adjustment={"every": 2, "until": 4, "criterion": "gradient"},
        wire={"down": "bf16", "up": up},
    )
    state, devices = run.first(), Devices(run.workshop, count=3)
    for number in range(1, 6):
        before, played = state, run.play(state, devices)
        state, adjusts = played.state, number in (2, 4)
        assert played.fold.failures == []
        assert state.mask.kept == before.mask.kept
        assert (state.mask != before.mask) == adjusts
        assert (state.mask.layer_kept() != before.mask.layer_kept()) == adjusts
        assert any(label.startswith("gradients") for label in played.fold.sections()) == adjusts
        assert all((m.growth_bytes > 0) == adjusts for m in played.fold.measures)
        if played.adjustment is not None:
            assert played.adjustment.balanced


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"representation": "signs"}, 'representation is "signs"'),
        ({"adjustment": {"every": 0}}, "adjustment.every is 0, so nothing is decided"),
        ({"adjustment": {"by": "devices"}}, 'adjustment.by is "devices"'),
        ({"adjustment": {"density": "cubic", "start_density": 1.0, "until": 4}}, 'adjustment.density is "cubic"'),
        ({"adjustment": {"blocks": 2}}, "adjustment.blocks is 2"),
        ({"adjustment": {"relative": True}}, "adjustment.relative is true"),
        ({"extrusion": {"penalty": 0.1}}, "extrusion.penalty is 0.1"),
        ({"budget": {"plan": True, "levels": [1.0, 0.5]}}, "budget.levels has 2 parts"),
    ],
)
def test_what_gradients_cannot_decide_is_refused(changes: dict[str, dict[str, object]], says: str) -> None:
    good: dict[str, Any] = {"representation": "weights", "adjustment": {"every": 1, "criterion": "gradient"}}
    Experiment.model_validate(good)
    merged = {**good, **changes, "adjustment": {**good["adjustment"], **changes.get("adjustment", {})}}
    with pytest.raises(ValueError, match=says):
        Experiment.model_validate(merged)


def test_the_recipe_decides_by_gradients_and_nothing_else_does() -> None:
    recipe = load_experiment(recipe="prunefl", overrides=[])
    assert (recipe.adjustment.criterion, recipe.first_density, recipe.pruning.density) == ("gradient", 0.05, 0.05)
    assert Experiment().adjustment.criterion == "magnitude"
    same = {"adjustment": {"every": 2, "criterion": "magnitude"}}
    assert Experiment.model_validate(same).digest() == Experiment.model_validate({"adjustment": {"every": 2}}).digest()
