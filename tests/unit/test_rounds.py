"""One round against a fleet in memory: who is asked, what is sent, what comes of the replies."""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hedgerow.assembly import representation_of
from hedgerow.codec import (
    Floats,
    binary_entropy_bytes,
    decode_payload,
    encode_payload,
    has_mask,
    read_mask,
    section_label,
)
from hedgerow.config import Experiment
from hedgerow.errors import PayloadError, RunError, TooFewRepliesError
from hedgerow.exchange import Architecture, Exchange, Measures, Version
from hedgerow.privacy import seeded_words
from hedgerow.pruning import Mask
from hedgerow.server.cohort import cohort_of
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.history import FolderHistory, History, MemoryHistory
from hedgerow.server.journal import Journal, SqliteJournal
from hedgerow.server.outgoing import NEW, WHOLE
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.state import RoundState

MASK = Mask({"a.weight": torch.arange(12).view(3, 4) % 3 == 0, "b.weight": torch.ones(1, 3, dtype=torch.bool)})
FLOATS = np.array([1.0, 2.0], dtype=np.float32)
MASK_BOUND = 15 * 0.9967916 / 8
"""Bytes: 7 of 15 weights are kept, H(7/15) = 0.99679 bits."""
LARGE = Mask(
    {
        "a.weight": torch.from_numpy(np.random.default_rng(0).random((60, 40)) < 0.4),
        "b.weight": torch.ones(10, 30, dtype=torch.bool),
    }
)
"""Some 1,260 kept weights: what changed is less than the whole."""
EVERYONE = frozenset(range(100, 108))


def experiment_with(
    fleet: Mapping[str, object] | None = None, *, others: Mapping[str, object] | None = None, **aggregation: object
) -> Experiment:
    settings = {"signs": "mean", "levels": 16, **aggregation}
    return Experiment.model_validate(
        {"fleet": {"clients": 8, "cohort": 5, **(fleet or {})}, "aggregation": settings, **(others or {})}
    )


def exchange_of(experiment: Experiment, mask: Mask = MASK) -> Exchange:
    architecture = Architecture(mask.shapes, {"a.bias": (2,)}, (False,))
    return Exchange.of(experiment, architecture=architecture, representation=representation_of(experiment))


EXPERIMENT = experiment_with()


@dataclass
class InMemoryFleet:
    """Every node votes by its own number, and remembers the last version that it trained on; some fail."""

    count: int = 8
    failing: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    order: Callable[[list[Request]], list[Request]] = lambda requests: requests
    before_reply: Callable[[int], None] = lambda node: None
    mask: Mask = MASK
    stride: float = 2.0
    speaks: Exchange = field(default_factory=lambda: exchange_of(EXPERIMENT))
    asked: dict[int, bytes] = field(default_factory=dict)
    replied: list[int] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    remembered: dict[int, Version] = field(default_factory=dict)

    def nodes(self) -> Sequence[int]:
        return range(100, 100 + self.count)

    def wait_for(self, count: int, *, observer: Observer) -> Sequence[int]:
        self.waits.append(count)
        return self.nodes()

    def name(self, node: int) -> str:
        return f"client-{node}"

    def exchange(self, requests: Iterable[Request], *, round: int, over: Callable[[], bool]) -> Iterator[Reply]:
        ordered = self.order(list(requests))
        self.asked, self.replied = {request.node: request.payload for request in ordered}, []
        for request in ordered:
            self.before_reply(request.node)
            if over():
                return
            self.replied.append(request.node)
            yield self._reply(request)

    def _reply(self, request: Request) -> Reply:
        sizes = (len(request.payload) + 10, 50)
        if request.node in self.lost:
            return Reply(request.node, None, "the line is dead", {}, *sizes, "lost")
        if request.node in self.failing:
            return Reply(request.node, None, f"no power on {request.node}", {}, *sizes)
        return Reply(request.node, self._answer(request), None, {}, *sizes)

    def _answer(self, request: Request) -> bytes:
        node, speaks = request.node, self.speaks
        layers = list(self.mask.layer_kept().values())
        header, sections = decode_payload(request.payload, limit=10_000)
        base = self.remembered[node] if header.base else None
        assert base is None or base.round == header.base
        version = speaks.decode(sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=layers)
        self.remembered[node] = version
        up = np.random.default_rng(node).random(self.mask.kept) < 0.5
        moved = np.where(up, self.stride, -self.stride).astype(np.float32) + speaks.starts(version)[0]
        said = speaks.reply(
            moved,
            (FLOATS * node / 7).astype(np.float32),
            version=version,
            layers=layers,
            memory=(None, None),
            generator=np.random.default_rng(node),
            draw=seeded_words(np.random.default_rng(node)),
        )
        measures = Measures(
            examples=node % 5 + 1,
            loss=node / 13,
            seconds=0.5,
            forward_bytes=1,
            backward_bytes=2,
            update_bytes=3,
            native_share=1,
        )
        answered = [*(one.section for one in said), measures.section()]
        return encode_payload(header.of_reply(), answered)


def first_state(
    *, round: int = 0, held: Mapping[int, int] | None = None, kept: Floats | None = None, mask: Mask = MASK
) -> RoundState:
    signs = np.where(np.arange(mask.kept) % 2, -1, 1).astype(np.float32) if kept is None else kept
    return RoundState(round=round, mask=mask, kept=signs, floats=FLOATS, held=held or {})


def play(
    state: RoundState,
    fleet: InMemoryFleet,
    *,
    experiment: Experiment = EXPERIMENT,
    history: History | None = None,
    journal: Journal | None = None,
    least: int | None = None,
) -> Round:
    fleet.speaks = exchange_of(experiment, fleet.mask)
    return play_round(
        state,
        experiment=experiment,
        exchange=fleet.speaks,
        fleet=fleet,
        observer=Observer(),
        history=history,
        journal=journal,
        least=least,
    )


def test_a_cohort_is_drawn_without_replacement_from_seed_and_round() -> None:
    nodes = list(range(100, 108))
    cohort = cohort_of(EXPERIMENT, nodes, round=1)
    assert cohort == cohort_of(EXPERIMENT, nodes, round=1)
    assert cohort == sorted(set(cohort))
    assert len(cohort) == 5
    assert set(cohort) <= set(nodes)
    drawn = {tuple(cohort_of(EXPERIMENT, nodes, round=r)) for r in range(1, 21)}
    assert len(drawn) > 5
    seeds = {tuple(cohort_of(EXPERIMENT.model_copy(update={"seed": s}), nodes, round=1)) for s in range(20)}
    assert len(seeds) > 5


def test_a_cohort_is_the_one_that_it_was_before_there_was_oversampling() -> None:
    nodes = list(range(100, 108))
    assert [cohort_of(EXPERIMENT, nodes, round=r) for r in (1, 2, 3)] == [
        [100, 101, 103, 104, 105],
        [100, 102, 103, 105, 106],
        [102, 103, 104, 105, 106],
    ]


@pytest.mark.parametrize(
    ("cohort", "oversampling", "there", "asked"),
    [(5, 0.5, 20, 8), (5, 0.01, 20, 6), (10, 0.1, 20, 11), (10, 0.3, 20, 13), (5, 3, 20, 20), (5, 9, 20, 20)],
)
def test_oversampling_asks_so_many_more_or_all_that_are_there(
    cohort: int, oversampling: float, there: int, asked: int
) -> None:
    experiment = experiment_with({"clients": 20, "cohort": cohort, "oversampling": oversampling})
    assert len(set(cohort_of(experiment, list(range(there)), round=1))) == asked


def test_all_that_are_there_are_asked_when_the_minimum_is_reached_and_the_cohort_is_not() -> None:
    assert cohort_of(EXPERIMENT, [7, 8, 9], round=1, least=2) == [7, 8, 9]
    with pytest.raises(RunError, match="the cohort needs 2 clients and only 1 are there"):
        cohort_of(EXPERIMENT, [7], round=1, least=2)


def test_every_node_is_asked_in_some_round() -> None:
    nodes = list(range(100, 108))
    assert {n for r in range(1, 30) for n in cohort_of(EXPERIMENT, nodes, round=r)} == set(nodes)


def test_too_few_nodes_for_a_cohort_are_an_error() -> None:
    with pytest.raises(RunError, match="round 4: the cohort needs 5 clients and only 4 are there"):
        cohort_of(EXPERIMENT, [1, 2, 3, 4], round=4)


def test_a_round_is_the_weighted_mean_of_the_replies() -> None:
    fleet = InMemoryFleet()
    played = play(first_state(), fleet)
    weights = {node: node % 5 + 1 for node in played.cohort}
    total = sum(weights.values())
    votes = {n: np.where(np.random.default_rng(n).random(MASK.kept) < 0.5, 1, -1) for n in played.cohort}
    expected = sum(weights[n] * votes[n] for n in played.cohort) / total
    assert played.state.round == 1
    assert played.state.mask is MASK
    assert played.state.kept == pytest.approx(expected, abs=1e-6)
    assert played.state.floats == pytest.approx(
        FLOATS * sum(weights[n] * n / 7 for n in played.cohort) / total, rel=1e-6
    )
    assert played.fold.clients == set(played.cohort) == set(fleet.asked)
    assert played.fold.bytes_down == sum(len(p) + 10 for p in fleet.asked.values())


def test_the_state_before_a_round_is_not_changed() -> None:
    state = first_state()
    kept, floats = state.kept.copy(), state.floats.copy()
    play(state, InMemoryFleet(), experiment=experiment_with(memory=0.5))
    assert np.array_equal(state.kept, kept)
    assert np.array_equal(state.floats, floats)
    assert state.held == {}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("signs", ["drift", "mean", "vote", "innovation"])
def test_the_order_of_replies_changes_no_bit(seed: int, signs: str) -> None:
    experiment = experiment_with(memory=0.3, signs=signs)
    failing = frozenset({102})

    def shuffled(requests: list[Request]) -> list[Request]:
        return [requests[i] for i in np.random.default_rng(seed).permutation(len(requests))]

    plain = play(first_state(), InMemoryFleet(failing=failing), experiment=experiment)
    other = play(first_state(), InMemoryFleet(failing=failing, order=shuffled), experiment=experiment)
    assert other.state.kept.tobytes() == plain.state.kept.tobytes()
    assert other.state.floats.tobytes() == plain.state.floats.tobytes()
    assert other.state.held == plain.state.held
    assert other.fold.train_loss() == plain.fold.train_loss()
    assert other.cohort == plain.cohort
    assert other.entropy_down == plain.entropy_down


def test_the_mask_is_sent_once_to_each_node() -> None:
    fleet, state, known = InMemoryFleet(), first_state(), set()
    for _ in range(6):
        played = play(state, fleet)
        for node, payload in fleet.asked.items():
            header, sections = decode_payload(payload, limit=10_000)
            assert header.mask_digest == MASK.digest
            assert has_mask(sections) == (node not in known)
            if has_mask(sections):
                assert read_mask(sections, MASK.size, shapes=list(MASK.shapes.values())).data.tobytes() == MASK.packed()
                assert header.tensors == fleet.speaks.architecture.tensors()
            else:
                assert header.tensors == ()
        known |= set(played.cohort)
        state = played.state
        assert set(state.held) == known


def test_a_node_that_failed_is_given_the_mask_again() -> None:
    everyone = dict.fromkeys(EVERYONE, 6)
    cohort = cohort_of(EXPERIMENT, sorted(EVERYONE), round=7)
    failed = cohort[2]
    fleet = InMemoryFleet(failing=frozenset({failed}))
    played = play(first_state(round=6, held=everyone), fleet)
    assert played.state.held == {node: 7 if node in cohort else 6 for node in EVERYONE - {failed}}
    assert [f.client for f in played.fold.failures] == [f"client-{failed}"]
    assert failed not in played.fold.clients


def test_requests_to_holders_cost_no_mask() -> None:
    strangers, holders = InMemoryFleet(), InMemoryFleet()
    new = play(first_state(round=6), strangers)
    known = play(first_state(round=6, held=dict.fromkeys(EVERYONE, 6)), holders)
    assert known.fold.bytes_down < new.fold.bytes_down
    assert "mask/bits" not in known.sections_down
    assert new.entropy_down - known.entropy_down == pytest.approx(5 * MASK_BOUND, rel=1e-5)


def test_too_few_replies_end_the_run_and_the_error_names_the_first_client() -> None:
    cohort = cohort_of(EXPERIMENT, list(range(100, 108)), round=1)
    fleet = InMemoryFleet(failing=frozenset(cohort[1:]))
    with pytest.raises(RunError) as caught:
        play(first_state(), fleet, experiment=experiment_with(min_replies=2))
    assert str(caught.value) == (
        f"round 1: 1 of 5 clients gave a usable reply and 2 are needed; client-{cohort[1]}: no power on {cohort[1]}"
    )


def test_no_reply_at_all_ends_the_run() -> None:
    with pytest.raises(RunError, match="0 of 5 clients gave a usable reply and 1 are needed"):
        play(first_state(), InMemoryFleet(failing=frozenset(range(100, 108))))


def test_a_cohort_that_cannot_be_enough_is_an_error_without_a_failure_to_name() -> None:
    aggregation = EXPERIMENT.aggregation.model_copy(update={"min_replies": 6})
    with pytest.raises(RunError, match=r"5 of 5 clients .* 6 are needed; lower aggregation\.min_replies"):
        play(first_state(), InMemoryFleet(), experiment=EXPERIMENT.model_copy(update={"aggregation": aggregation}))


def test_innovation_counts_from_what_was_sent_and_not_from_what_was_held() -> None:
    experiment = experiment_with(signs="innovation", gain=0.5, spread=0.25, levels=2)
    old = np.linspace(-0.9, 0.9, MASK.kept, dtype=np.float32)
    plain = play(first_state(kept=old), InMemoryFleet()).state.kept
    moved = play(first_state(kept=old), InMemoryFleet(), experiment=experiment).state.kept
    # Two levels send ±1, four times the spread, which predicts a vote of ±(2Φ(4) - 1) = ±0.99993666.
    expected = np.clip(old + 0.5 * (plain - np.where(old >= 0, 0.99993666, -0.99993666)), -1, 1)
    assert moved == pytest.approx(expected, abs=1e-5)


def test_memory_blends_the_old_votes_with_the_new() -> None:
    old = np.linspace(-1, 1, MASK.kept, dtype=np.float32)
    plain = play(first_state(kept=old), InMemoryFleet()).state.kept
    blended = play(first_state(kept=old), InMemoryFleet(), experiment=experiment_with(memory=0.75)).state.kept
    assert blended == pytest.approx(0.75 * old + 0.25 * plain, abs=1e-6)
    assert blended.dtype == np.float32
    assert np.abs(blended).max() <= 1


def test_an_answer_in_signs_is_no_answer_in_weights() -> None:
    layers = list(MASK.layer_kept().values())
    signs, weights = exchange_of(EXPERIMENT), exchange_of(EXPERIMENT.model_copy(update={"representation": "weights"}))

    class Confused(InMemoryFleet):
        def _answer(self, request: Request) -> bytes:
            header, _ = decode_payload(request.payload, limit=10_000)
            version = signs.version(
                header.round, header.mask_digest, kept=first_state().kept, floats=FLOATS, layers=layers
            )
            asked = encode_payload(header, signs.encode(version, base=None, layers=layers))
            return super()._answer(replace(request, payload=asked))

    with pytest.raises(RunError, match="KIND_WEIGHTS is missing"):
        play_round(
            first_state(),
            experiment=EXPERIMENT.model_copy(update={"representation": "weights"}),
            exchange=weights,
            fleet=Confused(speaks=signs),
            observer=Observer(),
        )


def test_the_observer_hears_of_each_reply() -> None:
    heard: list[object] = []

    class Listener(Observer):
        def asked(self, *, round: int, clients: int) -> None:
            heard.append((round, clients))

        def replied(self) -> None:
            heard.append("replied")

    play_round(
        first_state(),
        experiment=EXPERIMENT,
        exchange=exchange_of(EXPERIMENT),
        fleet=InMemoryFleet(failing=frozenset({100, 101})),
        observer=Listener(),
    )
    assert heard == [(1, 5), *["replied"] * 5]


def test_requests_carry_the_experiment_and_the_round() -> None:
    fleet = InMemoryFleet()
    play(first_state(), fleet)
    for payload in fleet.asked.values():
        header, _ = decode_payload(payload, limit=10_000)
        assert header.experiment.hex() == EXPERIMENT.digest()
        assert header.round == 1
    with pytest.raises(PayloadError):
        decode_payload(payload, limit=len(payload) - 1)


class Clock:
    """Stands for the time, and moves on before each reply."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: float) -> None:
        self.now, self.step = 0.0, step
        monkeypatch.setattr("hedgerow.server.rounds.time.monotonic", lambda: self.now)

    def tick(self, node: int) -> None:
        self.now += self.step


def test_a_round_ends_with_as_many_usable_replies_as_a_cohort_has() -> None:
    experiment = experiment_with({"oversampling": 0.5})
    first = min(EVERYONE)
    fleet = InMemoryFleet(failing=frozenset({first}))
    played = play(first_state(round=6, held=dict.fromkeys(EVERYONE, 6)), fleet, experiment=experiment)
    assert list(played.cohort) == sorted(EVERYONE) == sorted(fleet.asked)
    assert fleet.replied == list(range(100, 106)), "the one that failed was made up for"
    assert played.fold.clients == set(range(101, 106))
    assert played.fold.answered == set(range(100, 106))
    assert played.state.held == dict.fromkeys(range(101, 106), 7), "who came too late is given the mask again"


def test_what_was_sent_to_those_that_came_too_late_is_left_out_on_both_sides() -> None:
    plain = play(first_state(), InMemoryFleet(count=5))
    late = play(first_state(), InMemoryFleet(), experiment=experiment_with({"oversampling": 0.5}))
    assert len(late.cohort) == 8
    assert late.fold.bytes_down == plain.fold.bytes_down
    assert late.entropy_down == plain.entropy_down
    assert late.sections_down == plain.sections_down


def test_a_deadline_ends_a_round_that_has_its_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step=10)
    fleet = InMemoryFleet(before_reply=clock.tick)
    experiment = experiment_with({"deadline": 35}, min_replies=2)
    played = play(first_state(), fleet, experiment=experiment)
    assert len(played.fold.clients) == 3, "replies at 10, 20 and 30 seconds count; the one at 40 comes too late"
    assert len(played.cohort) == 5


def test_after_the_deadline_a_round_goes_on_to_its_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step=10)
    cohort = cohort_of(EXPERIMENT, sorted(EVERYONE), round=1)
    fleet = InMemoryFleet(before_reply=clock.tick, failing=frozenset(cohort[:2]))
    experiment = experiment_with({"deadline": 5}, min_replies=2)
    played = play(first_state(), fleet, experiment=experiment)
    assert played.fold.clients == set(cohort[2:4])
    assert fleet.replied == cohort[:4]


def test_without_a_deadline_a_round_waits_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step=1e9)
    assert len(play(first_state(), InMemoryFleet(before_reply=clock.tick)).fold.clients) == 5


@pytest.mark.parametrize(("failing", "lost", "answered"), [(range(100, 108), (), True), ((), range(100, 108), False)])
def test_too_few_replies_say_whether_devices_answered(
    failing: Iterable[int], lost: Iterable[int], answered: bool
) -> None:
    fleet = InMemoryFleet(failing=frozenset(failing), lost=frozenset(lost))
    with pytest.raises(TooFewRepliesError) as caught:
        play(first_state(), fleet)
    assert (caught.value.usable, caught.value.answered) == (frozenset(), answered)


def test_too_few_replies_say_whose_were_usable() -> None:
    cohort = cohort_of(EXPERIMENT, sorted(EVERYONE), round=1)
    with pytest.raises(TooFewRepliesError) as caught:
        play(first_state(), InMemoryFleet(lost=frozenset(cohort[2:])), experiment=experiment_with(min_replies=3))
    assert (caught.value.usable, caught.value.answered) == (frozenset(cohort[:2]), False)


def test_a_round_begins_when_so_many_nodes_are_there() -> None:
    fleet = InMemoryFleet(count=3)
    assert list(play(first_state(), fleet, least=2).cohort) == [100, 101, 102]
    play(first_state(), InMemoryFleet())
    assert fleet.waits == [2]


def test_bytes_stand_against_their_entropy_by_kind_and_codec() -> None:
    played = play(first_state(), InMemoryFleet())
    down, up = played.sections_down, played.fold.sections()
    assert sorted(down) == ["floats/float32", "mask/bits", "votes/symbols_rans"]
    assert sorted(up) == ["counts/float32", "flips/symbols_rans", "floats/float32"]
    # 5 replies of 9 counts, 2 floats and 7 signs; 5 requests with a mask of 15 weights, of which 7 are kept.
    assert (up["counts/float32"].bytes, up["floats/float32"].bytes, up["floats/float32"].entropy) == (180, 40, 40)
    assert (down["mask/bits"].bytes, down["floats/float32"].bytes) == (10, 40)
    assert down["mask/bits"].entropy == pytest.approx(5 * MASK_BOUND, rel=1e-5)
    # So little is coded without contexts: 4 of the 7 levels are the highest and 3 the lowest, H(3/7) = 0.9852281 bits.
    assert down["votes/symbols_rans"].entropy == pytest.approx(5 * 7 * 0.9852281 / 8, rel=1e-5)
    assert up["flips/symbols_rans"].entropy == pytest.approx(sum(binary_entropy_bytes(n, 7) for n in played.fold.flips))
    for each in (down["votes/symbols_rans"], up["flips/symbols_rans"]):
        assert each.entropy <= each.bytes
    assert sum(s.entropy for s in down.values()) == pytest.approx(played.entropy_down)
    assert sum(s.entropy for s in up.values()) == pytest.approx(sum(played.fold.entropies))


SLOW = experiment_with(signs="drift", gain=0.02)
"""Few levels change in a round."""


def large_state() -> RoundState:
    spread = np.random.default_rng(1).uniform(-1, 1, LARGE.kept).astype(np.float32)
    return first_state(mask=LARGE, kept=spread)


def large_fleet(**settings: Any) -> InMemoryFleet:
    return InMemoryFleet(mask=LARGE, **settings)


def version_of(state: RoundState, experiment: Experiment) -> Version:
    exchange = exchange_of(experiment, state.mask)
    return exchange.version(
        state.round + 1,
        state.mask.digest,
        kept=state.kept,
        floats=state.floats,
        layers=list(state.mask.layer_kept().values()),
    )


def same_version(one: Version, other: Version) -> bool:
    arrays = ((one.kept, other.kept), (one.floats, other.floats))
    return one.round == other.round and all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in arrays)


CHANGES = {
    "levels": SLOW,
    "abstaining": experiment_with(signs="drift", gain=0.02, others={"signs": {"abstain": 0.9, "voters": "largest"}}),
    "drawn": experiment_with(signs="drift", gain=0.02, others={"signs": {"abstain": 0.5}}),
    "flips": experiment_with(signs="vote", memory=0.9),
    "weights in fp16": experiment_with(others={"representation": "weights", "wire": {"down": "fp16"}}),
    "weights in bf16": experiment_with(others={"representation": "weights", "wire": {"down": "bf16", "up": "bf16"}}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_node_is_sent_what_changed_since_the_version_that_it_acknowledged(case: str) -> None:
    experiment, state, history = CHANGES[case], large_state(), MemoryHistory(most=8)
    stride = 0.01 if experiment.representation == "weights" else 2.0
    fleet, updated = large_fleet(stride=stride), 0
    for _ in range(5):
        whole = large_fleet(stride=stride)
        play(replace(state, held=dict.fromkeys(EVERYONE, state.round)), whole, experiment=experiment)
        played = play(state, fleet, experiment=experiment, history=history)
        for node, payload in fleet.asked.items():
            header, sections = decode_payload(payload, limit=10_000)
            assert header.base == state.held.get(node, 0)
            assert has_mask(sections) == (node not in state.held)
            assert same_version(fleet.remembered[node], version_of(state, experiment))
            assert same_version(fleet.remembered[node], whole.remembered[node])
            if header.base:
                updated += 1
                assert len(payload) < len(whole.asked[node])
        assert played.bases == Counter(state.held.get(node, NEW) for node in played.cohort)
        assert played.state.held == {**state.held, **dict.fromkeys(played.cohort, state.round + 1)}
        state = played.state
    assert updated > 10


def test_what_clients_start_from_does_not_depend_on_how_they_were_told() -> None:
    told, fresh = large_state(), large_state()
    history, fleet = MemoryHistory(most=8), large_fleet()
    for _ in range(4):
        told = play(told, fleet, experiment=SLOW, history=history).state
        fresh = play(fresh, large_fleet(), experiment=SLOW).state
    assert told.kept.tobytes() == fresh.kept.tobytes()
    assert told.floats.tobytes() == fresh.floats.tobytes()
    assert told.held == fresh.held


def test_requests_of_changes_are_counted_at_their_size() -> None:
    history, fleet, state = MemoryHistory(most=8), large_fleet(), large_state()
    for _ in range(4):
        played = play(state, fleet, experiment=SLOW, history=history)
        state = played.state
        sent = [decode_payload(payload, limit=10_000)[1].values() for payload in fleet.asked.values()]
        lengths = Counter[str]()
        for section in itertools.chain.from_iterable(sent):
            lengths[section_label(section)] += len(section.data)
        assert {label: found.bytes for label, found in played.sections_down.items()} == lengths
        assert played.entropy_down == pytest.approx(sum(found.entropy for found in played.sections_down.values()))
        assert all(0 < found.entropy <= found.bytes for found in played.sections_down.values())


def test_a_version_that_is_no_longer_known_is_answered_with_the_whole() -> None:
    history, fleet, state = MemoryHistory(most=2), large_fleet(), large_state()
    seen = Counter[str]()
    for number in range(1, 9):
        played = play(state, fleet, experiment=SLOW, history=history)
        for node, payload in fleet.asked.items():
            base = decode_payload(payload, limit=10_000)[0].base
            held = state.held.get(node, NEW)
            # Two versions are known, and this round's is one of them.
            assert base == (held if held == number - 1 else 0)
            seen["new" if held == NEW else "changes" if base else "whole"] += 1
        assert played.bases[WHOLE] == sum(0 < state.held.get(node, NEW) < number - 1 for node in fleet.asked)
        state = played.state
    assert min(seen["new"], seen["changes"], seen["whole"]) > 3, seen


def test_without_a_history_everybody_is_sent_the_whole() -> None:
    fleet, state = large_fleet(), large_state()
    for _ in range(3):
        played = play(state, fleet, experiment=SLOW)
        assert all(decode_payload(payload, limit=10_000)[0].base == 0 for payload in fleet.asked.values())
        assert set(played.bases) <= {NEW, WHOLE}
        state = played.state


def test_who_failed_or_came_too_late_holds_nothing_until_it_answers_again() -> None:
    experiment = SLOW.model_copy(update={"fleet": SLOW.fleet.model_copy(update={"oversampling": 9.0})})
    history, fleet, state = MemoryHistory(most=8), large_fleet(), large_state()
    # All eight are asked; 100 to 104 answer first.
    state = play(state, fleet, experiment=experiment, history=history).state
    assert state.held == dict.fromkeys(range(100, 105), 1)
    fleet.order, fleet.failing = lambda requests: requests[::-1], frozenset({104})
    played = play(state, fleet, experiment=experiment, history=history)
    # 107 to 105 were late and 104 fails; 102 is the fifth that is usable, so that 101 and 100 are late.
    assert fleet.replied == [107, 106, 105, 104, 103, 102]
    assert played.state.held == dict.fromkeys((102, 103, 105, 106, 107), 2)
    assert played.bases == {NEW: 3, 1: 3}
    play(played.state, fleet, experiment=experiment, history=history)
    bases = {node: decode_payload(payload, limit=10_000)[0].base for node, payload in fleet.asked.items()}
    assert bases == {node: 2 if node in played.state.held else 0 for node in EVERYONE}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with SqliteJournal(tmp_path / "journal.sqlite") as opened:
        yield opened


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_after(count: int) -> Callable[[int], None]:
    seen: list[int] = []

    def before_reply(node: int) -> None:
        if len(seen) == count:
            raise KilledError
        seen.append(node)

    return before_reply


def same(one: Round, other: Round) -> bool:
    return (
        one.state.kept.tobytes() == other.state.kept.tobytes()
        and one.state.floats.tobytes() == other.state.floats.tobytes()
        and one.state.held == other.state.held
        and list(one.cohort) == list(other.cohort)
        and one.fold.sections() == other.fold.sections()
        and sorted(one.fold.entropies) == sorted(other.fold.entropies)
        and sorted(one.fold.measures, key=str) == sorted(other.fold.measures, key=str)
        and (one.sections_down, one.entropy_down) == (other.sections_down, other.entropy_down)
        and one.bases == other.bases
        and sorted(one.fold.failures, key=str) == sorted(other.fold.failures, key=str)
        and (one.fold.bytes_up, one.fold.bytes_down) == (other.fold.bytes_up, other.fold.bytes_down)
    )


@pytest.mark.parametrize("count", range(6))
def test_a_round_goes_on_where_it_was_killed_and_asks_only_the_others(count: int, journal: SqliteJournal) -> None:
    cohort = cohort_of(EXPERIMENT, sorted(EVERYONE), round=1)
    failing = frozenset({cohort[1]})
    undisturbed = play(first_state(), InMemoryFleet(failing=failing))
    if count < 5:
        with pytest.raises(KilledError):
            play(first_state(), InMemoryFleet(failing=failing, before_reply=killed_after(count)), journal=journal)
    else:
        play(first_state(), InMemoryFleet(failing=failing), journal=journal)
    # By now another is there, and who has failed would not fail again: neither changes the round that was begun.
    fleet = InMemoryFleet(count=9, failing=failing if count < 2 else frozenset())
    assert same(play(first_state(), fleet, journal=journal), undisturbed)
    assert sorted(fleet.asked) == cohort[count:]


def test_a_closed_round_counts_exactly_who_counted_and_waits_for_nobody(journal: SqliteJournal) -> None:
    experiment = experiment_with({"oversampling": 0.5})
    lost = frozenset({101})
    first = play(first_state(), InMemoryFleet(lost=lost), experiment=experiment, journal=journal)
    fleet = InMemoryFleet(order=lambda requests: requests[::-1])
    again = play(first_state(), fleet, experiment=experiment, journal=journal)
    assert same(first, again)
    assert [failure.kind for failure in again.fold.failures] == ["lost"]
    assert (fleet.asked, fleet.waits) == ({}, [])


def test_a_node_that_was_lost_is_asked_again_after_a_restart(journal: SqliteJournal) -> None:
    cohort = cohort_of(EXPERIMENT, sorted(EVERYONE), round=1)
    crashing = InMemoryFleet(lost=frozenset(cohort[:2]), before_reply=killed_after(3))
    with pytest.raises(KilledError):
        play(first_state(), crashing, journal=journal)
    fleet = InMemoryFleet()
    assert same(play(first_state(), fleet, journal=journal), play(first_state(), InMemoryFleet()))
    assert sorted(fleet.asked) == sorted([*cohort[:2], *cohort[3:]])


def test_enough_replies_in_the_journal_close_the_round_without_asking(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_with({"oversampling": 0.5})

    def killed(*arguments: object, **named: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(SqliteJournal, "close", killed)
        with pytest.raises(KilledError):
            play(first_state(), InMemoryFleet(), experiment=experiment, journal=journal)
    fleet = InMemoryFleet(order=lambda requests: requests[::-1])
    again = play(first_state(), fleet, experiment=experiment, journal=journal)
    assert same(again, play(first_state(), InMemoryFleet(), experiment=experiment))
    assert fleet.asked == {}


def test_a_round_played_again_keeps_usable_replies_and_asks_the_rest(journal: SqliteJournal) -> None:
    cohort = cohort_of(EXPERIMENT, sorted(EVERYONE), round=1)
    experiment = experiment_with(min_replies=4)
    fleet = InMemoryFleet(failing=frozenset({cohort[0]}), lost=frozenset({cohort[1]}))
    with pytest.raises(TooFewRepliesError) as caught:
        play(first_state(), fleet, experiment=experiment, journal=journal)
    journal.retry(1, keep=caught.value.usable)
    fleet = InMemoryFleet()
    assert same(
        play(first_state(), fleet, experiment=experiment, journal=journal),
        play(first_state(), InMemoryFleet(), experiment=experiment),
    )
    assert sorted(fleet.asked) == cohort[:2]


def test_a_closed_round_whose_replies_are_gone_is_refused(journal: SqliteJournal) -> None:
    journal.begin(1, [100, 101])
    journal.close(1, counted={100}, lost=[])
    with pytest.raises(RunError, match="the journal lacks replies that count"):
        play(first_state(), InMemoryFleet(), journal=journal)


@pytest.mark.parametrize("count", range(6))
def test_a_round_of_changes_goes_on_where_it_was_killed_with_the_same_bytes(
    count: int, journal: SqliteJournal, tmp_path: Path
) -> None:
    state, folder, other = large_state(), tmp_path / "versions", tmp_path / "undisturbed"
    fleet = large_fleet()
    for _ in range(3):
        state = play(state, fleet, experiment=SLOW, history=FolderHistory(folder, most=2)).state
    shutil.copytree(folder, other)
    plain = large_fleet(remembered=dict(fleet.remembered))
    undisturbed = play(state, plain, experiment=SLOW, history=FolderHistory(other, most=2))
    assert {WHOLE, 3} <= set(undisturbed.bases)
    if count < 5:
        fleet.before_reply = killed_after(count)
        with pytest.raises(KilledError):
            play(state, fleet, experiment=SLOW, history=FolderHistory(folder, most=2), journal=journal)
    else:
        play(state, fleet, experiment=SLOW, history=FolderHistory(folder, most=2), journal=journal)
    fleet.before_reply, fleet.asked = lambda node: None, {}
    resumed = play(state, fleet, experiment=SLOW, history=FolderHistory(folder, most=2), journal=journal)
    assert same(resumed, undisturbed)
    assert fleet.asked == {node: plain.asked[node] for node in undisturbed.cohort[count:]}
    assert contents(folder) == contents(other)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
