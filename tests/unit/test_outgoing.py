"""What a round sends: the whole, the mask with it, or what changed since a version that the reader holds."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.assembly import representation_of
from hedgerow.codec import Floats, Header, Sections, decode_payload, encode_payload, has_mask, read_mask, section_label
from hedgerow.config import Experiment
from hedgerow.exchange import Architecture, Exchange, Version
from hedgerow.pruning import Mask
from hedgerow.server.history import FolderHistory, History, MemoryHistory
from hedgerow.server.outgoing import NEW, WHOLE, Outgoing
from hedgerow.server.state import RoundState
from hedgerow.v1 import payload_pb2 as pb

MASK = Mask(
    {
        "a.weight": torch.from_numpy(np.random.default_rng(0).permutation(1500).reshape(30, 50) < 600),
        "b.weight": torch.ones(10, 30, dtype=torch.bool),
    }
)
KEPT, LAYERS = 900, [600, 300]
ARCHITECTURE = Architecture(MASK.shapes, {"a.bias": (30,), "a.running_var": (30,), "b.steps": ()}, (False, True, False))
FLOATS = 61
MOST = 100_000


def experiment_with(*, representation: str = "signs", signs: str = "mean", **wire: object) -> Experiment:
    return Experiment.model_validate(
        {"representation": representation, "aggregation": {"signs": signs, "levels": 16}, "wire": wire}
    )


LEVELS = experiment_with()
EXPERIMENTS = {
    "levels": LEVELS,
    "levels and halves": experiment_with(down="fp16"),
    "signs": experiment_with(signs="vote"),
    "signs and halves": experiment_with(signs="vote", down="bf16"),
    "weights in fp16": experiment_with(representation="weights", down="fp16"),
    "weights in bf16": experiment_with(representation="weights", down="bf16"),
}
ALWAYS_WHOLE = {
    "weights": experiment_with(representation="weights"),
    "plain levels": experiment_with(coder="plain"),
    "plain signs": experiment_with(coder="plain", signs="vote", down="fp16"),
    "plain weights": experiment_with(coder="plain", representation="weights", down="bf16"),
}


def exchange_of(experiment: Experiment) -> Exchange:
    return Exchange.of(experiment, architecture=ARCHITECTURE, representation=representation_of(experiment))


def header_of(experiment: Experiment, *, round: int) -> Header:
    return Header(bytes.fromhex(experiment.digest()), round, MASK.digest)


@dataclass
class Run:
    """Rounds of one experiment whose state drifts; everybody holds `held`."""

    experiment: Experiment
    history: History = field(default_factory=lambda: MemoryHistory(most=32))
    versions: dict[int, Version] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exchange = exchange_of(self.experiment)

    def state(self, round: int, *, held: dict[int, int], seed: int = 0) -> RoundState:
        generator = np.random.default_rng(seed)
        kept, floats = generator.uniform(-1, 1, KEPT), generator.uniform(0, 2, FLOATS)
        for _ in range(round):
            kept, floats = kept + generator.normal(0, 0.01, KEPT), floats * generator.uniform(0.999, 1.001, FLOATS)
        return RoundState(
            round=round,
            mask=MASK,
            kept=np.clip(kept, -1, 1).astype(np.float32),
            floats=floats.astype(np.float32),
            held=held,
        )

    def outgoing(self, number: int, *, held: dict[int, int] | None = None, seed: int = 0) -> Outgoing:
        state = self.state(number - 1, held=held or {}, seed=seed)
        version = self.exchange.version(number, MASK.digest, kept=state.kept, floats=state.floats, layers=LAYERS)
        self.versions[number] = version
        header = header_of(self.experiment, round=number)
        return Outgoing(header, version, exchange=self.exchange, state=state, history=self.history)

    def read(self, payload: bytes, *, base: Version | None) -> Version:
        header, sections = decode_payload(payload, limit=MOST)
        return self.exchange.decode(
            sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=LAYERS
        )


def sent(outgoing: Outgoing, node: int) -> bytes:
    (request,) = outgoing.requests([node])
    assert request.node == node
    return request.payload


def parts(payload: bytes) -> tuple[Header, Sections]:
    return decode_payload(payload, limit=MOST)


def arrays(version: Version) -> list[tuple[object, bytes]]:
    return [(part.dtype, part.tobytes()) for part in (version.kept, version.floats)]


OLD, LOST, STRANGER = 1, 2, 3
"""Nodes: one holds version 3, one holds a version that nobody knows, one holds nothing."""


def prepared(experiment: Experiment, *, history: History | None = None) -> tuple[Run, Outgoing]:
    run = Run(experiment, history=MemoryHistory(most=32) if history is None else history)
    for number in (3, 4):
        run.outgoing(number)
    return run, run.outgoing(5, held={OLD: 3, LOST: 2})


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_who_holds_a_version_is_sent_what_changed_and_it_is_smaller_than_the_whole(case: str) -> None:
    run, outgoing = prepared(EXPERIMENTS[case])
    changes, whole = sent(outgoing, OLD), sent(outgoing, LOST)
    assert parts(changes)[0] == replace(header_of(run.experiment, round=5), base=3)
    assert parts(whole)[0] == header_of(run.experiment, round=5)
    assert len(changes) < len(whole)
    assert run.exchange.remembers


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_a_version_is_the_same_bit_for_bit_however_it_was_told(case: str) -> None:
    run, outgoing = prepared(EXPERIMENTS[case])
    told = run.read(sent(outgoing, OLD), base=run.versions[3])
    for payload in (sent(outgoing, LOST), sent(outgoing, STRANGER)):
        assert arrays(run.read(payload, base=None)) == arrays(told) == arrays(run.versions[5])
    starts = [run.exchange.starts(version) for version in (told, run.versions[5])]
    assert [part.tobytes() for part in starts[0]] == [part.tobytes() for part in starts[1]]


@pytest.mark.parametrize("case", ALWAYS_WHOLE)
def test_what_has_no_changes_is_always_sent_whole(case: str) -> None:
    run, outgoing = prepared(ALWAYS_WHOLE[case])
    assert not run.exchange.remembers
    assert sent(outgoing, OLD) == sent(outgoing, LOST)
    assert parts(sent(outgoing, OLD))[0].base == 0
    assert outgoing.bases([OLD, LOST, STRANGER]) == {WHOLE: 2, NEW: 1}
    assert arrays(run.read(sent(outgoing, OLD), base=None)) == arrays(run.versions[5])


@pytest.mark.parametrize("case", [*EXPERIMENTS, *ALWAYS_WHOLE])
def test_only_strangers_are_sent_the_mask_and_the_tensors(case: str) -> None:
    _, outgoing = prepared({**EXPERIMENTS, **ALWAYS_WHOLE}[case])
    header, sections = parts(sent(outgoing, STRANGER))
    assert header.tensors == ARCHITECTURE.tensors()
    assert header.base == 0
    bits = read_mask(sections, MASK.size, shapes=list(MASK.shapes.values()))
    assert bits.data.tobytes() == MASK.packed()
    whole = parts(sent(outgoing, LOST))[1]
    assert {kind: section for kind, section in sections.items() if kind != pb.KIND_MASK} == whole
    for node in (OLD, LOST):
        header, sections = parts(sent(outgoing, node))
        assert header.tensors == ()
        assert not has_mask(sections)


def test_requests_go_to_the_cohort_in_its_order_and_share_their_bytes() -> None:
    run = Run(LEVELS)
    for number in (3, 4):
        run.outgoing(number)
    held = {10: 3, 11: 3, 12: 4, 13: 1, 14: 2}
    requests = list(run.outgoing(5, held=held).requests([14, 10, 16, 12, 11, 13, 15]))
    assert [request.node for request in requests] == [14, 10, 16, 12, 11, 13, 15]
    payloads = {request.node: request.payload for request in requests}
    assert payloads[10] is payloads[11]
    assert payloads[13] is payloads[14], "versions that nobody knows"
    assert payloads[15] is payloads[16], "strangers"
    assert len({id(payload) for payload in payloads.values()}) == 4


def test_a_version_is_remembered_whole_before_anybody_is_sent_it() -> None:
    history = MemoryHistory(most=8)
    run = Run(LEVELS, history=history)
    outgoing = run.outgoing(3)
    found = history.find(3)
    assert found is not None
    assert arrays(run.read(found, base=None)) == arrays(run.versions[3])
    assert parts(found)[0] == header_of(LEVELS, round=3), "without the tensors"
    assert not has_mask(parts(found)[1])
    assert history.find(3) == sent(run.outgoing(3, held={OLD: 1}), OLD)
    assert sent(outgoing, STRANGER) != found


def test_a_round_that_is_played_again_sends_the_same_bytes() -> None:
    run, outgoing = prepared(LEVELS)
    nodes = [OLD, LOST, STRANGER]
    again = run.outgoing(5, held={OLD: 3, LOST: 2})
    assert list(again.requests(nodes)) == list(outgoing.requests(nodes))
    assert again.sections(nodes) == outgoing.sections(nodes)
    assert again.bases(nodes) == outgoing.bases(nodes)


class OneFile:
    """A history that finds these bytes, whatever version it is asked for."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data

    def add(self, round: int, payload: bytes, *, level: int = 0) -> None:
        """Forgets it."""

    def find(self, round: int, *, level: int = 0) -> bytes | None:
        return self.data

    def add_mask(self, digest: bytes, packed: bytes) -> None:
        """Forgets it."""

    def find_mask(self, digest: bytes) -> bytes | None:
        return None


def version_bytes(of: Experiment = LEVELS, *, round: int = 3, **header: Any) -> bytes:
    run = Run(of)
    found = run.history
    run.outgoing(round)
    payload = found.find(round)
    assert payload is not None
    read, sections = parts(payload)
    return encode_payload(replace(read, **header), sections.values())


def without(kind: pb.Kind) -> bytes:
    header, sections = parts(version_bytes())
    return encode_payload(header, [section for section in sections.values() if section.kind != kind])


def with_count(count: int) -> bytes:
    header, sections = parts(version_bytes())
    return encode_payload(header, [replace(section, count=count) for section in sections.values()])


OTHERS: dict[str, Callable[[], bytes | None]] = {
    "missing": lambda: None,
    "empty": lambda: b"",
    "noise": lambda: b"\xff" * 100,
    "of another experiment": lambda: version_bytes(experiment=bytes(6)),
    "of another mask": lambda: version_bytes(mask_digest=bytes(16)),
    "of another round": lambda: version_bytes(round=4),
    "changes only": lambda: version_bytes(base=2),
    "with tensors": lambda: version_bytes(tensors=ARCHITECTURE.tensors()),
    "of another kind": lambda: version_bytes(experiment_with(signs="vote"), experiment=bytes.fromhex(LEVELS.digest())),
    "without votes": lambda: without(pb.KIND_VOTES),
    "without floats": lambda: without(pb.KIND_FLOATS),
    "of another size": lambda: with_count(KEPT - 1),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_version_that_is_missing_or_another_costs_bytes_and_nothing_else(case: str) -> None:
    run = Run(LEVELS, history=OneFile(OTHERS[case]()))
    outgoing = run.outgoing(5, held={OLD: 3})
    payload = sent(outgoing, OLD)
    assert parts(payload)[0] == header_of(LEVELS, round=5)
    assert arrays(run.read(payload, base=None)) == arrays(run.versions[5])
    assert outgoing.bases([OLD]) == {WHOLE: 1}


def test_the_right_version_would_have_been_used() -> None:
    run = Run(LEVELS, history=OneFile(version_bytes()))
    assert run.outgoing(5, held={OLD: 3}).bases([OLD]) == {3: 1}


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_a_truncated_version_is_never_used(case: str) -> None:
    experiment = EXPERIMENTS[case]
    whole = version_bytes(experiment)
    for length in range(len(whole) - 1, -1, -29):
        run = Run(experiment, history=OneFile(whole[:length]))
        assert run.outgoing(5, held={OLD: 3}).bases([OLD]) == {WHOLE: 1}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(EXPERIMENTS)), st.integers(0, 2**20), st.integers(1, 255))
def test_a_damaged_version_stops_nothing(case: str, place: int, value: int) -> None:
    experiment = EXPERIMENTS[case]
    data = bytearray(version_bytes(experiment))
    data[place % len(data)] ^= value
    run = Run(experiment, history=OneFile(bytes(data)))
    outgoing = run.outgoing(5, held={OLD: 3})
    payload = sent(outgoing, OLD)
    # Changes are those from what was found, which a history answers for; the whole is always right.
    assert parts(payload)[0].base in (0, 3)
    assert arrays(run.read(sent(outgoing, STRANGER), base=None)) == arrays(run.versions[5])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(EXPERIMENTS)), st.integers(0, 2**20), st.integers(1, 255))
def test_a_version_that_is_damaged_on_disk_is_never_used(case: str, place: int, value: int) -> None:
    with TemporaryDirectory() as folder:
        run = Run(EXPERIMENTS[case], history=FolderHistory(Path(folder), most=8))
        run.outgoing(3)
        (path,) = Path(folder).glob("*.payload")
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= value
        path.write_bytes(data)
        outgoing = run.outgoing(5, held={OLD: 3})
        assert parts(sent(outgoing, OLD))[0].base == 0
        assert arrays(run.read(sent(outgoing, OLD), base=None)) == arrays(run.versions[5])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(EXPERIMENTS)),
    st.integers(0, 12),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    st.integers(0, 2**16),
)
def test_changes_are_sent_only_where_they_are_fewer_bytes(
    case: str, columns: int, floats: int, moved: float, seed: int
) -> None:
    experiment, generator = EXPERIMENTS[case], np.random.default_rng(seed)
    mask = Mask({"w": torch.from_numpy(generator.random((4, columns + 1)) < 0.7)})
    architecture = Architecture(mask.shapes, {"b": (floats,)}, (False,))
    exchange = Exchange.of(experiment, architecture=architecture, representation=representation_of(experiment))
    old = generator.uniform(-1, 1, mask.kept).astype(np.float32)
    new = np.where(generator.random(mask.kept) < moved, generator.uniform(-1, 1, mask.kept), old).astype(np.float32)
    history, values = MemoryHistory(most=2), np.ones(floats, dtype=np.float32)
    versions: list[Version] = []
    for number, kept in ((1, old), (2, new)):
        state = RoundState(round=number - 1, mask=mask, kept=kept, floats=values, held={OLD: 1, LOST: 9})
        versions.append(
            exchange.version(number, mask.digest, kept=kept, floats=values, layers=list(mask.layer_kept().values()))
        )
        header = Header(bytes.fromhex(experiment.digest()), number, mask.digest)
        outgoing = Outgoing(header, versions[-1], exchange=exchange, state=state, history=history)
    whole, payload = sent(outgoing, LOST), sent(outgoing, OLD)
    header, sections = parts(payload)
    assert payload == whole if header.base == 0 else (header.base == 1 and len(payload) < len(whole))
    layers = list(mask.layer_kept().values())
    read = exchange.decode(
        sections, round=2, mask_digest=mask.digest, base=versions[0] if header.base else None, layers=layers
    )
    assert arrays(read) == arrays(versions[1])


def test_a_version_that_nobody_could_hold_yet_is_not_known() -> None:
    run = Run(LEVELS)
    run.outgoing(4)
    outgoing = run.outgoing(5, held={OLD: 6, LOST: 0})
    assert outgoing.bases([OLD, LOST]) == {WHOLE: 1, NEW: 1}, "versions count from 1"


def entropy(outgoing: Outgoing, cohort: Sequence[int]) -> float:
    return sum(found.entropy for found in outgoing.sections(cohort).values())


def lengths(payloads: Sequence[bytes]) -> Counter[str]:
    found = Counter[str]()
    for payload in payloads:
        for section in parts(payload)[1].values():
            found[section_label(section)] += len(section.data)
    return found


@pytest.mark.parametrize("case", [*EXPERIMENTS, *ALWAYS_WHOLE])
def test_sections_add_up_to_what_is_sent(case: str) -> None:
    run = Run({**EXPERIMENTS, **ALWAYS_WHOLE}[case])
    for number in (3, 4):
        run.outgoing(number)
    outgoing = run.outgoing(5, held={10: 3, 11: 3, 12: 4, 13: 1})
    for cohort in ([10], [10, 11, 12, 13, 14, 15], [15, 13, 12, 10], []):
        found = outgoing.sections(cohort)
        payloads = [request.payload for request in outgoing.requests(cohort)]
        assert {label: section.bytes for label, section in found.items()} == lengths(payloads)
        assert all(section.entropy <= section.bytes for section in found.values())
        assert list(found) == sorted(found)
        assert sum(outgoing.bases(cohort).values()) == len(cohort)


def test_sections_of_nodes_that_were_not_sent_anything_yet_are_known() -> None:
    _, asked = prepared(LEVELS)
    list(asked.requests([OLD, LOST, STRANGER]))
    _, fresh = prepared(LEVELS)
    assert fresh.sections([OLD, LOST, STRANGER]) == asked.sections([OLD, LOST, STRANGER])


def test_bounds_are_those_of_the_mask_the_levels_and_what_changed() -> None:
    run = Run(experiment_with(coder="plain", down="fp32"))
    kept: Floats = np.where(np.arange(KEPT) < 225, 1, -1).astype(np.float32)
    state = RoundState(round=0, mask=MASK, kept=kept, floats=np.ones(FLOATS, np.float32), held={LOST: 9})
    version = run.exchange.version(1, MASK.digest, kept=kept, floats=state.floats, layers=LAYERS)
    header = header_of(run.experiment, round=1)
    outgoing = Outgoing(header, version, exchange=run.exchange, state=state, history=run.history)
    # 225 of 900 levels are the highest, H(1/4) = 0.8112781 bits; 900 of 1800 weights are kept, one bit each; 61 floats.
    assert entropy(outgoing, [LOST]) == pytest.approx(900 * 0.8112781 / 8 + 4 * 61, rel=1e-6)
    assert entropy(outgoing, [LOST, STRANGER]) == pytest.approx(2 * (900 * 0.8112781 / 8 + 4 * 61) + 225, rel=1e-6)
