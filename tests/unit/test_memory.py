"""What a client keeps between rounds: a request that builds on it trains the same, and without it says so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow.client.answer import Answer, Workshop
from hedgerow.client.memory import ClientState, Memories
from hedgerow.codec import Floats, Growth, Header, decode_payload, encode_payload
from hedgerow.errors import PayloadError
from hedgerow.exchange import Version
from hedgerow.files import sealed, unsealed
from hedgerow.pruning import Mask
from hedgerow.pruning.moves import Moves
from hedgerow.v1 import payload_pb2 as pb
from tests.unit.test_answer import LIMIT, Setting, mask_of_bits, said

KINDS: dict[str, dict[str, Any]] = {
    "mean": {"aggregation": {"signs": "mean", "levels": 16}, "wire": {"down": "bf16"}},
    "vote": {"aggregation": {"signs": "vote"}, "wire": {"down": "fp16"}},
    "ternary": {
        "aggregation": {"signs": "drift", "levels": 16},
        "signs": {"abstain": 0.9, "voters": "largest"},
        "wire": {"down": "bf16", "up": "uniform"},
    },
    "weights": {"representation": "weights", "wire": {"down": "bf16", "up": "int8"}},
}


@pytest.fixture(scope="module", params=list(KINDS))
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(**KINDS[request.param])


@pytest.fixture(scope="module")
def ternary() -> Setting:
    return Setting(**KINDS["ternary"])


def later(setting: Setting, *, round: int) -> Version:
    """The version of a round, a little away from that of the one before."""
    random = np.random.default_rng(round)
    start, floats = setting.start, setting.floats
    for _ in range(1, round):
        start = np.clip(start + random.normal(0, 0.1, start.size), -1, 1).astype(np.float32)
        floats = (floats * np.exp(random.normal(0, 0.01, floats.size))).astype(np.float32)
    return setting.version(round=round, start=start, floats=floats)


def first(setting: Setting, workshop: Workshop | None = None) -> Answer:
    workshop = setting.workshop if workshop is None else workshop
    return workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())


def opened(data: bytes) -> bytes:
    content = unsealed(data)
    assert content is not None
    return content


def flipped(data: bytes, *, byte: int = -1) -> bytes:
    changed = bytearray(data)
    changed[byte] ^= 1
    return bytes(changed)


def floats_in(data: bytes) -> Floats:
    return np.frombuffer(data, dtype="<f4")


def test_rounds_that_are_told_as_what_changed_train_as_those_that_are_told_whole(setting: Setting) -> None:
    whole = changes = first(setting)
    for round in (2, 3, 5):
        version = later(setting, round=round)
        before = decode_payload(opened(changes.state.version), limit=LIMIT)[0].round
        base = later(setting, round=before) if before > 1 else setting.version()
        asked = setting.request(version, base=base)
        assert decode_payload(asked, limit=LIMIT)[0].base == before
        assert len(asked) < len(setting.request(version))
        whole = setting.workshop.answer(setting.request(version), client=0, state=whole.state)
        changes = setting.workshop.answer(asked, client=0, state=changes.state)
        assert said(changes.payload) == said(whole.payload)
        assert changes.state == whole.state


def test_a_process_that_starts_again_reads_what_it_kept(setting: Setting) -> None:
    state = first(setting).state
    asked = setting.request(later(setting, round=2), base=setting.version())
    here = setting.workshop.answer(asked, client=0, state=state)
    there = Workshop(setting.experiment).answer(asked, client=0, state=state)
    assert said(here.payload) == said(there.payload)
    assert here.state == there.state


def test_a_reply_repeats_experiment_and_round_and_nothing_else(setting: Setting) -> None:
    state = first(setting).state
    asked = setting.request(later(setting, round=2), base=setting.version())
    header, _ = decode_payload(setting.workshop.answer(asked, client=0, state=state).payload, limit=LIMIT)
    assert header == Header(bytes.fromhex(setting.experiment.digest()), 2, b"")


def test_a_mask_that_is_needed_after_training_is_decoded_once_and_else_not_held(ternary: Setting) -> None:
    memories = Memories(ternary.exchange, first(ternary).state, limit=LIMIT)
    header = ternary.header()
    assert memories.read_mask(header) == ternary.mask
    assert memories.read_mask(header) is not memories.read_mask(header)
    asked = replace(header, growth=(Growth(0, 1),))
    assert memories.read_mask(asked) is memories.read_mask(asked)
    with pytest.raises(PayloadError, match="another mask"):
        memories.read_mask(replace(asked, mask_digest=bytes(16)))


def test_a_version_that_is_not_held_is_asked_for_again(setting: Setting) -> None:
    held = first(setting).state
    asked = setting.request(later(setting, round=3), base=later(setting, round=2))
    cases = [
        (ClientState(), "this client has no mask yet"),
        (replace(held, version=b""), "this client has no version yet"),
        (held, "this client has version 1 and not 2"),
    ]
    for state, message in cases:
        with pytest.raises(PayloadError, match=f"{message}; the coordinator has to send it again") as caught:
            setting.workshop.answer(asked, client=0, state=state)
        assert caught.value.kind == "mismatch"


def test_a_version_of_another_mask_is_not_built_on(ternary: Setting) -> None:
    held = first(ternary).state
    header, sections = decode_payload(opened(held.version), limit=LIMIT)
    elsewhere = sealed(encode_payload(replace(header, mask_digest=bytes(16)), sections.values()))
    asked = ternary.request(later(ternary, round=2), base=ternary.version())
    with pytest.raises(PayloadError, match="this client has a version of another mask") as caught:
        ternary.workshop.answer(asked, client=0, state=replace(held, version=elsewhere))
    assert caught.value.kind == "mismatch"


def test_whatever_was_damaged_the_whole_is_read_and_trained_on(setting: Setting) -> None:
    held, asked = first(setting).state, setting.request(mask=setting.mask)
    expected = said(first(setting).payload)
    for damaged in (b"\xff", held.mask[:-20], flipped(held.mask), b"\x08\x07"):
        state = replace(held, mask=damaged, version=damaged, residuals=(b"", b""))
        answer = setting.workshop.answer(asked, client=0, state=state)
        assert said(answer.payload) == expected
        assert answer.state == replace(held, rounds=2)


def test_a_remembered_version_that_was_damaged_is_refused_with_a_payload_error(setting: Setting) -> None:
    held = first(setting).state
    asked = setting.request(later(setting, round=2), base=setting.version())
    for damaged in (b"\xff", held.version[:-9], held.version + b"\0", held.mask):
        with pytest.raises(PayloadError):
            setting.workshop.answer(asked, client=0, state=replace(held, version=damaged))


def test_a_bit_of_a_remembered_version_that_flipped_is_noticed(ternary: Setting) -> None:
    held = first(ternary).state
    asked = ternary.request(later(ternary, round=2), base=ternary.version())
    for byte in range(0, len(held.version), max(1, len(held.version) // 12)):
        state = replace(held, version=flipped(held.version, byte=byte))
        with pytest.raises(PayloadError, match="was damaged"):
            ternary.workshop.answer(asked, client=0, state=state)


def test_what_rounding_left_over_is_added_to_the_next_reply(ternary: Setting) -> None:
    state = first(ternary).state
    assert state.residuals[0] == b""  # votes leave nothing over
    assert floats_in(state.residuals[1]).size == ternary.floats.size
    assert np.abs(floats_in(state.residuals[1])).max() > 0
    asked = ternary.request(later(ternary, round=2))
    fed, forgot = (
        ternary.workshop.answer(asked, client=0, state=s) for s in (state, replace(state, residuals=(b"", b"")))
    )
    version = later(ternary, round=2)
    heard = [ternary.floats_of(answer, version=version) for answer in (fed, forgot)]
    assert not np.array_equal(heard[0], heard[1])
    assert said(fed.payload)[1][0] == said(forgot.payload)[1][0]


def test_residuals_of_kept_weights_go_over_to_another_mask() -> None:
    setting = Setting(**KINDS["weights"])
    held = first(setting).state
    values = np.random.default_rng(0).normal(0, 0.01, setting.mask.kept).astype("<f4")
    loud = replace(held, residuals=(values.tobytes(), b""))
    turned = Mask({name: bits.flip(1) for name, bits in setting.mask.items()})
    moves = Moves.between(setting.mask, turned)
    assert 0 < moves.grown < turned.kept
    layers = list(setting.layers)
    base = setting.version()
    carried = setting.exchange.carried(base, moves, mask_digest=turned.digest)
    version = replace(carried, round=2)
    whole = setting.request(version, mask=turned)
    header, _ = decode_payload(whole, limit=LIMIT)
    delta = setting.exchange.encode_mask(turned, base=setting.mask)
    body = setting.exchange.encode(version, base=carried, layers=layers)
    changed = encode_payload(replace(header, base=1, tensors=()), [delta, *body])
    assert len(changed) < len(whole)
    # As if it had held the mask already, and what was left over of the weights that stay.
    there = replace(held, mask=setting.workshop.answer(whole, client=0, state=held).state.mask)
    there = replace(there, residuals=(moves.carried(values, grown=0).tobytes(), b""))
    expected = setting.workshop.answer(setting.request(version, mask=turned), client=0, state=there)
    silent = setting.workshop.answer(whole, client=0, state=replace(held, residuals=(b"", b"")))
    assert said(silent.payload) != said(expected.payload)
    for request in (whole, changed):
        answer = setting.workshop.answer(request, client=0, state=loud)
        assert said(answer.payload) == said(expected.payload)
        assert answer.state == expected.state
    # Of a mask that is lost nobody knows whose they were.
    answer = setting.workshop.answer(whole, client=0, state=replace(loud, mask=flipped(loud.mask)))
    assert said(answer.payload) == said(silent.payload)


def test_a_refused_change_of_mask_leaves_the_workshop_able_to_answer_as_before() -> None:
    setting = Setting(**KINDS["mean"])
    held = first(setting).state
    asked = setting.request(later(setting, round=2), base=setting.version())
    expected = said(setting.workshop.answer(asked, client=0, state=held).payload)
    turned = Mask({name: bits.flip(1) for name, bits in setting.mask.items()})
    delta = setting.exchange.encode_mask(turned, base=setting.mask)
    lied = encode_payload(setting.header(round=2, mask=Mask.dense(turned.shapes)), [delta])
    with pytest.raises(PayloadError, match="does not match its digest") as caught:
        setting.workshop.answer(lied, client=0, state=held)
    assert caught.value.kind == "mismatch"
    assert said(setting.workshop.answer(asked, client=0, state=held).payload) == expected


@pytest.mark.parametrize(
    "damaged",
    [b"\1", b"\0" * 4, np.full(10**4, np.nan, "<f4").tobytes()],
    ids=["no floats", "too few", "not the number"],
)
def test_residuals_that_were_damaged_are_forgotten(ternary: Setting, damaged: bytes) -> None:
    held = first(ternary).state
    asked = ternary.request(later(ternary, round=2))
    poisoned = np.full(ternary.floats.size, np.nan, "<f4").tobytes()
    expected = said(ternary.workshop.answer(asked, client=0, state=replace(held, residuals=(b"", b""))).payload)
    for residuals in ((damaged, damaged), (b"", poisoned)):
        found = ternary.workshop.answer(asked, client=0, state=replace(held, residuals=residuals))
        assert said(found.payload) == expected


@pytest.mark.parametrize(
    ("changes", "remembers"),
    [
        ({"wire": {"history": 0, "down": "bf16"}}, False),
        ({"wire": {"coder": "plain", "down": "bf16"}}, False),
        ({"representation": "weights"}, False),
        ({"wire": {"down": "bf16"}}, True),
        ({"representation": "weights", "wire": {"down": "bf16"}}, True),
    ],
)
def test_a_client_keeps_a_version_only_where_one_can_build_on_it(changes: dict[str, Any], remembers: bool) -> None:
    setting = Setting(**changes)
    state = first(setting).state
    assert bool(state.version) == remembers
    assert state.residuals == (b"", b"")
    assert len(state.mask) < setting.mask.size / 8 + 100


def test_a_kept_mask_and_a_kept_version_are_bare(ternary: Setting) -> None:
    state = first(ternary).state
    for payload, kinds in ((state.mask, {pb.KIND_MASK}), (opened(state.version), {pb.KIND_VOTES, pb.KIND_FLOATS})):
        header, sections = decode_payload(payload, limit=LIMIT)
        assert header == ternary.header()
        assert set(sections) == kinds


def test_a_state_does_not_grow_from_round_to_round(ternary: Setting) -> None:
    answer, sizes = first(ternary), []
    for round in (2, 3, 4):
        version, base = later(ternary, round=round), later(ternary, round=round - 1)
        answer = ternary.workshop.answer(ternary.request(version, base=base), client=0, state=answer.state)
        sizes.append(len(answer.state.mask) + len(answer.state.version) + sum(map(len, answer.state.residuals)))
    assert max(sizes) < 1.1 * min(sizes)


def test_the_tensors_of_another_network_are_refused_before_anything_is_read(ternary: Setting) -> None:
    header, sections = decode_payload(ternary.request(mask=ternary.mask), limit=LIMIT)
    assert header.tensors == ternary.exchange.architecture.tensors()
    other: Header = replace(header, tensors=header.tensors[:-1])
    damaged = [replace(section, data=b"") for section in sections.values()]
    with pytest.raises(PayloadError, match=r"tensors, this one \d+; use its model here") as caught:
        ternary.workshop.answer(encode_payload(other, damaged), client=0, state=ClientState())
    assert caught.value.kind == "mismatch"


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_coder_changes_what_travels_and_nothing_that_is_learnt(kind: str) -> None:
    learnt, lengths = [], []
    for coder in ("plain", "entropy"):
        changes = dict(KINDS[kind])
        changes["wire"] = {**changes["wire"], "coder": coder}
        setting = Setting(**changes)
        answer = setting.workshop.answer(
            setting.request(later(setting, round=2), mask=setting.mask), client=0, state=ClientState()
        )
        kept, floats = setting.heard(answer, version=later(setting, round=2))
        values = kept.values if isinstance(kept.values, np.ndarray) else kept.values.to_floats()
        assert isinstance(floats.values, np.ndarray)
        learnt.append((values.tobytes(), floats.values.tobytes(), said(answer.payload)[3]))
        lengths.append(len(answer.payload))
    assert learnt[0] == learnt[1]
    if kind in ("mean", "vote"):
        assert lengths[1] < lengths[0]


def test_a_mask_in_plain_bits_is_read_too(ternary: Setting) -> None:
    whole = ternary.request(mask=ternary.mask)
    header, sections = decode_payload(whole, limit=LIMIT)
    assert sections[pb.KIND_MASK] == replace(mask_of_bits(ternary.mask), entropy=0.0)
    plain = Setting(**{**KINDS["ternary"], "wire": {"down": "bf16", "up": "uniform"}})
    bits = np.packbits(ternary.mask.flat()).tobytes()
    raw = replace(sections[pb.KIND_MASK], codec=pb.CODEC_BITS, parameter=0, data=bits)
    others = [section for kind, section in sections.items() if kind != pb.KIND_MASK]
    answer = plain.workshop.answer(encode_payload(header, [raw, *others]), client=0, state=ClientState())
    assert said(answer.payload) == said(first(ternary).payload)
