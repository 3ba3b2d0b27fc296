"""Devices that adjust their masks themselves: what replies may say, what becomes of them, and what devices do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.assembly import dataset_of, model_of, network_of
from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.client.readjusting import first_steps
from hedgerow.client.training import Trained, joined, step_count, train
from hedgerow.codec import Growth, Section, decode_payload, encode_payload
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.config import Experiment, WeightSettings, load_experiment
from hedgerow.data import Samples
from hedgerow.errors import ConfigError, PayloadError
from hedgerow.exchange import Measures, own_mask_section, read_own_mask
from hedgerow.privacy import seeded_words
from hedgerow.pruning import Mask, Moves, initial_mask
from hedgerow.server.aggregation import FloatMean, HeldMean
from hedgerow.server.fleet import Request
from hedgerow.server.history import MemoryHistory
from hedgerow.server.rounds import Round
from hedgerow.sparse import KeptNetwork, read_vector
from hedgerow.telemetry import AdjustmentRecord
from hedgerow.v1 import payload_pb2 as pb
from tests.device_fleet import Devices
from tests.unit.adjusting import ADJUSTMENT as HALF
from tests.unit.adjusting import COHORT, KEPT, LIMIT, Run, goes_on_where_it_was_killed, kept_positions
from tests.unit.test_rounds import (
    EVERYONE,
    FLOATS,
    MASK,
    InMemoryFleet,
    exchange_of,
    experiment_with,
    first_state,
    play,
    same,
)

ADJUSTMENT = {**HALF, "by": "devices"}
"""In round 1 each device may exchange 2 of the 4 weights of `a`; of `b` nothing is pruned."""
OWN = experiment_with(others={"representation": "weights", "adjustment": ADJUSTMENT})
PLAIN = experiment_with(others={"representation": "weights", "adjustment": ADJUSTMENT, "wire": {"coder": "plain"}})
SAMPLES = {100: 1, 101: 2, 103: 4, 104: 5, 105: 1}

Values = Mapping[int, float]
"""Of `a` by position; who has a position holds it."""
B = [1.0, -1.0, 1.0]
SAID: dict[int, Values] = {
    100: {0: 0.5, 3: -0.125, 6: 0.25, 9: -0.0625},
    101: {0: 0.5, 1: 1, 6: 0.25, 9: 0.5},
    103: {0: 0.25, 2: -2, 3: 0.125, 6: 0.5},
    104: {0: 0.5, 1: -1, 2: -1, 6: 0.25},
    105: {0: 0.5, 3: 1, 6: 1, 9: 0},
}


def mask_of(positions: Any, *, b: list[bool] | None = None) -> Mask:
    bits = torch.zeros(12, dtype=torch.bool)
    bits[torch.tensor(sorted(positions), dtype=torch.int64)] = True
    return Mask({"a.weight": bits.view(3, 4), "b.weight": torch.tensor([[True] * 3 if b is None else b])})


@dataclass
class Choosing(InMemoryFleet):
    """Says these values of `a`, under the masks that they make."""

    said: Mapping[int, Values] = field(default_factory=lambda: SAID)
    masks: Mapping[int, Mask] = field(default_factory=dict)
    change: Callable[[int, list[Section]], list[Section]] = lambda node, sections: sections

    def _answer(self, request: Request) -> bytes:
        header, _ = decode_payload(request.payload, limit=LIMIT)
        plain = super()._answer(request)
        if not header.growth:
            return plain
        node, speaks = request.node, self.speaks
        own = self.masks.get(node) or mask_of(self.said[node])
        values = [value for _, value in sorted(self.said[node].items())] + B
        layers = list(own.layer_kept().values())
        version = speaks.carried(self.remembered[node], Moves.between(MASK, own), mask_digest=own.digest)
        kept, floats = speaks.reply(
            np.resize(np.array(values, dtype=np.float32), own.kept),
            FLOATS,
            version=version,
            layers=layers,
            memory=(None, None),
            generator=np.random.default_rng(node),
            draw=seeded_words(np.random.default_rng(node)),
        )
        measures = Measures.read(decode_payload(plain, limit=LIMIT)[1])
        mask = own_mask_section(own, sent=MASK, exchange=speaks)
        sections = [kept.section, floats.section, measures.section(), mask]
        return encode_payload(header.of_reply(), self.change(node, sections))


def adjusted(fleet: Choosing | None = None, *, experiment: Experiment = OWN, **named: Any) -> Round:
    state = first_state(kept=KEPT, held=dict.fromkeys(EVERYONE, 0))
    return play(state, Choosing() if fleet is None else fleet, experiment=experiment, **named)


@pytest.mark.parametrize("experiment", [OWN, PLAIN])
def test_each_weight_is_the_mean_of_those_who_hold_it_and_the_largest_stay(experiment: Experiment) -> None:
    assert {node: node % 5 + 1 for node in COHORT} == SAMPLES
    played = adjusted(experiment=experiment)
    assert played.fold.failures == []
    # Of 3 it is 1.375/6 and of 9 0.9375/4, both below 5/13.
    assert kept_positions(played.state.mask) == [0, 1, 2, 6]
    expected = np.array([5.5 / 13, -3 / 7, -13 / 9, 5 / 13, *B], dtype=np.float32)
    np.testing.assert_array_equal(played.state.kept, expected)
    assert played.adjustment == AdjustmentRecord(block=0, pruned={"a.weight": 2}, grown={"a.weight": 2})
    assert played.state.since == 2
    labels = {label.split("/")[0] for label in played.fold.sections()}
    assert sorted(labels) == ["counts", "floats", "mask" if experiment is PLAIN else "mask_delta", "weights"]
    assert played.fold.gradients is None


def test_a_weight_that_no_device_holds_goes_however_large_it_was() -> None:
    # Everybody leaves 0, where the weight was the largest, for 1, where it is still 0.
    played = adjusted(Choosing(said={node: {1: 0, 3: 0.5, 6: 0.25, 9: 0.125} for node in COHORT}))
    assert kept_positions(played.state.mask) == [1, 3, 6, 9]
    np.testing.assert_array_equal(played.state.kept, np.array([0, 0.5, 0.25, 0.125, *B], dtype=np.float32))


def test_of_equal_means_the_first_stay() -> None:
    played = adjusted(
        Choosing(said={n: dict.fromkeys((0, 3, 7, 8) if n == 104 else (0, 3, 6, 9), 1.0) for n in COHORT})
    )
    assert kept_positions(played.state.mask) == [0, 3, 6, 7]


def test_devices_that_keep_the_mask_leave_it_as_it_is() -> None:
    played = adjusted(Choosing(said=dict.fromkeys(COHORT, SAID[100])))
    assert played.state.mask is MASK
    assert played.state.since == 1
    assert played.adjustment == AdjustmentRecord(block=0, pruned={"a.weight": 0}, grown={"a.weight": 0})
    np.testing.assert_array_equal(played.state.kept, KEPT)


LIES = {
    "more than were asked for": mask_of([0, 1, 2, 4]),
    "more come than went": mask_of([0, 3, 6, 9, 10]),
    "more go than come": mask_of([0, 3, 6]),
    "a tensor that was not asked for": mask_of([0, 3, 6, 9], b=[True, False, True]),
}


@pytest.mark.parametrize("experiment", [OWN, PLAIN])
@pytest.mark.parametrize("lie", LIES)
def test_a_mask_that_is_none_of_the_allowed_ones_is_refused_and_changes_nothing(
    lie: str, experiment: Experiment
) -> None:
    played = adjusted(Choosing(masks={104: LIES[lie]}), experiment=experiment)
    assert [(f.client, f.kind) for f in played.fold.failures] == [("client-104", "bounds")]
    other = adjusted(Choosing(failing=frozenset({104})), experiment=experiment)
    assert played.state.mask.digest == other.state.mask.digest
    assert played.state.kept.tobytes() == other.state.kept.tobytes()
    assert played.state.floats.tobytes() == other.state.floats.tobytes()


def test_a_mask_under_which_the_values_do_not_fit_is_refused() -> None:
    def swapped(node: int, sections: list[Section]) -> list[Section]:
        return [replace(s, data=s.data[:-4], count=s.count - 1) if s.kind == pb.KIND_WEIGHTS else s for s in sections]

    played = adjusted(Choosing(change=lambda node, found: swapped(node, found) if node == 104 else found))
    assert [f.client for f in played.fold.failures] == ["client-104"]


def test_a_reply_without_a_mask_or_with_a_damaged_one_is_refused() -> None:
    def without(node: int, sections: list[Section]) -> list[Section]:
        if node == 103:
            return sections[:3]
        return [*sections[:3], replace(sections[3], data=sections[3].data + b"\0")] if node == 104 else sections

    played = adjusted(Choosing(change=without))
    assert sorted(f.client for f in played.fold.failures) == ["client-103", "client-104"]
    other = adjusted(Choosing(failing=frozenset({103, 104})))
    assert played.state.mask.digest == other.state.mask.digest
    assert played.state.kept.tobytes() == other.state.kept.tobytes()


def test_a_mask_in_a_round_that_does_not_adjust_is_refused() -> None:
    class Eager(InMemoryFleet):
        def _answer(self, request: Request) -> bytes:
            reply, sections = decode_payload(super()._answer(request), limit=LIMIT)
            said = own_mask_section(mask_of([0, 1, 6, 9]), sent=MASK, exchange=self.speaks)
            return encode_payload(reply, [*sections.values(), *([said] if request.node == 103 else [])])

    later = experiment_with(others={"representation": "weights", "adjustment": {**ADJUSTMENT, "every": 2, "until": 2}})
    played = play(first_state(), Eager(), experiment=later)
    assert [(f.client, f.kind) for f in played.fold.failures] == [("client-103", "mismatch")]


def bits_of(positions: set[int]) -> PackedBits:
    return PackedBits.from_bools(np.isin(np.arange(15), sorted(positions)))


@given(st.binary(max_size=12) | st.sets(st.integers(0, 14)).map(lambda ones: bits_of(ones).data.tobytes()))
@settings(max_examples=150, deadline=None)
def test_whatever_bytes_say_a_mask_comes_out_that_is_allowed_or_none(data: bytes) -> None:
    exchange = exchange_of(OWN)
    section = Section(pb.KIND_MASK_DELTA, pb.CODEC_BITS, 15, 0, data)
    try:
        own = read_own_mask({section.kind: section}, sent=MASK, growth=(Growth(0, 2),), exchange=exchange)
    except PayloadError:
        return
    assert own.layer_kept() == MASK.layer_kept()
    assert torch.equal(own["b.weight"], MASK["b.weight"])
    assert Moves.between(MASK, own).grown <= 2


PRUNED = [p for p in range(12) if p % 3]
number = st.floats(-100, 100, width=16)


@st.composite
def one_device(draw: st.DrawFn) -> Values:
    count = draw(st.integers(0, 2))
    goes = draw(st.lists(st.sampled_from([0, 3, 6, 9]), min_size=count, max_size=count, unique=True))
    comes = draw(st.lists(st.sampled_from(PRUNED), min_size=count, max_size=count, unique=True))
    return {position: draw(number) for position in sorted({0, 3, 6, 9} - set(goes) | set(comes))}


@given(st.fixed_dictionaries({node: one_device() for node in COHORT}), st.permutations(range(5)))
@settings(max_examples=60, deadline=None)
def test_whatever_devices_hold_counts_are_exact_and_their_order_changes_no_bit(
    said: dict[int, Values], order: list[int]
) -> None:
    played = adjusted(Choosing(said=said))
    assert played.fold.failures == []
    state = played.state
    assert state.mask.layer_kept() == MASK.layer_kept()
    other = adjusted(Choosing(said=said, order=lambda requests: [requests[place] for place in order]))
    assert same(played, other)
    assert other.state.mask.digest == state.mask.digest
    union = sorted({position for values in said.values() for position in values})
    means = {
        p: sum(SAMPLES[n] * Fraction(v[p]) for n, v in said.items() if p in v)
        / sum(SAMPLES[n] for n, v in said.items() if p in v)
        for p in union
    }
    positions = kept_positions(state.mask)
    assert set(positions) <= set(union), "what nobody holds goes"
    np.testing.assert_array_equal(state.kept[:4], [np.float32(float(means[p])) for p in positions])
    sizes = {p: abs(np.float32(float(means[p]))) for p in union}
    assert positions == sorted(sorted(union, key=lambda p: (-sizes[p], p))[:4])


@given(st.lists(st.tuples(st.lists(number, min_size=6, max_size=6), st.integers(1, 2**30)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_where_all_hold_all_it_is_the_mean_of_all_bit_for_bit(said: list[tuple[list[float], int]]) -> None:
    held, plain = HeldMean(6), FloatMean(6)
    for values, weight in said:
        held.add(np.array(values, dtype=np.float32), held=np.ones(6, dtype=np.bool_), weight=weight)
        plain.add(np.array(values, dtype=np.float32), weight=weight)
    assert held.mean().tobytes() == plain.mean().tobytes()
    assert held.held().all()


def test_what_nobody_holds_is_0_and_known() -> None:
    mean = HeldMean(3)
    mean.add(np.array([3, -1], dtype=np.float32), held=np.array([True, False, True]), weight=1)
    mean.add(np.array([1], dtype=np.float32), held=np.array([True, False, False]), weight=3)
    assert mean.mean().tolist() == [1.5, 0, -1]
    assert mean.held().tolist() == [True, False, True]


@pytest.mark.parametrize("count", range(6))
def test_such_a_round_goes_on_where_it_was_killed(count: int, tmp_path: Path) -> None:
    goes_on_where_it_was_killed(adjusted, Choosing, count=count, folder=tmp_path)


def own_run(**wire: object) -> Run:
    return Run(
        "weights",
        adjustment={"every": 2, "until": 4, "by": "devices"},
        training={"kernels": "dense", "steps": 4},
        wire={"down": "bf16", **wire},
    )


@pytest.mark.parametrize(
    "wire", [{}, {"coder": "plain", "down": "fp32"}, {"up": "uniform"}, {"up": "int8", "drop": 0.5}]
)
def test_real_devices_change_their_masks_each_for_itself(wire: dict[str, object]) -> None:
    run = own_run(**wire)
    history, devices = MemoryHistory(most=8), Devices(run.workshop, count=3)
    state = run.first()
    counts = state.mask.layer_kept()
    for number in range(1, 6):
        before, played = state, run.play(state, devices, history=history)
        state = played.state
        assert played.fold.failures == []
        assert state.mask.layer_kept() == counts
        assert (state.mask != before.mask) == (number in (2, 4))
        adjusts = number in (2, 4)
        found = {label.split("/")[0] for label in played.fold.sections() if label.startswith("mask")}
        assert len(found) == adjusts
        assert all((m.growth_bytes > 0) == adjusts for m in played.fold.measures)
        assert not any(label.startswith("top_k") for label in played.fold.sections())
        if wire.get("up") == "uniform":
            # What rounding left over is of the mask that the coordinator knows.
            assert {len(s.residuals[0]) for s in devices.states.values()} == {4 * before.mask.kept}


def test_what_a_device_says_does_not_depend_on_who_trained_before_it() -> None:
    run, fresh = own_run(up="uniform"), own_run(up="uniform")
    devices = Devices(run.workshop, count=3)
    first = run.play(run.first(), devices)
    states = dict(devices.states)
    run.play(first.state, devices)
    for node, request in devices.asked[1].items():
        answer = fresh.workshop.answer(request, client=node - 100, state=states[node])
        assert answer.state == devices.states[node]
        again = Workshop(run.experiment).answer(request, client=node - 100, state=states[node])
        # What was measured may differ.
        ours, theirs = (decode_payload(one.payload, limit=LIMIT)[1] for one in (answer, again))
        assert {kind: s for kind, s in ours.items() if kind != pb.KIND_COUNTS} == {
            kind: s for kind, s in theirs.items() if kind != pb.KIND_COUNTS
        }


def test_a_device_exchanges_as_many_as_it_is_asked_to_and_its_values_are_of_its_own_mask() -> None:
    run = own_run()
    devices = Devices(run.workshop, count=3)
    first = run.play(run.first(), devices).state
    second = run.play(first, devices)
    exchange = run.bench.exchange
    own = []
    for node, request in devices.asked[1].items():
        header, _ = decode_payload(request, limit=LIMIT)
        answer = run.workshop.answer(request, client=node - 100, state=devices.states.get(node, ClientState()))
        mask = exchange.decode_mask(decode_payload(answer.payload, limit=LIMIT)[1], base=first.mask)
        moved = Moves.between(first.mask, mask).grown
        assert moved == sum(asked.count for asked in header.growth) > 0
        own.append(mask)
    assert len({mask.digest for mask in own}) == 3, "devices have other samples"
    held = np.any([mask.flat() for mask in own], axis=0)
    assert not (second.state.mask.flat() & ~held).any()


def test_what_rounding_left_over_goes_to_the_own_mask_and_back() -> None:
    run = own_run(up="uniform")
    devices = Devices(run.workshop, count=3)
    first = run.play(run.first(), devices).state
    states = dict(devices.states)
    run.play(first, devices)
    exchange, sent = run.bench.exchange, first.mask
    node, request = next(iter(devices.asked[1].items()))
    # So much that all else is nothing beside it.
    left = np.full(sent.kept, 100, dtype="<f4").tobytes(), states[node].residuals[1]
    answer = run.workshop.answer(request, client=node - 100, state=replace(states[node], residuals=left))
    sections = decode_payload(answer.payload, limit=LIMIT)[1]
    own = exchange.decode_mask(sections, base=sent)
    moves = Moves.between(sent, own)
    version = exchange.version(
        2, sent.digest, kept=first.kept, floats=first.floats, layers=list(sent.layer_kept().values())
    )
    carried = exchange.carried(version, moves, mask_digest=own.digest)
    heard = exchange.read_reply(sections, version=carried, layers=list(own.layer_kept().values()))[0]
    assert isinstance(heard.values, np.ndarray)
    moved = heard.values - exchange.starts(carried)[0]
    assert moves.grown > 0
    np.testing.assert_array_equal(moved > 50, moves.stayed)
    after = np.frombuffer(answer.state.residuals[0], dtype="<f4")
    assert not after[~moves.stays].any()
    assert np.count_nonzero(after[moves.stays]) > 0.9 * np.count_nonzero(moves.stays)


def test_the_steps_before_and_after_the_change_are_those_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    run, parts = own_run(), list[tuple[slice | None, int]]()

    def spied(network: KeptNetwork, *named: Any, part: slice | None = None, **others: Any) -> Trained:
        trained = train(network, *named, part=part, **others)
        parts.append((part, trained.steps))
        return trained

    monkeypatch.setattr("hedgerow.client.training_task.train", spied)
    devices = Devices(run.workshop, count=3)
    state = run.play(run.first(), devices).state
    assert [part for part, _ in parts] == [None] * 3
    parts.clear()
    played = run.play(state, devices)
    firsts, seconds = parts[::2], parts[1::2]
    for (one, before), (other, after) in zip(firsts, seconds, strict=True):
        assert one == slice(before)
        assert other == slice(before, None)
        assert after >= 1
    assert played.fold.failures == []


def test_training_in_two_parts_without_momentum_is_training_at_once() -> None:
    experiment = own_run().experiment.model_copy(update={"weights": WeightSettings(momentum=0.0)})
    dataset = dataset_of(experiment)
    model = model_of(experiment, dataset)
    mask = initial_mask(model, dataset.input_shape, saliency="random", rule="erk", density=0.1, iterations=1, seed=0)
    samples = Samples(dataset.train.images[:100], dataset.train.labels[:100])
    results = []
    for parts in ([None], [slice(1), slice(1, None)], [slice(3), slice(3, None)]):
        network = network_of(experiment, model_of(experiment, dataset), mask, input_shape=dataset.input_shape).network
        named: dict[str, Any] = {"dataset": dataset, "experiment": experiment, "round": 1}
        trained = [train(network, samples, generator=np.random.default_rng(0), part=part, **named) for part in parts]
        whole = trained[0] if len(trained) == 1 else joined(trained[0], trained[1])
        results.append((read_vector(network.kept).tobytes(), whole.steps, whole.seen, pytest.approx(whole.loss)))
        assert whole.steps == step_count(100, experiment.training) == 4
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("steps", "after", "first"), [(1, 0.5, 1), (2, 0.0, 1), (4, 0.5, 2), (5, 0.5, 3), (5, 0.99, 4), (10, 0.3, 3)]
)
def test_the_adjustment_comes_after_its_share_of_the_steps(steps: int, after: float, first: int) -> None:
    assert first_steps(steps, after=after) == first


def test_the_recipe_adjusts_by_devices() -> None:
    feddst = load_experiment(recipe="feddst", overrides=[])
    assert (feddst.adjustment.by, feddst.adjustment.after, feddst.representation) == ("devices", 0.5, "weights")
    assert (feddst.adjustment.every, feddst.adjustment.until, feddst.pruning.rule) == (3, 24, "erk")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"representation": "signs"}, "whose votes are about one mask"),
        ({"adjustment.gradient": "sent"}, "that a device no longer has"),
        ({"adjustment.density": "cubic", "adjustment.start_density": 0.5}, 'adjustment.density is "cubic"'),
        ({"extrusion.penalty": 0.1}, "extrusion.penalty is 0.1"),
        ({"budget.plan": True, "budget.levels": [1.0, 0.5]}, "budget.levels has 2 parts"),
        ({"wire.down": "uniform"}, 'wire.down is "uniform"'),
        ({"adjustment.every": 0}, "adjustment.every is 0"),
        ({"adjustment.by": "coordinator", "adjustment.after": 0.25}, "adjustment.after is 0.25"),
    ],
)
def test_settings_that_do_not_go_with_devices_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_experiment(recipe="feddst", overrides=list(changes.items()))
