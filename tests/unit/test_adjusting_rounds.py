"""Rounds that change the mask: what is asked and refused, which weights go and come, and what the next round says."""

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec import Growth, decode_payload, encode_payload, has_mask
from hedgerow.config import AdjustmentSettings, Experiment, ExtrusionSettings, load_experiment
from hedgerow.exchange import growth_section
from hedgerow.files import unsealed
from hedgerow.pruning import adjustment_of
from hedgerow.server.fleet import Request
from hedgerow.server.history import MemoryHistory
from hedgerow.server.outgoing import NEW
from hedgerow.server.rounds import Round
from hedgerow.telemetry import AdjustmentRecord
from hedgerow.v1 import payload_pb2 as pb
from tests.device_fleet import FIRST, Devices
from tests.unit.adjusting import (
    ADJUSTMENT,
    COHORT,
    GRADIENTS,
    KEPT,
    LIMIT,
    SIGNS,
    WEIGHTS,
    Growing,
    Run,
    goes_on_where_it_was_killed,
    kept_positions,
)
from tests.unit.test_rounds import (
    EVERYONE,
    MASK,
    InMemoryFleet,
    exchange_of,
    experiment_with,
    first_state,
    play,
    same,
)


def adjusted(fleet: Growing | None = None, *, experiment: Experiment = WEIGHTS, **named: Any) -> Round:
    # Nobody moves a weight, so the gradients decide alone.
    fleet = Growing(stride=0.0) if fleet is None else fleet
    fleet.experiment = experiment
    return play(first_state(kept=KEPT, held=dict.fromkeys(EVERYONE, 0)), fleet, experiment=experiment, **named)


def test_the_smallest_weights_go_and_those_with_the_largest_mean_gradients_come() -> None:
    assert COHORT == [100, 101, 103, 104, 105]
    played = adjusted()
    state = played.state
    assert kept_positions(state.mask) == [0, 2, 5, 6]
    assert torch.equal(state.mask["b.weight"], MASK["b.weight"])
    np.testing.assert_array_equal(state.kept, np.array([0.5, 0, 0, 0.25, 1, -1, 1], dtype=np.float32))
    assert state.since == 2
    assert state.held == {**dict.fromkeys(EVERYONE, 0), **dict.fromkeys(COHORT, 1)}
    assert played.adjustment == AdjustmentRecord(block=0, pruned={"a.weight": 2}, grown={"a.weight": 2})
    assert state.mask.layer_kept() == MASK.layer_kept()


def test_requests_ask_for_as_many_gradients_as_are_exchanged() -> None:
    fleet = Growing(stride=0.0)
    adjusted(fleet)
    for payload in fleet.asked.values():
        assert decode_payload(payload, limit=LIMIT)[0].growth == (Growth(0, 2),)


def test_with_a_penalty_those_go_that_were_marked_before_the_round() -> None:
    pressing = WEIGHTS.model_copy(update={"extrusion": ExtrusionSettings(penalty=0.1)})
    fleet = Growing(experiment=pressing)
    played = adjusted(fleet, experiment=pressing)
    # Of 0.5, -0.125, 0.25 and -0.0625 at 0, 3, 6 and 9, whatever training makes of them.
    assert kept_positions(played.state.mask) == [0, 2, 5, 6]
    assert kept_positions(adjusted(Growing()).state.mask) != [0, 2, 5, 6]
    for payload in fleet.asked.values():
        assert decode_payload(payload, limit=LIMIT)[0].growth == (Growth(0, 2, 2),)


def test_a_density_that_falls_prunes_without_asking_for_gradients() -> None:
    falling = experiment_with(
        others={
            "representation": "weights",
            "pruning": {"density": 0.3, "rule": "uniform", "saliency": "random"},
            "adjustment": {"every": 1, "until": 2, "density": "cubic", "start_density": 0.47},
        }
    )
    fleet = InMemoryFleet(stride=0.0, speaks=exchange_of(falling))
    played = play(first_state(kept=KEPT), fleet, experiment=falling)
    # 0.3 + 0.17 / 8 of 15 are 5: 4 of `a`, which has them, and 1 of `b`.
    assert played.state.mask.layer_kept() == {"a.weight": 4, "b.weight": 1}
    assert played.adjustment == AdjustmentRecord(block=0, pruned={"b.weight": 2}, grown={})
    # Of equal ones the last stays.
    np.testing.assert_array_equal(played.state.kept, [*KEPT[:4], 1])
    assert played.state.since == 2
    assert {decode_payload(payload, limit=LIMIT)[0].growth for payload in fleet.asked.values()} == {()}


def test_signs_of_the_least_decided_votes_go_and_others_come_against_the_gradient() -> None:
    plain = play(first_state(), InMemoryFleet())
    votes = np.abs(plain.state.kept[:4])
    assert np.sort(votes)[1] < np.sort(votes)[2]
    fleet = Growing(experiment=SIGNS)
    played = play(first_state(), fleet, experiment=SIGNS)
    stays = np.sort(np.argsort(votes, kind="stable")[2:])
    positions = kept_positions(played.state.mask)
    assert positions == sorted([2, 5, *(np.array([0, 3, 6, 9])[stays]).tolist()])
    theta = dict(zip(positions, played.state.kept[:4].tolist(), strict=True))
    # Gradients of 1 and -24/13; signs.initial_vote is 0.2.
    assert theta[2] == pytest.approx(-0.2)
    assert theta[5] == pytest.approx(0.2)
    assert [theta[p] for p in positions if p not in (2, 5)] == plain.state.kept[stays].tolist()
    np.testing.assert_array_equal(played.state.kept[4:], plain.state.kept[4:])
    assert played.state.since == 2


def test_the_recipe_of_all_pieces_exchanges_what_votes_leave_undecided() -> None:
    changes = [("representation", "signs"), ("adjustment.every", 3), ("fleet.clients", 8), ("fleet.cohort", 5)]
    recipe = load_experiment(recipe="hedgerow", overrides=changes)
    still = recipe.model_copy(update={"adjustment": AdjustmentSettings()})
    plain = play(first_state(kept=KEPT), InMemoryFleet(), experiment=still)
    votes = np.abs(plain.state.kept[:4])
    assert votes.tolist() != np.abs(KEPT[:4]).tolist(), "votes move what they are about"
    assert np.sort(votes)[1] < np.sort(votes)[2]
    moving = recipe.model_copy(update={"adjustment": AdjustmentSettings.model_validate(ADJUSTMENT)})
    played = play(first_state(kept=KEPT), Growing(experiment=moving), experiment=moving)
    assert (recipe.representation, recipe.adjustment.every > 0) == ("signs", True)
    stays = np.sort(np.argsort(votes, kind="stable")[2:])
    positions = kept_positions(played.state.mask)
    assert positions == sorted([2, 5, *(np.array([0, 3, 6, 9])[stays]).tolist()])
    theta = dict(zip(positions, played.state.kept[:4].tolist(), strict=True))
    # Gradients of 1 and -24/13.
    assert (theta[2], theta[5]) == (pytest.approx(-0.2), pytest.approx(0.2))
    assert [theta[p] for p in positions if p not in (2, 5)] == plain.state.kept[stays].tolist()


def test_a_reply_without_gradients_is_refused_and_counted() -> None:
    silent = frozenset({103})
    played = adjusted(Growing(stride=0.0, silent=silent))
    assert [(f.client, f.kind) for f in played.fold.failures] == [("client-103", "mismatch")]
    assert played.fold.clients == set(COHORT) - silent
    other = adjusted(Growing(stride=0.0, failing=silent))
    assert played.state.mask.digest == other.state.mask.digest
    np.testing.assert_array_equal(played.state.kept, other.state.kept)
    np.testing.assert_array_equal(played.state.floats, other.state.floats)


def test_gradients_that_nobody_asked_for_are_refused() -> None:
    class Eager(InMemoryFleet):
        def _answer(self, request: Request) -> bytes:
            reply, sections = decode_payload(super()._answer(request), limit=LIMIT)
            found = {"a.weight": (np.array([1]), np.array([1.0], dtype=np.float32))}
            said = growth_section(found, mask=MASK, growth=(Growth(0, 2),), wire=WEIGHTS.wire)
            whole = [*sections.values(), said] if request.node == 103 else [*sections.values()]
            return encode_payload(reply, whole)

    played = play(first_state(), Eager())
    assert [(f.client, f.kind) for f in played.fold.failures] == [("client-103", "mismatch")]


@pytest.mark.parametrize("value", [np.float32(4096), -1e30])
def test_a_gradient_that_cannot_be_summed_is_refused_and_changes_nothing(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An honest device says nothing as large.
    monkeypatch.setattr("hedgerow.exchange.growth._LARGEST", np.float32(np.inf))
    gradients = {**GRADIENTS, 104: {2: value}}
    played = adjusted(Growing(stride=0.0, gradients=gradients))
    assert [(f.client, f.kind) for f in played.fold.failures] == [("client-104", "bounds")]
    other = adjusted(Growing(stride=0.0, failing=frozenset({104})))
    assert played.state.mask.digest == other.state.mask.digest
    np.testing.assert_array_equal(played.state.kept, other.state.kept)


def test_as_many_go_as_have_a_gradient() -> None:
    one = adjusted(Growing(stride=0.0, gradients={node: {7: 1.0} if node == 101 else {} for node in COHORT}))
    assert kept_positions(one.state.mask) == [0, 3, 6, 7]
    assert one.adjustment == AdjustmentRecord(block=0, pruned={"a.weight": 1}, grown={"a.weight": 1})
    none = adjusted(Growing(stride=0.0, gradients={node: {} for node in COHORT}))
    assert none.state.mask is MASK
    assert none.state.since == 1
    assert none.adjustment == AdjustmentRecord(block=0, pruned={"a.weight": 0}, grown={"a.weight": 0})
    np.testing.assert_array_equal(none.state.kept, KEPT)


@given(
    st.fixed_dictionaries(
        {
            node: st.dictionaries(
                st.sampled_from([p for p in range(12) if p % 3]),
                st.floats(-100, 100, width=16).filter(bool),
                max_size=2,
            )
            for node in COHORT
        }
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_devices_say_every_tensor_keeps_as_many_weights(gradients: dict[int, dict[int, float]]) -> None:
    played = adjusted(Growing(stride=0.0, gradients=gradients))
    state = played.state
    assert state.mask.layer_kept() == MASK.layer_kept()
    assert played.adjustment is not None
    comes = set(kept_positions(state.mask)) - set(kept_positions(MASK))
    assert played.adjustment.grown == played.adjustment.pruned == {"a.weight": len(comes)}
    assert comes <= {position for own in gradients.values() for position in own}
    assert 0 in kept_positions(state.mask), "the largest weight stays"
    assert state.since == (2 if comes else 1)


@pytest.mark.parametrize("count", range(6))
def test_a_round_that_adjusts_goes_on_where_it_was_killed_with_the_same_mask(count: int, tmp_path: Path) -> None:
    goes_on_where_it_was_killed(adjusted, functools.partial(Growing, stride=0.0), count=count, folder=tmp_path)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("experiment", [WEIGHTS, SIGNS])
def test_the_order_of_replies_changes_no_bit_of_the_mask(experiment: Experiment, seed: int) -> None:
    random = np.random.default_rng(seed)
    positions = [p for p in range(12) if p % 3]
    gradients = {n: dict.fromkeys(random.choice(positions, 2, replace=False).tolist(), 1 / 3) for n in COHORT}

    def shuffled(requests: list[Request]) -> list[Request]:
        return [requests[i] for i in random.permutation(len(requests))]

    plain = adjusted(Growing(gradients=gradients), experiment=experiment)
    other = adjusted(Growing(gradients=gradients, order=shuffled), experiment=experiment)
    assert other.state.mask.digest == plain.state.mask.digest
    assert same(other, plain)


def test_the_bytes_of_gradients_are_counted_by_kind() -> None:
    played = adjusted()
    up = played.fold.sections()
    assert sorted(up) == ["counts/float32", "floats/float32", "top_k/float32", "weights/float32"]
    # 5 replies of two values of 4 bytes among 8 pruned weights, H(2/8) = 0.8112781 bits.
    assert up["top_k/float32"].entropy == pytest.approx(5 * (2 * 4 + 8 * 0.8112781 / 8), rel=1e-6)
    assert up["top_k/float32"].entropy <= up["top_k/float32"].bytes
    assert sum(s.entropy for s in up.values()) == pytest.approx(sum(played.fold.entropies))


@pytest.mark.parametrize("representation", ["weights", "signs"])
def test_the_next_round_tells_the_change_to_who_holds_the_old_mask_and_the_whole_to_others(representation: str) -> None:
    run = Run(representation)
    history, devices = MemoryHistory(most=8), Devices(run.workshop, count=3)
    first = run.play(run.first(), devices, history=history)
    assert first.adjustment is None
    second = run.play(first.state, devices, history=history)
    state, old = second.state, first.state.mask
    planned = adjustment_of(2, settings=run.experiment.adjustment, rounds=run.experiment.rounds, mask=old)
    assert planned is not None
    assert second.adjustment == AdjustmentRecord(block=0, pruned=dict(planned.goes), grown=dict(planned.comes))
    assert state.since == 3
    assert state.mask.layer_kept() == old.layer_kept()
    for name in old:
        moved = int(torch.count_nonzero(state.mask[name] & ~old[name]))
        assert moved == planned.goes.get(name, 0), name

    # One device lost what it had.
    lost = FIRST + 2
    devices.states.pop(lost)
    third = run.play(replace(state, held={n: v for n, v in state.held.items() if n != lost}), devices, history=history)
    for node, payload in devices.asked[2].items():
        header, sections = decode_payload(payload, limit=LIMIT)
        assert header.mask_digest == state.mask.digest
        assert has_mask(sections) == (node == lost)
        assert (pb.KIND_MASK_DELTA in sections) == (node != lost)
        assert header.base == (0 if node == lost else 2)
    assert third.bases == Counter({2: 2, NEW: 1})
    assert third.fold.clients == set(devices.states)
    assert third.fold.failures == []

    exchange = run.bench.exchange
    version = exchange.version(
        3, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
    )
    for node, held in devices.states.items():
        payload = unsealed(held.version) or b""
        header, sections = decode_payload(payload, limit=LIMIT)
        layers = list(state.mask.layer_kept().values())
        found = exchange.decode(sections, round=3, mask_digest=header.mask_digest, base=None, layers=layers)
        assert (found.kept.tobytes(), found.floats.tobytes()) == (version.kept.tobytes(), version.floats.tobytes())
        header, sections = decode_payload(held.mask, limit=LIMIT)
        assert exchange.decode_mask(sections).digest == state.mask.digest, node


@pytest.mark.parametrize("representation", ["weights", "signs"])
def test_how_devices_are_told_of_a_new_mask_changes_no_bit(representation: str) -> None:
    run = Run(representation)
    told = whole = run.first()
    history, devices, strangers = MemoryHistory(most=8), Devices(run.workshop, count=3), Devices(run.workshop, count=3)
    blocks = []
    for _ in range(5):
        played = run.play(told, devices, history=history)
        told, whole = played.state, run.play(replace(whole, held={}), strangers).state
        blocks += [] if played.adjustment is None else [played.adjustment.block]
        assert told.mask.digest == whole.mask.digest
        assert (told.kept.tobytes(), told.floats.tobytes()) == (whole.kept.tobytes(), whole.floats.tobytes())
        assert told.since == whole.since
    assert blocks == [0, 1], "another block each time"


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_real_devices_follow_a_density_that_falls_and_press_what_goes(penalty: float) -> None:
    run = Run(
        "weights",
        pruning={"saliency": "random", "rule": "uniform", "density": 0.05},
        adjustment={"every": 1, "until": 2, "density": "cubic", "start_density": 0.1},
        extrusion={"penalty": penalty},
    )
    state, devices = run.first(), Devices(run.workshop, count=3)
    kept = [state.mask.kept]
    for _ in range(3):
        played = run.play(state, devices)
        assert played.fold.failures == []
        assert sorted(played.fold.sections()) == ["counts/float32", "floats/float32", "weights/float32"]
        state = played.state
        kept.append(state.mask.kept)
    # 0.1, then 0.05 + 0.05 / 8, then 0.05.
    size = state.mask.size
    assert kept == [round(size * density) for density in (0.1, 0.05625, 0.05, 0.05)]
    growth = [decode_payload(next(iter(asked.values())), limit=LIMIT)[0].growth for asked in devices.asked]
    marks = [sum(said.marked for said in asked) for asked in growth]
    assert marks == ([kept[0] - kept[1], kept[1] - kept[2], 0] if penalty else [0, 0, 0])
    assert not any(said.count for asked in growth for said in asked)
