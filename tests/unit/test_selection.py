"""Choosing a mask against a fleet in memory: who is asked, what counts, who wins, and with which statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pytest

from hedgerow.client.answer import Workshop
from hedgerow.codec import Header, Section, decode_candidates, decode_payload, encode_payload
from hedgerow.config import Experiment
from hedgerow.errors import TooFewRepliesError
from hedgerow.exchange import losses_section, samples_section, statistics_section
from hedgerow.recalibration import Moments, collect, norm_channels, statistics_positions
from hedgerow.server.bench import Bench
from hedgerow.server.cohort import cohort_of
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.pool import Candidate, candidate_pool
from hedgerow.server.progress import Observer
from hedgerow.server.selection import Selected, select
from hedgerow.v1 import payload_pb2 as pb
from tests.device_fleet import FIRST, Devices, said
from tests.unit.test_answer import experiment_with
from tests.unit.test_rounds import Clock

SELECTION: dict[str, Any] = {"candidates": 3, "pool": ["random/erk"], "fraction": 0.5}
EXPERIMENT = experiment_with(representation="weights", fleet={"clients": 8, "cohort": 5}, selection=SELECTION)
NODES = range(FIRST, FIRST + 8)
COHORT = cohort_of(EXPERIMENT, NODES, round=0)
LIMIT = 10**7

SAMPLES = (10, 20, 30, 20, 20)
LOSSES = ((1.0, 3.0, 2.0), (2.0, 2.0, 2.0), (3.0, 1.0, 2.0), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0))
"""Of each device of the cohort about each network: means of 2.2, 1.8 and 2.0, and of 2.0 each without the weights."""


class Choice:
    """The pool of an experiment, and devices that answer with numbers that are made up, or really."""

    def __init__(self) -> None:
        self.bench = Bench.of(EXPERIMENT)
        self.pool = candidate_pool(EXPERIMENT, self.bench, Observer())
        self.workshop = Workshop(EXPERIMENT)
        self.channels = sum(norm.channels for norm in norm_channels(self.bench.initial))
        assert len(self.pool) == 3

    def select(self, devices: Devices, *, experiment: Experiment = EXPERIMENT, **named: Any) -> Selected:
        # The deadline and the quorum are the coordinator's own; what is sent names EXPERIMENT all the same.
        same = _Named(**dict(experiment))
        named = {"observer": Observer(), **named}
        return select(self.pool, experiment=same, bench=self.bench, fleet=devices, **named)

    def devices(self, *, losses: Sequence[Sequence[float]] = LOSSES, **named: Any) -> Made:
        return Made(self, losses, **named)

    def statistics(self, place: int) -> Section:
        """Of network k a mean of place + k, and a variance of k + 1."""
        ones = np.ones(self.channels)
        return statistics_section([Moments((place + k) * ones, (k + 1) * ones, SAMPLES[place]) for k in range(3)])


class _Named(Experiment):
    def digest(self) -> str:
        return EXPERIMENT.digest()


class Made(Devices):
    """Devices that look at nothing."""

    def __init__(self, choice: Choice, losses: Sequence[Sequence[float]], **named: Any) -> None:
        super().__init__(choice.workshop, **named)
        self.choice, self.losses = choice, losses

    def answer(self, request: Request) -> bytes:
        header, _ = decode_payload(request.payload, limit=LIMIT)
        place = COHORT.index(request.node)
        if header.task == pb.TASK_RECALIBRATE:
            told = self.choice.statistics(place)
        else:
            told = losses_section(self.losses[place])
        return encode_payload(header.of_reply(), [told, samples_section(SAMPLES[place])])


@pytest.fixture(scope="module")
def choice() -> Choice:
    return Choice()


def bits(selected: Selected) -> tuple[bytes, bytes, bytes, tuple[float | None, ...]]:
    state = selected.state
    losses = tuple(candidate.loss for candidate in selected.record.candidates)
    return state.mask.digest, state.kept.tobytes(), state.floats.tobytes(), losses


def test_the_least_loss_weighted_by_samples_wins(choice: Choice) -> None:
    record = choice.select(choice.devices()).record
    assert [candidate.loss for candidate in record.candidates] == [2.2, 1.8, 2.0]
    assert record.winner == 1
    assert record.replies == (5, 5)
    assert record.failures == ()
    assert [c.name for c in record.candidates] == [c.name for c in choice.pool]
    for told, candidate in zip(record.candidates, choice.pool, strict=True):
        assert told.kept == candidate.state.mask.kept
        assert told.layer_density == candidate.state.mask.layer_density()


@pytest.mark.parametrize(
    ("losses", "winner"),
    [([(1.0, 1.0, 1.0)] * 5, 0), ([(3.0, 1.0, 1.0)] * 5, 1), ([(3.0, 2.0, 1.0)] * 5, 2)],
)
def test_of_equal_losses_the_first_wins(choice: Choice, losses: list[tuple[float, ...]], winner: int) -> None:
    selected = choice.select(choice.devices(losses=losses))
    assert selected.record.winner == winner
    assert selected.state.mask is choice.pool[winner].state.mask


def test_the_winner_starts_with_the_pooled_statistics_and_is_else_as_it_was(choice: Choice) -> None:
    before = choice.pool[1].state
    floats = before.floats.copy()
    state = choice.select(choice.devices()).state
    means, variances = statistics_positions(choice.bench.initial)
    # Means of 1 to 5 with weights 10, 20, 30, 20, 20; they vary by 1.56, beside 2 within each device.
    assert state.floats[means] == pytest.approx(3.2, abs=1e-6)
    assert state.floats[variances] == pytest.approx(3.56, abs=1e-6)
    others = np.setdiff1d(np.arange(floats.size), np.concatenate([means, variances]))
    assert others.size
    np.testing.assert_array_equal(state.floats[others], floats[others])
    assert state == replace(before, floats=state.floats)
    np.testing.assert_array_equal(before.floats, floats)


def test_a_cohort_of_round_0_is_asked_in_two_exchanges(choice: Choice) -> None:
    devices = choice.devices()
    choice.select(devices)
    assert devices.waits == [5]
    assert [sorted(asked) for asked in devices.asked] == [COHORT, COHORT]
    # What a device keeps of the first is there at the second, and round 1 writes over it.
    assert devices.rounds == [0, 1]


def test_fewer_may_be_enough_to_begin(choice: Choice) -> None:
    devices = choice.devices(count=5)
    with pytest.raises(ValueError, match="is not in list"):
        # Only that all of the five are asked matters here.
        choice.select(devices, least=2)
    assert devices.waits == [2]
    assert sorted(devices.asked[0]) == list(range(FIRST, FIRST + 5))


def test_requests_bring_the_networks_and_then_their_statistics_alone(choice: Choice) -> None:
    devices = choice.devices()
    selected = choice.select(devices)
    experiment, tensors = bytes.fromhex(EXPERIMENT.digest()), choice.bench.exchange.architecture.tensors()
    (first,), (second,) = (set(asked.values()) for asked in devices.asked)
    assert decode_payload(first, limit=LIMIT) == (
        Header(experiment, 0, b"", tensors=tensors, task=pb.TASK_RECALIBRATE),
        {},
    )
    assert decode_payload(second, limit=LIMIT) == (Header(experiment, 0, b"", task=pb.TASK_EVALUATE), {})
    networks = [decode_candidates(payload, limit=LIMIT, most=3) for payload in (first, second)]
    for found, kinds in zip(networks, ({pb.KIND_MASK, pb.KIND_WEIGHTS, pb.KIND_FLOATS}, {pb.KIND_FLOATS}), strict=True):
        assert [network.mask_digest for network in found] == [c.state.mask.digest for c in choice.pool]
        assert [set(network.sections) for network in found] == [kinds] * 3
    exchange, state = choice.bench.exchange, selected.state
    version = exchange.decode(
        {**networks[0][1].sections, **networks[1][1].sections},
        round=0,
        mask_digest=state.mask.digest,
        base=None,
        layers=list(state.mask.layer_kept().values()),
    )
    kept, floats = exchange.starts(version)
    np.testing.assert_array_equal(kept, state.kept)
    np.testing.assert_array_equal(floats, state.floats)


def test_bytes_are_those_of_both_steps(choice: Choice) -> None:
    devices = choice.devices()
    record = choice.select(devices).record
    assert record.bytes_down == sum(len(payload) for asked in devices.asked for payload in asked.values())
    # 3 networks, 400 channels, a mean and a variance of 4 bytes each; 3 losses; a number of samples with each.
    content = 5 * (4 * 2 * 3 * 400 + 4 + 4 * 3 + 4)
    assert choice.channels == 400
    assert content < record.bytes_up < content + 10 * 100


def nothing(request: Request) -> Iterable[Reply]:
    return [Reply(request.node, None, "no \x1b power", {}, len(request.payload), 7)]


def gone(request: Request) -> Iterable[Reply]:
    return [Reply(request.node, None, "the line is dead", {}, len(request.payload), 0, "lost")]


def test_who_leaves_between_the_steps_has_no_say_in_the_second(choice: Choice) -> None:
    leaver = COHORT[2]
    devices = choice.devices(instead={(1, leaver): gone})
    selected = choice.select(devices)
    # Without the third: (10 + 40 + 40 + 40) / 70, (30 + 40 + 40 + 40) / 70 and 2.
    losses = [candidate.loss for candidate in selected.record.candidates]
    assert losses == pytest.approx([130 / 70, 150 / 70, 2.0])
    assert selected.record.winner == 0
    assert selected.record.replies == (5, 4)
    assert [(f.client, f.kind) for f in selected.record.failures] == [(f"client-{leaver}", "lost")]
    # Its statistics count all the same.
    means, _ = statistics_positions(choice.bench.initial)
    assert selected.state.floats[means] == pytest.approx(2.2, abs=1e-6)


def test_who_fails_in_the_first_step_is_not_asked_in_the_second(choice: Choice) -> None:
    devices = choice.devices(instead={(0, COHORT[0]): nothing})
    record = choice.select(devices).record
    assert sorted(devices.asked[1]) == COHORT[1:]
    assert record.replies == (4, 4)
    assert [failure.reason for failure in record.failures] == ["no power"]


def test_who_comes_between_the_steps_is_not_asked(choice: Choice) -> None:
    devices = choice.devices()

    def more(node: int) -> None:
        devices.count = 20

    devices.before_reply = more
    choice.select(devices)
    assert set(devices.asked[1]) == set(COHORT)
    assert devices.waits == [5]


Spoiled: TypeAlias = Callable[[Made], Callable[[Request], list[Reply]]]


def changed(change: Callable[[Header, dict[int, Section]], bytes]) -> Spoiled:
    """A reply that is made of the right one."""

    def of(devices: Made) -> Callable[[Request], list[Reply]]:
        def replies(request: Request) -> list[Reply]:
            header, sections = decode_payload(devices.answer(request), limit=LIMIT)
            return [said(request, change(header, dict(sections)))]

        return replies

    return of


def with_values(kind: pb.Kind, values: Sequence[float]) -> Spoiled:
    data = np.array(values, dtype="<f4").tobytes()
    section = Section(kind, pb.CODEC_FLOAT32, len(values), 0, data, 0.0)
    return changed(lambda header, sections: encode_payload(header, list({**sections, kind: section}.values())))


def encoded(header: Header, sections: Mapping[int, Section]) -> bytes:
    return encode_payload(header, list(sections.values()))


VALUES = 2 * 3 * 400
BAD: dict[str, tuple[int, str, Spoiled]] = {
    "cut off": (0, "malformed", changed(lambda header, sections: encoded(header, sections)[:-1])),
    "of another round": (0, "mismatch", changed(lambda header, s: encoded(replace(header, round=1), s))),
    "of another experiment": (0, "mismatch", changed(lambda h, s: encoded(replace(h, experiment=b"another"), s))),
    "to another task": (0, "mismatch", changed(lambda h, s: encoded(replace(h, task=pb.TASK_TRAIN), s))),
    "of two networks": (0, "mismatch", with_values(pb.KIND_STATISTICS, [1.0] * (VALUES * 2 // 3))),
    "of four networks": (0, "mismatch", with_values(pb.KIND_STATISTICS, [1.0] * (VALUES * 4 // 3))),
    "far too long": (0, "bounds", with_values(pb.KIND_STATISTICS, [1.0] * 10 * VALUES)),
    "with a negative variance": (0, "bounds", with_values(pb.KIND_STATISTICS, [-1.0] * VALUES)),
    "with a statistic that is no number": (0, "not_finite", with_values(pb.KIND_STATISTICS, [np.nan] * VALUES)),
    "of no sample": (0, "metrics", with_values(pb.KIND_COUNTS, [0.0])),
    "without statistics": (
        0,
        "mismatch",
        changed(lambda header, sections: encode_payload(header, [sections[pb.KIND_COUNTS]])),
    ),
    "cut off in the second step": (1, "malformed", changed(lambda header, sections: encoded(header, sections)[:-1])),
    "of the first step": (1, "mismatch", changed(lambda h, s: encoded(replace(h, task=pb.TASK_RECALIBRATE), s))),
    "with two losses": (1, "mismatch", with_values(pb.KIND_LOSSES, [1.0, 2.0])),
    "with four losses": (1, "mismatch", with_values(pb.KIND_LOSSES, [1.0, 2.0, 3.0, 4.0])),
    "with a negative loss": (1, "metrics", with_values(pb.KIND_LOSSES, [-1.0, 2.0, 3.0])),
    "with a loss that is no number": (1, "not_finite", with_values(pb.KIND_LOSSES, [np.nan, 2.0, 3.0])),
    "of half a sample": (1, "metrics", with_values(pb.KIND_COUNTS, [1.5])),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_a_failure_of_its_kind_and_counts_for_nothing(choice: Choice, case: str) -> None:
    step, kind, bad = BAD[case]
    devices, node = choice.devices(), COHORT[1]
    devices.instead = {(step, node): bad(devices)}
    selected = choice.select(devices)
    assert [(f.client, f.kind) for f in selected.record.failures] == [(f"client-{node}", kind)]
    assert selected.record.replies == ((4, 4) if step == 0 else (5, 4))
    assert bits(selected) == bits(choice.select(choice.devices(instead={(step, node): nothing})))


@pytest.mark.parametrize("step", [0, 1])
def test_of_two_replies_of_one_device_the_first_counts(choice: Choice, step: int) -> None:
    devices, node = choice.devices(), COHORT[1]

    def twice(request: Request) -> list[Reply]:
        one = said(request, devices.answer(request))
        other = with_values(pb.KIND_COUNTS, [1000.0])
        return [one, *other(devices)(request)]

    devices.instead = {(step, node): twice}
    selected = choice.select(devices)
    assert [(f.client, f.kind) for f in selected.record.failures] == [(f"client-{node}", "duplicate")]
    assert selected.record.replies == (5, 5)
    assert bits(selected) == bits(choice.select(choice.devices()))


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(("fails", "answered"), [(nothing, True), (gone, False)])
def test_too_few_replies_say_whose_were_usable_and_whether_devices_answered(
    choice: Choice, step: int, fails: Callable[[Request], Iterable[Reply]], answered: bool
) -> None:
    aggregation = EXPERIMENT.aggregation.model_copy(update={"min_replies": 5})
    experiment = EXPERIMENT.model_copy(update={"aggregation": aggregation})
    devices = choice.devices(instead={(step, COHORT[3]): fails})
    with pytest.raises(TooFewRepliesError, match=rf"4 of 5 clients .* 5 are needed; client-{COHORT[3]}: ") as caught:
        choice.select(devices, experiment=experiment)
    assert caught.value.usable == frozenset(COHORT) - {COHORT[3]}
    assert caught.value.answered is answered


def test_nobodys_reply_is_too_few(choice: Choice) -> None:
    devices = choice.devices(instead={(0, node): gone for node in COHORT})
    with pytest.raises(TooFewRepliesError, match="0 of 5 clients gave a usable reply and 1 are needed") as caught:
        choice.select(devices)
    assert (caught.value.usable, caught.value.answered) == (frozenset(), False)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_replies_changes_no_bit(choice: Choice, seed: int) -> None:
    random = np.random.default_rng(seed)
    losses = random.random((5, 3)).tolist()

    def shuffled(requests: list[Request]) -> list[Request]:
        return [requests[i] for i in random.permutation(len(requests))]

    plain = choice.select(choice.devices(losses=losses))
    other = choice.select(choice.devices(losses=losses, order=shuffled))
    assert bits(other) == bits(plain)
    assert other.record == plain.record


def test_a_deadline_ends_each_step_that_has_its_quorum(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step=10)
    experiment = EXPERIMENT.model_copy(
        update={
            "fleet": EXPERIMENT.fleet.model_copy(update={"deadline": 35.0}),
            "aggregation": EXPERIMENT.aggregation.model_copy(update={"min_replies": 2}),
        }
    )
    devices = choice.devices(before_reply=clock.tick)
    record = choice.select(devices, experiment=experiment).record
    assert sorted(devices.asked[1]) == COHORT[:3], "replies at 10, 20 and 30 seconds count; the one at 40 is too late"
    assert record.replies == (3, 3), "the second step has as much time"
    slow = choice.devices(before_reply=Clock(monkeypatch, step=100).tick)
    assert choice.select(slow, experiment=experiment).record.replies == (2, 2)


def test_where_more_are_asked_than_needed_nobody_waits_for_the_slowest(choice: Choice) -> None:
    fleet = EXPERIMENT.fleet.model_copy(update={"cohort": 3, "oversampling": 0.5})
    asked = cohort_of(EXPERIMENT.model_copy(update={"fleet": fleet}), NODES, round=0)
    assert len(asked) == 5

    def hangs(request: Request) -> list[Reply]:
        raise AssertionError("nobody waits for this one")

    devices = choice.devices()
    devices.instead = {(0, asked[-1]): hangs}
    places = {node: place for place, node in enumerate(asked)}
    devices.answer = lambda request: Made.answer(  # type: ignore[method-assign]  # whoever is asked has a place
        devices, replace(request, node=COHORT[places[request.node]])
    )
    record = choice.select(devices, experiment=EXPERIMENT.model_copy(update={"fleet": fleet})).record
    assert record.replies == (3, 3)
    assert record.failures == ()


def test_the_observer_hears_of_both_steps_and_of_each_reply(choice: Choice) -> None:
    heard: list[object] = []

    class Listener(Observer):
        def selecting(self, step: str, clients: int) -> None:
            heard.append((step, clients))

        def replied(self) -> None:
            heard.append("replied")

    choice.select(choice.devices(instead={(0, COHORT[0]): nothing}), observer=Listener())
    assert heard == [("statistics", 5), *["replied"] * 5, ("losses", 4), *["replied"] * 4]


def test_real_devices_choose_with_the_statistics_of_all_their_batches_together(choice: Choice) -> None:
    devices = Devices(choice.workshop)
    selected = choice.select(devices)
    record, state = selected.record, selected.state
    assert record.replies == (5, 5)
    losses = [candidate.loss for candidate in record.candidates]
    assert all(loss is not None and 1 < loss < 10 for loss in losses)
    assert len(set(losses)) == 3
    assert record.winner == int(np.argmin(np.array(losses, dtype=float)))
    winner: Candidate = choice.pool[record.winner]
    workshop = choice.workshop
    lookers = [workshop._looker(workshop.samples.of(n - FIRST), round=0, client=n - FIRST) for n in COHORT]
    expected = collect(
        choice.bench.network(winner.state), (images for looker in lookers for images, _ in looker.batches())
    )
    means, variances = statistics_positions(choice.bench.initial)
    np.testing.assert_allclose(state.floats[means], expected.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.floats[variances], expected.variance, rtol=1e-5, atol=1e-5)
    assert {node: bool(state.pool) for node, state in devices.states.items()} == dict.fromkeys(COHORT, True)
    assert bits(choice.select(Devices(choice.workshop, order=lambda requests: requests[::-1]))) == bits(selected)
