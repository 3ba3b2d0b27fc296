"""What coordinator and clients say to each other: versions at both ends, replies, measures, and whose network it is."""

import itertools
from collections.abc import Mapping
from dataclasses import astuple, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hedgerow.assembly import exchange_of
from hedgerow.codec import (
    Floats,
    Header,
    Section,
    Sections,
    TensorShape,
    Votes,
    counts_section,
    decode_payload,
    encode_payload,
)
from hedgerow.config import Experiment
from hedgerow.errors import PayloadError
from hedgerow.exchange import Architecture, Exchange, Measures, Version
from hedgerow.privacy import seeded_words
from hedgerow.v1 import payload_pb2 as pb

DIGEST = bytes(range(16))
LAYERS = [200, 0, 413]
KEPT = sum(LAYERS)
SIGNS: dict[str, dict[str, object]] = {
    "drift": {"aggregation": {"signs": "drift"}},
    "ternary": {"aggregation": {"signs": "drift"}, "signs": {"abstain": 0.9, "voters": "largest"}},
    "drawn": {"aggregation": {"signs": "drift"}, "signs": {"abstain": 0.5}},
    "mean": {"aggregation": {"signs": "mean"}},
    "vote": {"aggregation": {"signs": "vote"}},
    "innovation": {"aggregation": {"signs": "innovation"}},
    "weights": {"representation": "weights"},
}
CODERS, DOWN, UP = (
    ("plain", "entropy"),
    ("fp32", "fp16", "bf16", "uniform"),
    ("fp32", "fp16", "bf16", "int8", "uniform"),
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(128, 10)
    )


NETWORK = network()
ARCHITECTURE = Architecture.of(NETWORK)
FLOATS = ARCHITECTURE.float_count


def exchange_with(kind: str = "drift", **changes: Mapping[str, object]) -> Exchange:
    return exchange_of(Experiment.model_validate({**SIGNS[kind], **changes}), NETWORK)


def vectors(seed: int) -> tuple[Floats, Floats]:
    """A state: θ or weights, and floats that may all be variances."""
    random = np.random.default_rng(seed)
    return (
        random.uniform(-1, 1, KEPT).astype(np.float32),
        random.uniform(0.5, 2, FLOATS).astype(np.float32),
    )


def version_of(exchange: Exchange, *, round: int, seed: int) -> Version:
    kept, floats = vectors(seed)
    return exchange.version(round, DIGEST, kept=kept, floats=floats, layers=LAYERS)


def moved(version: Version, exchange: Exchange, *, round: int, seed: int) -> Version:
    """A version a little later."""
    random = np.random.default_rng(seed)
    kept, floats = exchange.starts(version)
    return exchange.version(
        round,
        DIGEST,
        kept=np.clip(kept + random.normal(0, 0.05, KEPT), -1, 1).astype(np.float32),
        floats=(floats * np.exp(random.normal(0, 0.001, FLOATS))).astype(np.float32),
        layers=LAYERS,
    )


def sent(sections: list[Section]) -> Sections:
    return decode_payload(encode_payload(Header(bytes(6), 1, DIGEST), sections), limit=1_000_000)[1]


def size(sections: list[Section]) -> int:
    return sum(len(section.data) for section in sections)


def same(one: Version, other: Version) -> bool:
    return (one.round, one.mask_digest) == (other.round, other.mask_digest) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in ((one.kept, other.kept), (one.floats, other.floats))
    )


def said(
    exchange: Exchange, kept: Floats, floats: Floats, *, version: Version, seed: int = 0
) -> tuple[list[Section], tuple[Floats | None, Floats | None]]:
    generator = np.random.default_rng(seed)
    found = exchange.reply(
        kept,
        floats,
        version=version,
        layers=LAYERS,
        memory=(None, None),
        generator=generator,
        draw=seeded_words(generator),
    )
    return [one.section for one in found], (found[0].memory, found[1].memory)


@pytest.mark.parametrize(
    ("kind", "coder", "down", "building"), list(itertools.product(SIGNS, CODERS, DOWN, (False, True)))
)
def test_a_version_is_the_same_to_the_bit_at_both_ends(kind: str, coder: str, down: str, building: bool) -> None:
    exchange = exchange_with(kind, wire={"coder": coder, "down": down})
    old = version_of(exchange, round=3, seed=1)
    version = moved(old, exchange, round=7, seed=2)
    base = old if building else None
    sections = exchange.encode(version, base=base, layers=LAYERS)
    found = exchange.decode(sent(sections), round=7, mask_digest=DIGEST, base=base, layers=LAYERS)
    assert same(found, version)
    for here, there in zip(exchange.starts(version), exchange.starts(found), strict=True):
        assert here.dtype == np.float32
        assert here.tobytes() == there.tobytes()


@pytest.mark.parametrize("kind", SIGNS)
@pytest.mark.parametrize("down", ["fp16", "bf16"])
def test_a_version_that_says_nothing_new_is_tiny(kind: str, down: str) -> None:
    exchange = exchange_with(kind, wire={"down": down})
    version = version_of(exchange, round=3, seed=1)
    again = exchange.encode(replace(version, round=4), base=version, layers=LAYERS)
    # Tables of contexts that leave nothing to say take some bytes for each of the levels.
    assert size(again) < 60
    assert size(again) < size(exchange.encode(version, base=None, layers=LAYERS)) / 10


@pytest.mark.parametrize("kind", SIGNS)
def test_what_changed_is_smaller_than_the_whole(kind: str) -> None:
    exchange = exchange_with(kind, wire={"down": "bf16"})
    old = version_of(exchange, round=3, seed=1)
    version = moved(old, exchange, round=4, seed=2)
    delta, whole = (exchange.encode(version, base=base, layers=LAYERS) for base in (old, None))
    assert size(delta) < 0.8 * size(whole)


@pytest.mark.parametrize("kind", SIGNS)
def test_a_version_that_builds_on_another_is_refused_without_it(kind: str) -> None:
    exchange = exchange_with(kind, wire={"down": "bf16"})
    old = version_of(exchange, round=3, seed=1)
    sections = exchange.encode(moved(old, exchange, round=4, seed=2), base=old, layers=LAYERS)
    with pytest.raises(PayloadError):
        exchange.decode(sent(sections), round=4, mask_digest=DIGEST, base=None, layers=LAYERS)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_version_without_one_of_its_sections_is_refused(missing: int) -> None:
    exchange = exchange_with()
    sections = exchange.encode(version_of(exchange, round=1, seed=1), base=None, layers=LAYERS)
    with pytest.raises(PayloadError, match="is missing"):
        exchange.decode(sent([sections[1 - missing]]), round=1, mask_digest=DIGEST, base=None, layers=LAYERS)


@given(st.binary(max_size=60), st.sampled_from(list(SIGNS)), st.sampled_from(CODERS), st.booleans())
def test_whatever_a_section_holds_it_is_a_version_or_a_payload_error(
    data: bytes, kind: str, coder: str, building: bool
) -> None:
    exchange = exchange_with(kind, wire={"coder": coder, "down": "bf16"})
    old = version_of(exchange, round=3, seed=1)
    sections = exchange.encode(moved(old, exchange, round=4, seed=2), base=old if building else None, layers=LAYERS)
    for index in (0, 1):
        changed = [*sections]
        changed[index] = replace(sections[index], data=data)
        try:
            found = exchange.decode(sent(changed), round=4, mask_digest=DIGEST, base=old, layers=LAYERS)
        except PayloadError:
            continue
        assert all(np.isfinite(start).all() for start in exchange.starts(found))


@pytest.mark.parametrize(
    ("kind", "wire", "remembers"),
    [
        ("drift", {}, True),
        ("drift", {"history": 0}, False),
        ("drift", {"coder": "plain"}, False),
        ("weights", {}, False),
        ("weights", {"down": "fp16"}, True),
        ("weights", {"down": "fp16", "coder": "plain"}, False),
        ("weights", {"down": "fp16", "history": 0}, False),
    ],
)
def test_only_where_a_version_can_build_on_another_they_are_remembered(
    kind: str, wire: Mapping[str, object], remembers: bool
) -> None:
    assert exchange_with(kind, wire=wire).remembers is remembers


@pytest.mark.parametrize(("kind", "coder", "up", "feedback"), list(itertools.product(SIGNS, CODERS, UP, (False, True))))
def test_a_coordinator_hears_what_a_client_said(kind: str, coder: str, up: str, feedback: bool) -> None:
    exchange = exchange_with(kind, wire={"coder": coder, "up": up, "down": "bf16", "error_feedback": feedback})
    version = version_of(exchange, round=3, seed=1)
    start, floats_start = exchange.starts(version)
    random = np.random.default_rng(5)
    kept = np.clip(start + random.normal(0, 0.05, KEPT), -1, 1).astype(np.float32)
    floats = (floats_start * np.exp(random.normal(0, 0.001, FLOATS))).astype(np.float32)
    sections, memory = said(exchange, kept, floats, version=version)
    heard = exchange.read_reply(sent(sections), version=version, layers=LAYERS)
    assert isinstance(heard[1].values, np.ndarray)
    if up == "fp32":
        assert heard[1].values.tobytes() == floats.tobytes()
    else:
        change = np.abs(floats - floats_start).max()
        assert np.abs(heard[1].values - floats).max() < max(0.7 * change, 2.0**-8 * floats.max())
    assert (memory[1] is not None) == (up in ("int8", "uniform") and feedback)
    assert all(one.entropy >= 0 for one in heard)
    if kind == "weights":
        assert isinstance(heard[0].values, np.ndarray)
        assert np.isfinite(heard[0].values).all()
        assert (memory[0] is not None) == (up in ("int8", "uniform") and feedback)
        return
    assert memory[0] is None
    assert isinstance(heard[0].values, Votes)
    votes = heard[0].values.to_floats()
    if kind == "drawn":
        assert 0.3 * KEPT < np.count_nonzero(votes) < 0.7 * KEPT
    if kind in ("drift", "ternary", "drawn"):
        spoke = (votes != 0) & (kept != start)
        assert (votes[spoke] == np.sign(kept - start)[spoke]).all()
        assert heard[0].flips is None
    else:
        assert (votes == np.where(kept >= 0, 1, -1)).all()
        assert heard[0].flips == np.count_nonzero((kept >= 0) != (start >= 0))


@pytest.mark.parametrize("up", ["fp32", "fp16", "bf16"])
def test_a_negative_variance_is_refused(up: str) -> None:
    exchange = exchange_with(wire={"up": up})
    version = version_of(exchange, round=1, seed=1)
    kept, floats = exchange.starts(version)
    variances = np.repeat(ARCHITECTURE.variances, ARCHITECTURE.float_groups)
    for positions, refused in ((variances, True), (~variances, False)):
        wrong = floats.copy()
        wrong[np.flatnonzero(positions)[-1]] = -0.25
        sections, _ = said(exchange, kept, wrong, version=version)
        if refused:
            with pytest.raises(PayloadError, match="a variance is negative"):
                exchange.read_reply(sent(sections), version=version, layers=LAYERS)
        else:
            exchange.read_reply(sent(sections), version=version, layers=LAYERS)


def test_nothing_is_dropped_of_what_is_never_pruned() -> None:
    exchange = exchange_with("weights", wire={"up": "int8", "drop": 0.9})
    version = version_of(exchange, round=1, seed=1)
    kept, floats = (start + np.float32(0.125) for start in exchange.starts(version))
    sections, _ = said(exchange, kept, floats, version=version)
    heard = exchange.read_reply(sent(sections), version=version, layers=LAYERS)
    changed = [
        np.count_nonzero(one.values != start) for one, start in zip(heard, exchange.starts(version), strict=True)
    ]
    assert changed[1] == FLOATS
    assert 0 < changed[0] < 0.3 * KEPT


def test_an_architecture_is_counted_by_hand() -> None:
    assert ARCHITECTURE.prunable == {"0.weight": (8, 1, 5, 5), "3.weight": (8, 8, 1, 1), "5.weight": (10, 128)}
    assert list(ARCHITECTURE.floats) == [
        "0.bias",
        "1.weight",
        "1.bias",
        "3.bias",
        "5.bias",
        "1.running_mean",
        "1.running_var",
    ]
    assert ARCHITECTURE.weights == 200 + 64 + 1280
    assert ARCHITECTURE.float_groups == [8, 8, 8, 8, 10, 8, 8]
    assert ARCHITECTURE.float_count == 58
    assert ARCHITECTURE.variances == (False, False, False, False, False, False, True)


def test_a_hollow_network_has_the_same_architecture() -> None:
    with torch.device("meta"):
        hollow = network()
    assert replace(Architecture.of(hollow), variances=ARCHITECTURE.variances) == ARCHITECTURE


def test_the_tensors_of_another_network_are_refused_with_the_first_difference() -> None:
    own = ARCHITECTURE.tensors()
    ARCHITECTURE.require(own)
    ARCHITECTURE.require(())
    others: list[tuple[list[TensorShape], str]] = [
        ([replace(own[0], name="0.w"), *own[1:]], r"'0\.w' \(8×1×5×5, pruned\) where this one has '0\.weight'"),
        ([replace(own[0], shape=(8, 5, 5)), *own[1:]], r"\(8×5×5, pruned\) where this one has '0\.weight' \(8×1×5×5, "),
        ([replace(own[0], prunable=False), *own[1:]], r"'0\.weight' \(8×1×5×5\) where this one has"),
        ([*own[:4], replace(own[4], shape=()), *own[5:]], r"'1\.weight' \(a scalar\) where this one has"),
        ([own[1], own[0], *own[2:]], r"'3\.weight' .* where this one has '0\.weight'"),
        ([*own[:-1]], "has 9 tensors, this one 10"),
        ([*own, own[0]], "has 11 tensors, this one 10"),
    ]
    for tensors, message in others:
        with pytest.raises(PayloadError, match=message) as caught:
            ARCHITECTURE.require(tensors)
        assert caught.value.kind == "mismatch"


def test_a_long_name_of_another_network_is_cut() -> None:
    with pytest.raises(PayloadError) as caught:
        ARCHITECTURE.require([TensorShape("x" * 10_000, (1,), True)])
    assert len(str(caught.value)) < 300


MEASURES = Measures(
    examples=2**24,
    loss=0.25,
    seconds=1.5,
    forward_bytes=2.0**53,
    backward_bytes=0,
    update_bytes=4096,
    native_share=1.0,
    growth_bytes=8192,
    held_bytes=2.0**40,
)


def read(values: Floats) -> Measures:
    return Measures.read(sent([counts_section(values)]))


def values_of(measures: Measures) -> Floats:
    return np.array(astuple(measures), dtype=np.float32)


def test_measures_come_back_and_take_36_bytes() -> None:
    section = MEASURES.section()
    assert section.kind == pb.KIND_COUNTS
    assert len(section.data) == 36
    assert Measures.read(sent([section])) == MEASURES


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("examples", 0, "'examples' is 0; it has to be 1 to 16777216"),
        ("examples", 1.5, r"'examples' is 1\.5; it has to be"),
        ("examples", 2.0**24 + 2, "'examples' is"),
        ("examples", -1, "'examples' is -1; a finite number of at least 0"),
        ("loss", -0.5, r"'loss' is -0\.5; a finite number of at least 0"),
        ("seconds", -1, "'seconds' is -1"),
        ("forward_bytes", 2.0**54, "'forward_bytes' is"),
        ("backward_bytes", -4, "'backward_bytes' is -4"),
        ("update_bytes", 3e38, "'update_bytes' is 3e\\+38"),
        ("growth_bytes", -1, "'growth_bytes' is -1"),
        ("held_bytes", -1, "'held_bytes' is -1"),
        ("native_share", 1.25, r"'native_share' is 1\.25; it has to be 0 to 1"),
        ("native_share", -0.25, r"'native_share' is -0\.25"),
    ],
)
def test_a_measure_out_of_bounds_is_refused_by_name(name: str, value: float, match: str) -> None:
    values, index = values_of(MEASURES), [field.name for field in fields(Measures)].index(name)
    values[index] = value
    with pytest.raises(PayloadError, match=match) as caught:
        read(values)
    assert caught.value.kind == "metrics"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", range(8))
def test_a_measure_that_is_not_finite_is_refused(index: int, value: float) -> None:
    values = values_of(MEASURES)
    values[index] = value
    with pytest.raises(PayloadError, match="not finite"):
        read(values)


def test_measures_that_are_missing_or_of_another_number_are_refused() -> None:
    with pytest.raises(PayloadError, match="KIND_COUNTS is missing"):
        Measures.read({})
    for count in (0, 8, 10):
        with pytest.raises(PayloadError, match=f"KIND_COUNTS has {count} symbols, expected 9"):
            read(np.ones(count, dtype=np.float32))
