"""Masks that change in a run: whatever a device holds, it ends with the round's mask and version, to the bit."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.assembly import representation_of
from hedgerow.client.memory import ClientState, Memories
from hedgerow.codec import Floats, Growth, Header, Sections, decode_payload, encode_payload, has_mask
from hedgerow.config import Experiment
from hedgerow.errors import PayloadError
from hedgerow.exchange import Architecture, Exchange, Version
from hedgerow.pruning import Mask
from hedgerow.pruning.moves import Moves
from hedgerow.representation import Said
from hedgerow.server.history import FolderHistory, History, MemoryHistory
from hedgerow.server.outgoing import NEW, WHOLE, Outgoing
from hedgerow.server.state import RoundState
from hedgerow.v1 import payload_pb2 as pb

MOST = 1_000_000
SMALL: dict[str, tuple[int, ...]] = {"a.weight": (30, 50), "b.weight": (10, 30)}
FLOATS = 61


def experiment_with(*, representation: str = "signs", signs: str = "mean", **wire: object) -> Experiment:
    return Experiment.model_validate(
        {"representation": representation, "aggregation": {"signs": signs, "levels": 16}, "wire": wire}
    )


CHANGES = {
    "levels": experiment_with(),
    "levels and halves": experiment_with(down="bf16"),
    "signs": experiment_with(signs="vote", down="fp16"),
    "weights in steps": experiment_with(representation="weights", down="uniform"),
    "weights in bf16": experiment_with(representation="weights", down="bf16"),
    "weights in fp16": experiment_with(representation="weights", down="fp16"),
}
MASKS_ONLY = {"weights": experiment_with(representation="weights")}
ALWAYS_WHOLE = {
    "plain levels": experiment_with(coder="plain"),
    "plain weights": experiment_with(coder="plain", representation="weights", down="bf16"),
    "no history": experiment_with(history=0),
}
EVERY = {**CHANGES, **MASKS_ONLY, **ALWAYS_WHOLE}


def first_mask(shapes: dict[str, tuple[int, ...]], *, density: float) -> Mask:
    generator = np.random.default_rng(3)
    return Mask({name: torch.from_numpy(generator.random(shape) < density) for name, shape in shapes.items()})


def exchanged(mask: Mask, *, fraction: float, seed: int) -> Mask:
    """The mask with that fraction of its kept weights pruned, and as many grown."""
    generator, bits = np.random.default_rng(seed), mask.flat()
    count = max(1, round(fraction * mask.kept))
    goes = generator.choice(np.flatnonzero(bits), count, replace=False)
    comes = generator.choice(np.flatnonzero(~bits), count, replace=False)
    bits[goes], bits[comes] = False, True
    return Mask.unpack(np.packbits(bits).tobytes(), mask.shapes)


def grown_to(values: Floats, old: Mask, new: Mask) -> Floats:
    return Moves.between(old, new).carried(values, grown=0.1)


@dataclass
class Run:
    """A coordinator whose mask changes when it is told to, and devices without training."""

    experiment: Experiment
    history: History = field(default_factory=lambda: MemoryHistory(most=8))
    mask: Mask = field(default_factory=lambda: first_mask(SMALL, density=0.4))
    devices: dict[int, ClientState] = field(default_factory=dict)
    sent: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        architecture = Architecture(self.mask.shapes, {"bias": (FLOATS - 1,), "steps": ()}, (False, False))
        self.exchange = Exchange.of(
            self.experiment, architecture=architecture, representation=representation_of(self.experiment)
        )
        if self.experiment.wire.history == 0:
            self.history = MemoryHistory(most=0)
        generator = np.random.default_rng(1)
        self.state = RoundState(
            round=0,
            mask=self.mask,
            kept=generator.uniform(-1, 1, self.mask.kept).astype(np.float32),
            floats=generator.uniform(0, 2, FLOATS).astype(np.float32),
        )

    def version(self) -> Version:
        state = self.state
        return self.exchange.version(
            state.round + 1,
            state.mask.digest,
            kept=state.kept,
            floats=state.floats,
            layers=list(state.mask.layer_kept().values()),
        )

    def outgoing(self) -> Outgoing:
        version = self.version()
        header = Header(bytes.fromhex(self.experiment.digest()), version.round, version.mask_digest)
        return Outgoing(header, version, exchange=self.exchange, state=self.state, history=self.history)

    def play(self, *cohort: int, change: bool = False) -> dict[int, int]:
        """One round, in which all that is told is checked; what each node's request was built on."""
        outgoing, version, bases = self.outgoing(), self.version(), {}
        for request in outgoing.requests(cohort):
            node = request.node
            (bases[node],) = outgoing.bases([node])
            self.sent[node] = request.payload
            told, mask, self.devices[node] = self.receive(request.payload, self.devices.get(node, ClientState()))
            assert same(told, version)
            assert mask == self.state.mask
        self.following(cohort, change=change)
        return bases

    def following(self, cohort: tuple[int, ...], *, change: bool) -> None:
        state, number = self.state, self.state.round + 1
        generator = np.random.default_rng(number)
        kept = np.clip(state.kept + generator.normal(0, 0.01, state.kept.size), -1, 1).astype(np.float32)
        mask, since = state.mask, state.since
        if change:
            mask, since = exchanged(mask, fraction=0.1, seed=number), number + 1
            kept = grown_to(kept, state.mask, mask)
        held = {**state.held, **dict.fromkeys(cohort, number)}
        self.state = RoundState(round=number, mask=mask, kept=kept, floats=state.floats, held=held, since=since)

    def receive(self, payload: bytes, state: ClientState) -> tuple[Version, Mask, ClientState]:
        header, sections = decode_payload(payload, limit=MOST)
        memories = Memories(self.exchange, state, limit=MOST)
        if has_mask(sections) or pb.KIND_MASK_DELTA in sections:
            mask = memories.new_mask(header, sections)
        else:
            mask = self.exchange.decode_mask(memories.mask(header.mask_digest))
        layers, base = tuple(mask.layer_kept().values()), None
        if header.base:
            base = memories.version(header.base, header.mask_digest, layers=layers)
        version = self.exchange.decode(
            sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=layers
        )
        silent = Said(next(iter(sections.values())))
        return version, mask, memories.after(header, version, layers=layers, said=(silent, silent), sections=sections)


def same(one: Version, other: Version) -> bool:
    return (one.round, one.mask_digest) == (other.round, other.mask_digest) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in ((one.kept, other.kept), (one.floats, other.floats))
    )


def parts(payload: bytes) -> tuple[Header, Sections]:
    return decode_payload(payload, limit=MOST)


@pytest.mark.parametrize("case", CHANGES)
def test_whoever_held_the_version_before_is_told_what_changed_of_mask_and_values(case: str) -> None:
    run = Run(CHANGES[case])
    assert run.play(1, 2) == {1: NEW, 2: NEW}
    assert run.play(1, change=True) == {1: 1}
    assert run.play(1, 3) == {1: 2, 3: NEW}
    header, sections = parts(run.sent[1])
    assert (header.base, header.tensors) == (2, ())
    assert pb.KIND_MASK_DELTA in sections
    assert not has_mask(sections)
    assert len(run.sent[1]) < len(run.sent[3])
    # Then the mask stays, and is not spoken of.
    assert run.play(1, 2, 3, change=True) == {1: 3, 2: 1, 3: 3}
    assert pb.KIND_MASK_DELTA in parts(run.sent[2])[1]
    assert pb.KIND_MASK_DELTA not in parts(run.sent[1])[1]
    assert run.play(1, 2) == {1: 4, 2: 4}


def test_values_that_are_always_whole_come_with_what_changed_of_the_mask() -> None:
    run = Run(MASKS_ONLY["weights"])
    run.play(1, 2, change=True)
    assert run.play(1, 3, change=True) == {1: 1, 3: NEW}
    header, sections = parts(run.sent[1])
    assert header.base == 0, "its values build on nothing"
    assert set(sections) == {pb.KIND_MASK_DELTA, pb.KIND_WEIGHTS, pb.KIND_FLOATS}
    assert not run.devices[1].version
    assert run.play(1, 2, 3) == {1: 2, 2: 1, 3: 2}
    assert run.play(1, 2) == {1: WHOLE, 2: WHOLE}


@pytest.mark.parametrize("case", ALWAYS_WHOLE)
def test_where_nothing_is_told_as_a_change_a_new_mask_goes_whole_to_everybody(case: str) -> None:
    run = Run(ALWAYS_WHOLE[case])
    run.play(1, 2)
    assert run.play(1, change=True) == {1: WHOLE}
    assert run.play(1, 2) == {1: NEW, 2: NEW}
    assert run.play(1, 2) == {1: WHOLE, 2: WHOLE}


@pytest.mark.parametrize("case", [*CHANGES, *MASKS_ONLY])
def test_who_was_away_for_longer_than_anybody_remembers_is_sent_the_whole(case: str) -> None:
    run = Run(EVERY[case], history=MemoryHistory(most=3))
    run.play(1, 2)
    run.play(1, change=True)
    run.play(1)
    run.play(1)
    # Version 1 is forgotten; with it, at the next change, its mask.
    assert run.play(2, 3) == {2: NEW, 3: NEW}
    run.play(1, 2, change=True)
    run.play(1)
    for _ in range(2):
        run.play()
    # Nobody remembers version 7 any more after two more, but whoever holds it has the mask.
    run.play()
    assert run.play(1, 2) == {1: WHOLE, 2: NEW}


@pytest.mark.parametrize("case", [*CHANGES, *MASKS_ONLY])
def test_a_version_whose_mask_was_lost_or_damaged_costs_the_whole_and_nothing_else(case: str, tmp_path: Path) -> None:
    run = Run(EVERY[case], history=FolderHistory(tmp_path, most=8))
    run.play(1, 2, change=True)
    path = tmp_path / f"{run.mask.digest.hex()}.mask"
    whole = path.read_bytes()
    other = exchanged(run.mask, fraction=0.1, seed=9)
    for lost in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b""):
        path.write_bytes(lost)
        assert run.outgoing().bases([1, 2]) == {NEW: 2}
    run.history.add_mask(run.mask.digest, other.packed())
    assert run.outgoing().bases([1, 2]) == {NEW: 2}
    path.unlink()
    assert run.play(1, 2) == {1: NEW, 2: NEW}


@pytest.mark.parametrize("case", [*CHANGES, *MASKS_ONLY])
def test_a_device_that_lost_or_damaged_what_it_held_says_mismatch(case: str) -> None:
    run = Run(EVERY[case])
    run.play(1, 2, change=True)
    held, other = run.devices[1], Run(EVERY[case], mask=exchanged(run.mask, fraction=0.1, seed=5))
    other.play(1)
    (request,) = run.outgoing().requests([1])
    damaged = bytes([*held.mask[:-1], held.mask[-1] ^ 1])
    broken = [ClientState(), *(replace(held, mask=m) for m in (b"", b"\xff", damaged, other.devices[1].mask))]
    if run.exchange.remembers:
        broken += [replace(held, version=v) for v in (b"", held.version[:-1], other.devices[1].version)]
        broken.append(replace(held, mask=other.devices[1].mask, version=other.devices[1].version))
    for state in broken:
        with pytest.raises(PayloadError) as caught:
            run.receive(request.payload, state)
        assert caught.value.kind == "mismatch"
    assert same(run.receive(request.payload, held)[0], run.version())


@pytest.mark.parametrize("case", [*CHANGES, *MASKS_ONLY])
def test_what_is_kept_is_the_same_however_the_mask_was_told(case: str) -> None:
    run = Run(EVERY[case])
    run.play(1, 2, change=True)
    del run.devices[2]
    run.state = replace(run.state, held={1: 1})
    run.play(1, 2)
    assert pb.KIND_MASK_DELTA in parts(run.sent[1])[1]
    assert has_mask(parts(run.sent[2])[1])
    assert run.devices[1] == replace(run.devices[2], rounds=2)


@pytest.mark.parametrize("case", [*CHANGES, *MASKS_ONLY])
def test_every_damaged_byte_of_a_change_is_refused_or_changes_nothing_of_the_mask(case: str) -> None:
    run = Run(EVERY[case], mask=first_mask({"a.weight": (8, 12), "b.weight": (4, 8)}, density=0.4))
    run.play(1, change=True)
    (request,) = run.outgoing().requests([1])
    whole, held, kinds = request.payload, run.devices[1], set(parts(request.payload)[1])
    assert pb.KIND_MASK_DELTA in kinds
    header, sections = parts(whole)
    delta = sections[pb.KIND_MASK_DELTA]
    start, untouched = whole.index(delta.data), replace(held)
    refused = 0
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 0x10
        try:
            _, mask, _ = run.receive(bytes(data), held)
        except PayloadError:
            refused += 1
        else:
            assert mask.digest == parts(bytes(data))[0].mask_digest
            assert not start <= place < start + len(delta.data) or mask == run.state.mask
        assert held == untouched
    assert refused > len(delta.data)
    for length in range(len(delta.data)):
        short = {**sections, pb.KIND_MASK_DELTA: replace(delta, data=delta.data[:length])}
        with pytest.raises(PayloadError):
            run.receive(encode_payload(header, short.values()), held)
    for count in (0, delta.count - 1, delta.count + 1, 2**62):
        long = {**sections, pb.KIND_MASK_DELTA: replace(delta, count=count)}
        with pytest.raises(PayloadError, match="symbols, expected"):
            run.receive(encode_payload(header, long.values()), held)


@pytest.mark.parametrize("case", [*CHANGES, *MASKS_ONLY])
def test_a_coordinator_that_starts_again_sends_the_same_bytes(case: str, tmp_path: Path) -> None:
    run = Run(EVERY[case], history=FolderHistory(tmp_path, most=4))
    run.play(1, 2, change=True)
    run.play(1, change=True)
    before = list(run.outgoing().requests([1, 2, 3]))
    run.history = FolderHistory(tmp_path, most=4)
    assert list(run.outgoing().requests([1, 2, 3])) == before
    assert run.play(1, 2, 3) == {1: 2, 2: 1, 3: NEW}


def test_what_a_round_asks_is_not_remembered_with_its_version() -> None:
    run = Run(CHANGES["levels"])
    run.play(1)
    version = run.version()
    header = Header(bytes.fromhex(run.experiment.digest()), 2, version.mask_digest, growth=(Growth(0, 5),))
    asking = Outgoing(header, version, exchange=run.exchange, state=run.state, history=run.history)
    (request,) = asking.requests([1])
    assert parts(request.payload)[0] == replace(header, base=1)
    _, _, run.devices[1] = run.receive(request.payload, run.devices[1])
    run.following((1,), change=True)
    assert run.play(1) == {1: 2}


@pytest.mark.parametrize("case", ["levels and halves", "signs", "weights in bf16"])
def test_a_change_of_a_tenth_of_the_weights_is_far_smaller_than_the_whole_with_its_mask(case: str) -> None:
    run = Run(CHANGES[case], mask=first_mask({"a.weight": (300, 500)}, density=0.05))
    run.play(1, change=True)
    assert run.play(1, 2) == {1: 1, 2: NEW}
    mask = parts(run.sent[2])[1][pb.KIND_MASK]
    delta = parts(run.sent[1])[1][pb.KIND_MASK_DELTA]
    # H(0.1) of 7,500 kept weights and H(0.1 / 19) of the others are 3,500 and 6,700 bits, H(0.05) of all 43,000.
    assert len(delta.data) < 0.27 * len(mask.data)
    assert len(run.sent[1]) < 0.6 * len(run.sent[2])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(EVERY)),
    st.integers(1, 4),
    st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 3)), st.sampled_from([0, 0, 0, 1, 2])), max_size=9),
)
def test_whatever_happens_everybody_who_is_asked_ends_with_the_version(
    case: str, most: int, rounds: list[tuple[bool, set[int], int]]
) -> None:
    run = Run(EVERY[case], history=MemoryHistory(most=most))
    for change, cohort, lost in rounds:
        if lost in run.devices:
            run.devices[lost] = ClientState()
        nodes = sorted(cohort)
        # Who has lost what it held refuses, and is asked again as a stranger.
        for node in nodes:
            (request,) = run.outgoing().requests([node])
            try:
                run.receive(request.payload, run.devices.get(node, ClientState()))
            except PayloadError:
                held = {n: v for n, v in run.state.held.items() if n != node}
                run.state = replace(run.state, held=held)
        run.play(*nodes, change=change)
