"""Rounds in which devices train parts of the network: what each is sent, and what becomes of what they say."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hedgerow.assembly import mask_of
from hedgerow.client.answer import Workshop
from hedgerow.codec import Growth, decode_payload, encode_payload, has_mask
from hedgerow.errors import FailureKind, TooFewRepliesError
from hedgerow.exchange import NodePlan, plan_reply
from hedgerow.pruning import Mask
from hedgerow.server.aggregation import FloatMean, Nested
from hedgerow.server.bench import Bench
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.history import MemoryHistory
from hedgerow.server.journal import SqliteJournal
from hedgerow.server.levels import following_floats, levelled, planned, running_statistics
from hedgerow.server.planning import Planner
from hedgerow.server.progress import Observer
from hedgerow.server.recording import record_of
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.state import RoundState
from hedgerow.server.strands import Strands, level_growth
from hedgerow.telemetry import LevelRecord
from hedgerow.v1 import payload_pb2 as pb
from tests.device_fleet import FIRST, Devices, said
from tests.unit.test_answer import experiment_with
from tests.unit.test_rounds import KilledError, killed_after

LIMIT = 10**7
LEVELS = {FIRST: 0, FIRST + 1: 1, FIRST + 2: 2}
SMALL = {FIRST: 2, FIRST + 1: 1, FIRST + 2: 2}


class Run:
    """Three real devices and three levels; every second round adjusts the mask."""

    def __init__(self, representation: str, *, norms: str = "private", plan: bool = True, down: str = "bf16") -> None:
        self.experiment = experiment_with(
            representation=representation,
            training={"kernels": "dense", "steps": 2},
            fleet={"clients": 30, "cohort": 3},
            pruning={"saliency": "random", "density": 0.05},
            adjustment={"every": 2, "until": 6, "blocks": 2},
            wire={"down": down},
            budget={"plan": True, "levels": [1.0, 0.5, 0.25], "norms": norms},
        )
        self.bench, self.workshop = Bench.of(self.experiment), Workshop(self.experiment)

    def first(self, plans: Mapping[int, int] = LEVELS) -> RoundState:
        exchange = self.bench.exchange
        mask = mask_of(self.experiment, self.bench.initial, self.bench.dataset.input_shape)
        state = replace(self.bench.start(mask), plans=plans)
        return levelled(
            state,
            experiment=self.experiment,
            architecture=exchange.architecture,
            representation=exchange.representation,
        )

    def devices(self, **named: Any) -> Devices:
        return Devices(self.workshop, count=3, **named)

    def play(self, state: RoundState, devices: Devices, **named: Any) -> Round:
        return play_round(
            state,
            experiment=self.experiment,
            exchange=self.bench.exchange,
            fleet=devices,
            observer=Observer(),
            **named,
        )


@cache
def run_of(representation: str, norms: str = "private", down: str = "bf16") -> Run:
    return Run(representation, norms=norms, down=down)


def failed(why: str, *, kind: FailureKind = "device") -> Callable[[Request], Iterable[Reply]]:
    return lambda request: [Reply(request.node, None, why, {}, 1, 1, kind)]


def same(a: Round, b: Round) -> bool:
    states = [
        (s.mask.digest, s.kept.tobytes(), s.floats.tobytes(), *(n.tobytes() for n in (*s.nests, *s.own_floats)))
        for s in (a.state, b.state)
    ]
    return states[0] == states[1]


def require_nested(state: RoundState, counts: list[dict[str, int]]) -> None:
    """Parts are inside each other, and as large as they were."""
    for outer, inner in pairwise((np.ones(state.mask.kept, dtype=np.bool_), *state.nests)):
        assert not (inner & ~outer).any()
    assert [state.part(level).mask.layer_kept() for level in range(3)] == counts


@pytest.mark.parametrize(("representation", "down"), [("weights", "bf16"), ("weights", "uniform"), ("signs", "bf16")])
def test_each_device_trains_its_part_through_rounds_that_change_the_mask(representation: str, down: str) -> None:
    run, history = run_of(representation, down=down), MemoryHistory(most=8)
    devices, state = run.devices(), run.first()
    counts = [state.part(level).mask.layer_kept() for level in range(3)]
    before: list[Mask] = []
    for number in range(1, 6):
        masks = [state.part(level).mask for level in range(3)]
        played = run.play(state, devices, history=history)
        assert played.fold.failures == []
        assert played.fold.replies == {0: 1, 1: 1, 2: 1}
        for node, payload in devices.asked[-1].items():
            header, sections = decode_payload(payload, limit=LIMIT)
            assert header.mask_digest == masks[LEVELS[node]].digest
            # The mask comes whole at first, and then as a change; a part need not change with the whole.
            assert has_mask(sections) == (number == 1)
            changed = number > 1 and before[LEVELS[node]].digest != header.mask_digest
            assert (pb.KIND_MASK_DELTA in sections) == changed
            assert bool(header.growth) == (number % 2 == 0)
        assert (played.adjustment is not None) == (number % 2 == 0)
        assert (played.state.mask.digest != state.mask.digest) == (number % 2 == 0)
        state, before = played.state, masks
        require_nested(state, counts)
        assert state.trained == 0
        assert state.held == dict.fromkeys(LEVELS, number)


@pytest.mark.parametrize("down", ["bf16", "uniform"])
def test_a_part_is_told_of_each_weight_what_the_whole_is_told(down: str) -> None:
    run = run_of("weights", down=down)
    state, exchange = run.first(), run.bench.exchange
    strands = Strands.of(
        state,
        list(LEVELS),
        experiment=bytes.fromhex(run.experiment.digest()),
        growth=(),
        exchange=exchange,
        history=MemoryHistory(most=0),
    )
    told = {level: exchange.starts(reader.version)[0] for level, reader in strands.readers.items()}
    assert sorted(told) == [0, 1, 2]
    for level in (1, 2):
        assert told[level].tobytes() == told[0][state.places(level)].tobytes()


@pytest.mark.parametrize("representation", ["weights", "signs"])
def test_what_nobody_held_stays_bit_by_bit(representation: str) -> None:
    run = run_of(representation)
    before = run.first(SMALL)
    state = run.play(before, run.devices()).state
    held = before.nests[0]
    assert 0 < held.sum() < held.size
    assert state.kept[~held].tobytes() == before.kept[~held].tobytes()
    moved = state.kept[held] != before.kept[held]
    assert moved.mean() > 0.1, "and the others were trained"
    assert state.trained == 1
    best = state.best()
    assert (best.mask, best.kept.tobytes()) == (state.part(1).mask, state.kept[held].tobytes())


def test_a_missing_level_leaves_its_statistics_and_what_it_alone_holds() -> None:
    run = run_of("weights")
    before = run.first()
    lost = {(0, FIRST): failed("no power")}
    state = run.play(before, run.devices(instead=lost)).state
    running = running_statistics(run.bench.exchange.architecture)
    assert state.floats[running].tobytes() == before.floats[running].tobytes()
    for own, old in zip(state.own_floats, before.own_floats, strict=True):
        assert not np.array_equal(own[running], old[running])
        assert own[~running].tobytes() == state.floats[~running].tobytes(), "all else is shared"
    assert state.own_floats[0][running].tobytes() != state.own_floats[1][running].tobytes()
    assert state.trained == 1
    ring = ~before.nests[0]
    assert state.kept[ring].tobytes() == before.kept[ring].tobytes()


def test_an_adjustment_with_missing_replies_leaves_parts_of_the_same_sizes() -> None:
    run = run_of("weights")
    state = run.first()
    counts = [state.part(level).mask.layer_kept() for level in range(3)]
    state = run.play(state, run.devices()).state
    for missing in ([FIRST], [FIRST + 1, FIRST + 2]):
        lost = {(0, n): failed("no power") for n in missing}
        played = run.play(replace(state, held={}), run.devices(instead=lost))
        assert len(played.fold.clients) == 3 - len(missing)
        assert played.adjustment is not None
        assert played.state.mask.digest != state.mask.digest
        require_nested(played.state, counts)


@pytest.mark.parametrize("representation", ["weights", "signs"])
def test_the_order_of_replies_changes_no_bit(representation: str) -> None:
    run = run_of(representation)
    state = replace(run.first(), round=1, since=1)
    plain = run.play(state, run.devices())
    other = run.play(state, run.devices(order=lambda requests: requests[::-1]))
    assert plain.adjustment is not None
    assert same(plain, other)


def test_shared_statistics_are_those_of_all_levels() -> None:
    run = run_of("weights", "shared")
    state = run.first()
    assert state.own_floats == ()
    played = run.play(state, run.devices())
    assert played.state.own_floats == ()
    assert played.state.part(2).floats is played.state.floats


@pytest.mark.parametrize(("node", "other", "kind"), [(FIRST + 2, FIRST, "bounds"), (FIRST, FIRST + 2, "mismatch")])
def test_a_reply_for_the_part_of_another_level_is_refused_and_changes_nothing(node: int, other: int, kind: str) -> None:
    run = run_of("weights")
    devices = run.devices()

    def disguised(request: Request) -> Iterable[Reply]:
        # It trains what a device of another level was sent.
        return [said(request, devices.answer(replace(request, payload=devices.asked[0][other])))]

    devices.instead = {(0, node): disguised}
    played = run.play(run.first(), devices)
    assert [(f.client, f.kind) for f in played.fold.failures] == [(f"client-{node}", kind)]
    lost = {(0, node): failed("no power")}
    assert same(played, run.play(run.first(), run.devices(instead=lost)))


def test_growth_is_told_of_no_weight_that_larger_devices_keep() -> None:
    run = run_of("weights")
    state = replace(run.first(), round=1)
    devices = run.devices()
    played = run.play(state, devices)
    gradients = played.fold.gradients
    assert gradients is not None
    for name, (positions, _) in gradients.mean().items():
        assert not state.mask[name].numpy().reshape(-1)[positions].any()
        assert positions.size
    asked = [decode_payload(devices.asked[0][FIRST + level], limit=LIMIT)[0].growth for level in range(3)]
    own = list(state.part(2).mask.layer_kept().values())
    for whole, part in zip(asked[0], asked[2], strict=True):
        assert part.tensor == whole.tensor
        assert part.count >= min(whole.count, own[part.tensor])


def test_smaller_devices_are_asked_for_more_gradients_but_no_more_than_they_keep_weights() -> None:
    mask = Mask({"a": torch.arange(40) < 20, "b": torch.arange(10) < 8, "c": torch.arange(10) < 8})
    places = np.concatenate([np.arange(20) < 5, np.arange(8) < 1, np.arange(8) < 4])
    asked = level_growth((Growth(0, 3), Growth(1, 2)), whole=mask, places=places)
    # Of 35 that the device does not keep 20 are pruned: 3 · 35 / 20 = 5.25. Of b it keeps one.
    assert asked == (Growth(0, 5), Growth(1, 1))
    marks = np.concatenate([np.arange(20) % 2 == 0, np.zeros(8, dtype=np.bool_), np.arange(8) > 3])
    growth = (Growth(0, 3, 10), Growth(2, 0, 4))
    # It has 3 of the 10 that are marked, and none of the 4.
    assert level_growth(growth, whole=mask, places=places, marks=marks) == (Growth(0, 5, 3),)


def test_who_changes_its_level_is_sent_the_mask_of_that_one() -> None:
    run, history = run_of("weights"), MemoryHistory(most=8)
    devices = run.devices()
    state = run.play(run.first(), devices, history=history).state
    moved = planned(state, {FIRST: 0, FIRST + 1: 2})
    assert moved.plans == {FIRST: 0, FIRST + 1: 2, FIRST + 2: 2}
    assert moved.held == {FIRST: 1, FIRST + 2: 1}
    played = run.play(moved, devices, history=history)
    assert played.fold.failures == []
    told = {node: has_mask(decode_payload(payload, limit=LIMIT)[1]) for node, payload in devices.asked[1].items()}
    assert told == {FIRST: False, FIRST + 1: True, FIRST + 2: False}
    assert played.fold.replies == {0: 1, 2: 2}


def two_floats(*, round: int) -> RoundState:
    """The state after a round of a network with two kept weights, and two floats that are 1."""
    return RoundState(
        round=round,
        mask=Mask({"w": torch.ones(2, dtype=torch.bool)}),
        kept=np.zeros(2, dtype=np.float32),
        floats=np.array([1, 1], dtype=np.float32),
    )


def test_statistics_are_of_a_level_and_all_else_of_everybody() -> None:
    state = replace(
        two_floats(round=1),
        nests=(np.array([True, False]), np.array([True, False])),
        own_floats=(np.array([1, 2], dtype=np.float32), np.array([1, 3], dtype=np.float32)),
    )
    heard = Nested([FloatMean(2) for _ in range(3)], places=[None] * 3, count=2)
    heard.add(np.array([4, 8], dtype=np.float32), weight=3)
    heard.add(np.array([8, 16], dtype=np.float32), weight=1, level=2)
    floats, own = following_floats(state, heard, np.array([False, True]))
    assert [floats.tolist(), *(one.tolist() for one in own)] == [[5, 8], [5, 2], [5, 16]]
    shared, none = following_floats(replace(state, own_floats=()), heard, np.array([False, True]))
    assert (shared.tolist(), none) == ([5, 10], ())


def test_statistics_may_be_of_several_rounds_but_not_of_the_first_ones() -> None:
    state = two_floats(round=39)
    heard = Nested([FloatMean(2)], places=[None], count=2)
    heard.add(np.array([5, 9], dtype=np.float32), weight=3)
    running = np.array([False, True])
    assert following_floats(state, heard, running, share=0.5)[0].tolist() == [5, 5]
    assert following_floats(state, heard, running, share=0.125)[0].tolist() == [5, 3], "a quarter in round 40"
    assert following_floats(replace(state, round=9), heard, running, share=0.125)[0].tolist() == [5, 9]
    assert following_floats(replace(state, round=0), heard, running, share=0.125)[0].tolist() == [5, 9]
    # A part has its own, of who trains it, and keeps them where nobody does.
    parts = replace(state, nests=(np.array([True, False]),), own_floats=(np.array([1, 3], dtype=np.float32),))
    heard = Nested([FloatMean(2) for _ in range(2)], places=[None] * 2, count=2)
    heard.add(np.array([5, 11], dtype=np.float32), weight=1, level=1)
    floats, own = following_floats(parts, heard, running, share=0.5)
    assert [floats.tolist(), own[0].tolist()] == [[5, 1], [5, 7]]


def test_a_round_that_was_cut_off_goes_on_with_the_levels_that_it_began_with(tmp_path: Path) -> None:
    run = run_of("weights")
    whole = run.play(run.first(), run.devices())
    with SqliteJournal(tmp_path / "journal.sqlite") as journal:
        devices = run.devices(before_reply=killed_after(2))
        with pytest.raises(KilledError):
            run.play(run.first(), devices, journal=journal)
    with SqliteJournal(tmp_path / "journal.sqlite") as journal:
        # The checkpoint before the round knows nothing of the levels that nodes were asked for in it.
        devices.before_reply = lambda node: None
        resumed = run.play(run.first({}), devices, journal=journal)
    assert same(whole, resumed)
    assert resumed.state.plans == LEVELS
    assert len(devices.asked[1]) == 1


def test_the_record_says_what_came_of_each_level() -> None:
    run = run_of("weights")
    old = run.first(SMALL)
    played = run.play(old, run.devices())
    record = record_of(played, old=old, recalibration=None, experiment=run.experiment, bench=run.bench)
    kept = [old.mask.kept, *(int(nest.sum()) for nest in old.nests)]
    samples = {node - FIRST: m.examples for node, m in zip(SMALL, played.fold.measures, strict=True)}
    assert record.levels == (
        LevelRecord(level=0, kept=kept[0], replies=0, examples=0),
        LevelRecord(level=1, kept=kept[1], replies=1, examples=samples[1]),
        LevelRecord(level=2, kept=kept[2], replies=2, examples=samples[0] + samples[2]),
    )
    assert record.kept == kept[1], "the largest part that was trained"
    assert record.accuracy is not None


def says(plan: NodePlan) -> Callable[[Request], Iterable[Reply]]:
    def reply(request: Request) -> Iterable[Reply]:
        header, sections = decode_payload(request.payload, limit=LIMIT)
        assert (header.task, len(header.levels), sections) == (pb.TASK_PLAN, 3, {})
        return [said(request, encode_payload(header.of_reply(), [plan_reply(plan)]))]

    return reply


def fits(level: int) -> Callable[[Request], Iterable[Reply]]:
    return says(NodePlan(level=level, budget=100, predicted=90, least=0))


REFUSED = NodePlan(level=None, budget=10, predicted=0, least=30)


def test_devices_are_asked_once_which_part_they_have_memory_for() -> None:
    run, planner = run_of("weights"), Planner()
    devices = run.devices(instead={(0, FIRST + place): fits(place) for place in range(3)})
    first = run.play(run.first({}), devices, planner=planner)
    assert first.state.plans == LEVELS
    assert first.fold.replies == {0: 1, 1: 1, 2: 1}
    assert first.plans is not None
    assert (first.plans.levels, first.plans.refused, first.plans.failures) == ({0: 1, 1: 1, 2: 1}, 0, ())
    assert first.plans.budgets == {0: 100, 1: 100, 2: 100}
    assert first.plans.predicted == {0: 90, 1: 90, 2: 90}
    assert first.plans.bytes_up > 0
    assert first.plans.bytes_down == sum(map(len, devices.asked[0].values()))
    assert same(first, run.play(run.first(), run.devices())), "asking changes nothing else"
    second = run.play(first.state, devices, planner=Planner())
    assert second.plans is None
    assert devices.rounds == [1, 1, 2]


def test_who_has_too_little_memory_is_counted_and_not_asked_again() -> None:
    run, planner = run_of("weights"), Planner()
    answers = {(0, FIRST): fits(1), (0, FIRST + 1): says(REFUSED), (0, FIRST + 2): fits(2)}
    devices = run.devices(instead=answers)
    first = run.play(run.first({}), devices, planner=planner)
    assert first.plans is not None
    assert (first.plans.refused, first.plans.least_bytes) == (1, 30)
    assert list(first.cohort) == [FIRST, FIRST + 2]
    second = run.play(first.state, devices, planner=planner)
    assert second.plans is None
    assert list(second.cohort) == [FIRST, FIRST + 2]
    assert second.fold.failures == []


def test_a_round_for_which_nobody_has_memory_says_so() -> None:
    run, planner = run_of("weights"), Planner()
    devices = run.devices(instead={(0, FIRST + place): says(REFUSED) for place in range(3)})
    for _ in range(2):
        with pytest.raises(TooFewRepliesError, match=r"0 of 0 clients .* add a smaller part to budget\.levels"):
            run.play(run.first({}), devices, planner=planner)
    assert devices.rounds == [1, 1, 1], "asked for their memory once"


def test_who_does_not_say_is_left_out_and_asked_again() -> None:
    run, planner = run_of("weights"), Planner()
    answers = {(0, FIRST): fits(0), (0, FIRST + 1): failed("busy"), (0, FIRST + 2): fits(3)}
    answers |= {(2, FIRST + 1): fits(1), (2, FIRST + 2): fits(2)}
    devices = run.devices(instead=answers)
    first = run.play(run.first({}), devices, planner=planner)
    assert first.plans is not None
    assert [(f.client, f.kind) for f in first.plans.failures] == [("client-101", "device"), ("client-102", "metrics")]
    assert list(first.cohort) == [FIRST]
    second = run.play(first.state, devices, planner=planner)
    assert second.state.plans == LEVELS
    assert second.fold.clients == set(LEVELS)


def test_a_device_that_failed_for_want_of_memory_is_asked_anew_and_trains_what_fits() -> None:
    run, planner = run_of("weights"), Planner()
    answers = {(0, FIRST + place): fits(place) for place in range(3)}
    answers |= {(1, FIRST): failed("too little", kind="memory"), (2, FIRST): fits(2)}
    devices = run.devices(instead=answers)
    first = run.play(run.first({}), devices, planner=planner)
    assert first.fold.clients == {FIRST + 1, FIRST + 2}
    assert planner.again == {FIRST}
    second = run.play(first.state, devices, planner=planner)
    assert devices.rounds == [1, 1, 2, 2]
    assert second.plans is not None
    assert second.plans.levels == {2: 1}
    assert second.state.plans == {**LEVELS, FIRST: 2}
    assert second.fold.replies == {1: 1, 2: 2}
    assert planner.again == set()


def test_a_device_for_which_nothing_fits_any_more_is_left_out() -> None:
    run, planner = run_of("weights"), Planner()
    answers = {(0, FIRST + place): fits(place) for place in range(3)}
    answers |= {(1, FIRST): failed("too little", kind="memory"), (2, FIRST): says(REFUSED)}
    devices = run.devices(instead=answers)
    second = run.play(run.play(run.first({}), devices, planner=planner).state, devices, planner=planner)
    assert list(second.cohort) == [FIRST + 1, FIRST + 2]


def test_a_device_that_held_more_than_it_has_is_to_plan_anew_and_no_other() -> None:
    run, planner = run_of("weights"), Planner()
    devices = run.devices(instead={(0, FIRST + place): fits(place) for place in range(3)})
    played = run.play(run.first({}), devices, planner=planner)
    assert planner.again == set(), "nobody measured it"
    played.fold.peaks = {FIRST: 100.0, FIRST + 1: 101.0, 7: 1e9}
    planner.heard(played.fold)
    assert planner.again == {FIRST + 1}, "of 100 bytes that each has; what number 7 has nobody knows"
