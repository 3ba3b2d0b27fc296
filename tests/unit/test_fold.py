"""Taking in replies: a good one is folded, a bad one is noted and changes nothing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.assembly import representation_of
from hedgerow.codec import (
    Context,
    Floats,
    Header,
    Levels,
    PackedBits,
    Section,
    TensorShape,
    counts_section,
    encode_payload,
    encode_values,
    layer_context,
    levels_section,
    plain_bits_section,
    plain_levels_section,
)
from hedgerow.config import Experiment
from hedgerow.exchange import Architecture, Exchange, Measures
from hedgerow.privacy import seeded_words
from hedgerow.server.aggregation import FloatMean, Nested, SignMean
from hedgerow.server.fleet import Reply
from hedgerow.server.fold import Fold
from hedgerow.server.reading import Reader
from hedgerow.v1 import payload_pb2 as pb

HEADER = Header(experiment=bytes(6), round=3, mask_digest=bytes(range(16)))
REPLY = Header(experiment=bytes(6), round=3, mask_digest=b"")
ARCHITECTURE = Architecture({"w": (2, 4)}, {"b": (2,), "b.running_var": (1,)}, (False, True))
LAYERS = [4]
START = np.array([1, -1, 1, -1], dtype=np.float32)
FLIPS = np.array([0, 1, 0, 0], dtype=np.uint8)
FLOATS = np.array([0.5, -2.0, 8.0], dtype=np.float32)
OTHER_FLOATS = np.array([-0.5, 2.0, 4.0], dtype=np.float32)
MEASURES = Measures(
    examples=20, loss=1.5, seconds=0.25, forward_bytes=100, backward_bytes=300, update_bytes=50, native_share=0.75
)
OTHER_MEASURES = replace(MEASURES, examples=60, loss=0.5)


def experiment_with(
    signs: str = "mean", *, abstain: float = 0.0, voters: str = "largest", representation: str = "signs", **wire: object
) -> Any:
    return Experiment.model_validate(
        {
            "representation": representation,
            "aggregation": {"signs": signs, "levels": 16},
            "signs": {"abstain": abstain, "voters": voters},
            "wire": wire,
        }
    )


MEAN = experiment_with()
DRIFT = experiment_with("drift", abstain=0.5)
WEIGHTS = experiment_with(representation="weights")
EXPERIMENTS: dict[str, Experiment] = {
    "mean": MEAN,
    "vote": experiment_with("vote", up="bf16"),
    "drift": experiment_with("drift", up="fp16"),
    "abstaining": DRIFT,
    "drawn": experiment_with("drift", abstain=0.5, voters="random"),
    "plain": experiment_with("mean", coder="plain"),
    "plain and abstaining": experiment_with("drift", abstain=0.5, coder="plain"),
    "weights": WEIGHTS,
    "weights in fp16": experiment_with(representation="weights", up="fp16"),
    "weights in int8": experiment_with(representation="weights", up="int8"),
    "uniform changes": experiment_with(representation="weights", up="uniform", down="fp16"),
    "uniform changes of some": experiment_with(representation="weights", up="uniform", drop=0.5),
}


def exchange_of(experiment: Experiment) -> Exchange:
    return Exchange.of(experiment, architecture=ARCHITECTURE, representation=representation_of(experiment))


def new_fold(experiment: Experiment = MEAN, *, kept: Floats = START, floats: Floats = FLOATS) -> Fold:
    exchange = exchange_of(experiment)
    signs = experiment.representation == "signs"
    version = exchange.version(HEADER.round, HEADER.mask_digest, kept=kept, floats=floats, layers=LAYERS)
    return Fold(
        {0: Reader(HEADER, version, LAYERS, exchange)},
        kept=Nested([SignMean(4) if signs else FloatMean(4)], places=[None], count=4),
        floats=Nested([FloatMean(3)], places=[None], count=3),
    )


def values_section(kind: pb.Kind, values: Sequence[float] | Floats, **codec: Any) -> Section:
    data = np.asarray(values, dtype="<f4")
    return Section(kind, pb.CODEC_FLOAT32, data.size, 0, data.tobytes(), **codec)


def flips_section(flips: Sequence[int] | Levels = FLIPS) -> Section:
    return symbols_section(pb.KIND_FLIPS, flips, alphabet=2)


def drift_section(votes: Sequence[int] | Levels) -> Section:
    return symbols_section(pb.KIND_DRIFT, votes, alphabet=3)


def symbols_section(kind: pb.Kind, symbols: Sequence[int] | Levels, *, alphabet: int) -> Section:
    # START is the highest and the lowest of 16 levels.
    known = [Context(np.array([15, 0, 15, 0], dtype=np.uint8), 16), layer_context(LAYERS)]
    right = len(symbols) == 4
    return levels_section(kind, np.array(symbols, dtype=np.uint8), alphabet=alphabet, contexts=known if right else [])


def payload(
    *,
    header: Header = REPLY,
    kept: Section | None = None,
    floats: Sequence[float] | Floats | Section = FLOATS,
    measures: Measures | Section = MEASURES,
    more: Sequence[Section] = (),
) -> bytes:
    return encode_payload(
        header,
        [
            flips_section() if kept is None else kept,
            floats if isinstance(floats, Section) else values_section(pb.KIND_FLOATS, floats),
            measures if isinstance(measures, Section) else measures.section(),
            *more,
        ],
    )


def reply(
    node: int = 1, *, data: bytes | None = None, metrics: Mapping[str, float] | None = None, error: str | None = None
) -> Reply:
    body = None if error is not None else payload() if data is None else data
    return Reply(node=node, payload=body, error=error, metrics=metrics or {}, bytes_down=100, bytes_up=30)


def said(experiment: Experiment, *, seed: int) -> bytes:
    """What a client of an experiment answers."""
    generator = np.random.default_rng(seed)
    exchange, fold = exchange_of(experiment), new_fold(experiment)
    sections = exchange.reply(
        START + generator.normal(0, 1, 4).astype(np.float32),
        np.abs(FLOATS + generator.normal(0, 0.1, 3)).astype(np.float32),
        version=fold.readers[0].version,
        layers=LAYERS,
        memory=(None, None),
        generator=generator,
        draw=seeded_words(generator),
    )
    measures = replace(MEASURES, examples=int(generator.integers(1, 2**24)), loss=float(generator.random()))
    return encode_payload(REPLY, [*(one.section for one in sections), measures.section()])


def with_measure(name: str, value: float) -> Reply:
    values = list(astuple(MEASURES))
    values[list(Measures.__dataclass_fields__).index(name)] = value
    return reply(5, data=payload(measures=values_section(pb.KIND_COUNTS, values)))


def sections_of(data: bytes) -> pb.Payload:
    return pb.Payload.FromString(data)


def with_a_kind_twice() -> bytes:
    message = sections_of(payload())
    message.sections.append(message.sections[0])
    return message.SerializeToString()


def of_version(version: int) -> bytes:
    message = sections_of(payload())
    message.version = version
    return message.SerializeToString()


def without(kind: pb.Kind) -> bytes:
    message = sections_of(payload())
    kept = [section for section in message.sections if section.kind != kind]
    del message.sections[:]
    message.sections.extend(kept)
    return message.SerializeToString()


def half(values: Floats) -> Section:
    coded = encode_values(values, format="fp16", groups=[values.size]).coded
    return Section.of(pb.KIND_FLOATS, coded, count=values.size)


SIGNS = plain_bits_section(pb.KIND_SIGNS, PackedBits.from_bools(np.array([True, True, True, False])))
LARGEST = 4 * 4 + 4 * 3 + 4096
TENSORS = (TensorShape("w", (2, 4), True),)
UNKNOWN: Any = 99
"""No kind, and no codec."""
BAD: dict[str, tuple[Callable[[], Reply], str]] = {
    "failed": (lambda: reply(5, error="out of memory"), "out of memory"),
    "failed without a word": (lambda: replace(reply(5), payload=None), "no reply"),
    "lost": (lambda: replace(reply(5, error="the line is dead"), kind="lost"), "the line is dead"),
    "twice": (lambda: reply(1), "second reply"),
    "noise": (lambda: reply(5, data=b"\xff" * 40), "not a hedgerow payload"),
    "empty": (lambda: reply(5, data=b""), "version 0"),
    "older version": (lambda: reply(5, data=of_version(1)), "version 1"),
    "too long": (lambda: reply(5, data=bytes(LARGEST + 1)), f"{LARGEST + 1} bytes; at most {LARGEST}"),
    "with the mask's digest": (lambda: reply(5, data=payload(header=HEADER)), "another experiment or round"),
    "other round": (lambda: reply(5, data=payload(header=replace(REPLY, round=2))), "another experiment or round"),
    "other experiment": (
        lambda: reply(5, data=payload(header=replace(REPLY, experiment=b"abcdef"))),
        "another experiment",
    ),
    "on a base": (lambda: reply(5, data=payload(header=replace(REPLY, base=2))), "another experiment or round"),
    "with tensors": (
        lambda: reply(5, data=payload(header=replace(REPLY, tensors=TENSORS))),
        "another experiment or round",
    ),
    "too few flips": (lambda: reply(5, data=payload(kept=flips_section([0, 1, 0]))), "3 symbols, expected 4"),
    "too many flips": (lambda: reply(5, data=payload(kept=flips_section([0] * 5))), "5 symbols, expected 4"),
    "no votes": (lambda: reply(5, data=without(pb.KIND_FLIPS)), "KIND_SIGNS is missing"),
    "weights for signs": (
        lambda: reply(5, data=payload(kept=values_section(pb.KIND_WEIGHTS, START))),
        "KIND_SIGNS is missing",
    ),
    "ternary for binary": (
        lambda: reply(5, data=payload(kept=drift_section(FLIPS))),
        "KIND_SIGNS is missing",
    ),
    "flips in another codec": (
        lambda: reply(5, data=payload(kept=replace(flips_section(), codec=pb.CODEC_FLOAT32))),
        "codec 2 is none of levels",
    ),
    "flips in no codec": (lambda: reply(5, data=payload(kept=replace(flips_section(), codec=UNKNOWN))), "codec 99"),
    "flips without bytes": (lambda: reply(5, data=payload(kept=replace(flips_section(), data=b""))), ""),
    "flips and more bytes": (
        lambda: reply(5, data=payload(kept=replace(flips_section(), data=flips_section().data + b"\x01"))),
        "",
    ),
    "too few floats": (lambda: reply(5, data=payload(floats=FLOATS[:2])), "2 symbols, expected 3"),
    "no floats": (lambda: reply(5, data=without(pb.KIND_FLOATS)), "KIND_FLOATS is missing"),
    "floats in another format": (lambda: reply(5, data=payload(floats=half(FLOATS))), "KIND_FLOATS has codec 10"),
    "floats too short": (
        lambda: reply(5, data=payload(floats=replace(values_section(pb.KIND_FLOATS, FLOATS), data=bytes(11)))),
        "take 12 bytes, found 11",
    ),
    "float nan": (lambda: reply(5, data=payload(floats=[math.nan, 0, 0])), "not finite"),
    "float inf": (lambda: reply(5, data=payload(floats=[math.inf, 0, 0])), "not finite"),
    "float too large": (lambda: reply(5, data=payload(floats=FLOATS * 2**20)), "is allowed"),
    "variance negative": (lambda: reply(5, data=payload(floats=[-1, -1, -1e-30])), "a variance is negative"),
    "no counts": (lambda: reply(5, data=without(pb.KIND_COUNTS)), "KIND_COUNTS is missing"),
    "too few counts": (
        lambda: reply(5, data=payload(measures=counts_section(np.ones(6, np.float32)))),
        "6 symbols, expected 9",
    ),
    "too many counts": (
        lambda: reply(5, data=payload(measures=counts_section(np.ones(10, np.float32)))),
        "10 symbols, expected 9",
    ),
    "counts in another codec": (
        lambda: reply(5, data=payload(measures=replace(MEASURES.section(), codec=pb.CODEC_FLOAT16))),
        "KIND_COUNTS has codec 10",
    ),
    "counts too short": (
        lambda: reply(5, data=payload(measures=replace(MEASURES.section(), data=bytes(31)))),
        "take 36 bytes, found 31",
    ),
    "loss nan": (lambda: with_measure("loss", math.nan), "not finite"),
    "loss inf": (lambda: with_measure("loss", math.inf), "not finite"),
    "loss negative": (lambda: with_measure("loss", -0.5), "'loss' is -0.5"),
    "loss overflows sums": (lambda: with_measure("loss", 1e38), "'loss' is 1e+38"),
    "seconds negative": (lambda: with_measure("seconds", -1), "'seconds' is -1"),
    "seconds overflow sums": (lambda: with_measure("seconds", 1e38), "'seconds' is 1e+38"),
    "examples zero": (lambda: with_measure("examples", 0), "'examples' is 0; it has to be 1 to 16777216"),
    "examples negative": (lambda: with_measure("examples", -5), "'examples' is -5"),
    "examples fraction": (lambda: with_measure("examples", 2.5), "'examples' is 2.5"),
    "examples nan": (lambda: with_measure("examples", math.nan), "not finite"),
    "examples too many": (lambda: with_measure("examples", 2.0**24 + 2), "it has to be 1 to 16777216"),
    "peak inf": (lambda: with_measure("forward_bytes", -math.inf), "not finite"),
    "peak negative": (lambda: with_measure("backward_bytes", -1), "'backward_bytes' is -1"),
    "peak too large": (lambda: with_measure("update_bytes", 2.0**54), "'update_bytes' is 1.8"),
    "share nan": (lambda: with_measure("native_share", math.nan), "not finite"),
    "share above one": (lambda: with_measure("native_share", 1.5), "'native_share' is 1.5; it has to be 0 to 1"),
    "weights too": (
        lambda: reply(5, data=payload(more=[values_section(pb.KIND_WEIGHTS, START)])),
        "4 sections; 3 were asked for",
    ),
    "signs too": (lambda: reply(5, data=payload(more=[SIGNS])), "4 sections; 3 were asked for"),
    "an unknown kind too": (
        lambda: reply(5, data=payload(more=[replace(SIGNS, kind=UNKNOWN)])),
        "4 sections; 3 were asked for",
    ),
    "a kind twice": (lambda: reply(5, data=with_a_kind_twice()), "section kind 6 occurs twice"),
}
KINDS = {
    "device": ["failed", "failed without a word"],
    "lost": ["lost"],
    "duplicate": ["twice"],
    "malformed": [
        "noise",
        "flips without bytes",
        "flips and more bytes",
        "floats too short",
        "counts too short",
        "a kind twice",
    ],
    "bounds": ["too long", "float too large", "variance negative"],
    "not_finite": ["float nan", "float inf", "loss nan", "loss inf", "examples nan", "peak inf", "share nan"],
    "metrics": [
        "loss negative",
        "loss overflows sums",
        "seconds negative",
        "seconds overflow sums",
        "examples zero",
        "examples negative",
        "examples fraction",
        "examples too many",
        "peak negative",
        "peak too large",
        "share above one",
    ],
}
"""Of each case but mismatches."""


def test_a_good_reply_is_folded_with_its_number_of_samples_as_weight() -> None:
    fold = new_fold()
    fold.take(reply(1), name="client-1")
    others = payload(kept=flips_section(1 - FLIPS), floats=OTHER_FLOATS, measures=OTHER_MEASURES)
    fold.take(reply(2, data=others), name="client-2")
    assert fold.failures == []
    assert fold.clients == {1, 2}
    # START is + - + -. The first says + + + -, with 20 samples; the second its opposite, with 60.
    assert fold.kept.mean().tolist() == [-0.5, -0.5, -0.5, 0.5]
    assert fold.floats.mean().tolist() == [-0.25, 1.0, 5.0]
    assert (fold.bytes_up, fold.bytes_down, fold.examples) == (60, 200, 80)
    assert fold.train_loss() == (20 * 1.5 + 60 * 0.5) / 80
    assert fold.measures == [MEASURES, OTHER_MEASURES]
    assert fold.flips == [1, 3]


def test_entropies_and_lengths_are_those_of_the_sections() -> None:
    fold = new_fold()
    opposite = plain_bits_section(pb.KIND_SIGNS, PackedBits.from_bools(np.array([False, False, False, True])))
    fold.take(reply(1, data=payload(kept=SIGNS)), name="client-1")
    fold.take(reply(2, data=payload(kept=opposite)), name="client-2")
    # One and three of four signs turn: H(1/4) = H(3/4) = 0.8112781 bits, four times; three floats and nine counts.
    signs = 4 * 0.8112781 / 8
    assert fold.entropies == pytest.approx([signs + 12 + 36] * 2)
    sections = fold.sections()
    assert list(sections) == ["counts/float32", "floats/float32", "signs/bits"]
    assert [section.bytes for section in sections.values()] == [2 * 36, 2 * 12, 2]
    assert [section.entropy for section in sections.values()] == pytest.approx([2 * 36, 2 * 12, 2 * signs])


def test_signs_are_read_from_whom_codes_plainly() -> None:
    fold, other = new_fold(), new_fold()
    fold.take(reply(data=payload(kept=SIGNS)), name="client-1")
    other.take(reply(), name="client-1")
    assert fold.failures == []
    assert fold.kept.mean().tolist() == other.kept.mean().tolist()
    assert fold.flips == other.flips == [1]
    assert fold.sections()["signs/bits"].bytes == 1


def test_ternary_votes_count_where_their_client_does_not_abstain() -> None:
    fold = new_fold(DRIFT)
    first = plain_levels_section(pb.KIND_DRIFT, np.array([2, 0, 1, 2], dtype=np.uint8), alphabet=3)
    second = drift_section([1, 1, 0, 2])
    fold.take(reply(1, data=payload(kept=first)), name="client-1")
    fold.take(reply(2, data=payload(kept=second, measures=OTHER_MEASURES)), name="client-2")
    assert fold.failures == []
    # Of 80 samples, 20 of the first: (20, -20, -60, 20 + 60) / 80.
    assert fold.kept.mean().tolist() == [0.25, -0.25, -0.75, 1]
    assert fold.flips == [], "directions say nothing of signs"
    # Two of four the same, and each of the others once: 1.5 bits a vote.
    assert fold.entropies[0] == pytest.approx(0.75 + 12 + 36)
    assert fold.sections()["drift/bytes_zstd"].entropy == pytest.approx(0.75)
    assert 0 <= fold.sections()["drift/symbols_rans"].entropy <= 0.75


@pytest.mark.parametrize(
    ("section", "reason", "kind"),
    [
        (plain_levels_section(pb.KIND_DRIFT, np.array([0, 1, 2, 3], np.uint8), alphabet=3), "", "bounds"),
        (plain_levels_section(pb.KIND_DRIFT, np.array([0, 1, 1, 0], np.uint8), alphabet=2), "2 levels; 3", "mismatch"),
        (drift_section([0, 1, 1]), "3 symbols, exp", "mismatch"),
        (flips_section(), "KIND_DRIFT is missing", "mismatch"),
        (SIGNS, "KIND_DRIFT is missing", "mismatch"),
    ],
    ids=["a fourth vote", "two votes", "too few", "flips", "signs"],
)
def test_votes_that_are_not_ternary_are_refused_where_they_have_to_be(section: Section, reason: str, kind: str) -> None:
    fold = new_fold(DRIFT)
    fold.take(reply(data=payload(kept=section)), name="client-1")
    assert (fold.clients, [failure.kind for failure in fold.failures]) == (set(), [kind])
    assert reason in fold.failures[0].reason


def test_weights_are_folded_as_floats_without_flips() -> None:
    fold = new_fold(WEIGHTS)
    fold.take(reply(data=payload(kept=values_section(pb.KIND_WEIGHTS, START * 3))), name="client-1")
    assert fold.failures == []
    assert fold.kept.mean().tolist() == [3, -3, 3, -3]
    assert fold.flips == []
    assert fold.entropies == [4.0 * 4 + 4.0 * 3 + 4.0 * 9]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**20])
def test_weights_that_cannot_be_summed_are_refused_before_the_floats_are_folded(bad: float) -> None:
    fold = new_fold(WEIGHTS)
    fold.take(reply(1, data=payload(kept=values_section(pb.KIND_WEIGHTS, START))), name="client-1")
    wrong = START.copy()
    wrong[2] = bad
    data = payload(kept=values_section(pb.KIND_WEIGHTS, wrong), floats=OTHER_FLOATS)
    fold.take(reply(2, data=data), name="client-2")
    kind = "bounds" if np.isfinite(bad) else "not_finite"
    assert [(failure.client, failure.kind) for failure in fold.failures] == [("client-2", kind)]
    assert fold.kept.mean().tolist() == START.tolist()
    assert fold.floats.mean().tolist() == FLOATS.tolist()


def seen(fold: Fold) -> tuple[object, ...]:
    """All of a fold that a bad reply must not change."""
    return (
        fold.kept.mean().tobytes(),
        fold.floats.mean().tobytes(),
        fold.clients,
        fold.sections(),
        fold.measures,
        fold.flips,
        fold.entropies,
        fold.examples,
    )


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_noted_by_its_reason_and_changes_nothing(case: str) -> None:
    build, reason = BAD[case]
    fold, untouched = new_fold(), new_fold()
    for each in (fold, untouched):
        each.take(reply(1), name="client-1")
    fold.take(build(), name="client-5")
    assert len(fold.failures) == 1
    assert fold.failures[0].client == "client-5"
    assert reason in fold.failures[0].reason
    assert fold.failures[0].kind == next((kind for kind, cases in KINDS.items() if case in cases), "mismatch")
    assert seen(fold) == seen(untouched)
    assert fold.answered == {1} | {build().node}
    assert (fold.bytes_up, fold.bytes_down) == (60, 200)  # it did travel


def test_the_longest_payload_that_can_be_meant_is_looked_at() -> None:
    fold = new_fold()
    fold.take(reply(data=bytes(LARGEST)), name="client-1")
    assert fold.failures[0].reason == "not a hedgerow payload"


@settings(max_examples=100)
@given(st.binary(max_size=80), st.lists(st.floats(width=32), min_size=9, max_size=9))
def test_whatever_arrives_is_folded_or_noted(data: bytes, measures: list[float]) -> None:
    fold = new_fold()
    fold.take(reply(1, data=data), name="client-1")
    fold.take(reply(2, data=payload(measures=values_section(pb.KIND_COUNTS, measures))), name="client-2")
    assert len(fold.failures) + len(fold.clients) == 2
    if fold.clients:
        assert math.isfinite(fold.train_loss())
        assert fold.examples >= 1


@settings(max_examples=200)
@given(st.sampled_from(sorted(EXPERIMENTS)), st.integers(0, 2**20), st.integers(1, 255))
def test_a_changed_byte_on_the_way_is_folded_or_noted(case: str, place: int, value: int) -> None:
    experiment = EXPERIMENTS[case]
    data = bytearray(said(experiment, seed=0))
    data[place % len(data)] ^= value
    fold = new_fold(experiment)
    fold.take(reply(1, data=bytes(data)), name="client-1")
    assert len(fold.failures) + len(fold.clients) == 1
    if fold.clients:
        assert np.isfinite(fold.floats.mean()).all()
        assert np.isfinite(fold.kept.mean()).all()
        assert np.isfinite(fold.entropies).all()


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_a_truncated_reply_is_noted(case: str) -> None:
    data = said(EXPERIMENTS[case], seed=0)
    fold = new_fold(EXPERIMENTS[case])
    for length in range(len(data)):
        fold.take(reply(1, data=data[:length]), name="client-1")
    assert (len(fold.failures), fold.clients) == (len(data), set())
    fold.take(reply(1, data=data), name="client-1")
    assert fold.clients == {1}


@settings(max_examples=50)
@given(st.sampled_from(sorted(EXPERIMENTS)), st.permutations(range(8)))
def test_the_order_of_replies_changes_no_bit(case: str, order: list[int]) -> None:
    experiment = EXPERIMENTS[case]
    replies = [reply(node, data=said(experiment, seed=node)) for node in range(5)]
    replies += [reply(5, error="no power"), reply(6, data=b"\xff"), with_measure("examples", 0)]
    straight, other = new_fold(experiment), new_fold(experiment)
    for index in range(8):
        straight.take(replies[index], name=str(index))
        other.take(replies[order[index]], name=str(order[index]))
    assert len(straight.clients) == 5
    assert other.kept.mean().tobytes() == straight.kept.mean().tobytes()
    assert other.floats.mean().tobytes() == straight.floats.mean().tobytes()
    assert other.train_loss() == straight.train_loss()
    assert other.sections() == straight.sections()
    assert math.fsum(other.entropies) == math.fsum(straight.entropies)
    assert sorted(other.failures, key=str) == sorted(straight.failures, key=str)
    assert (other.clients, other.answered) == (straight.clients, straight.answered)


@pytest.mark.parametrize("case", EXPERIMENTS)
def test_what_is_folded_is_what_the_exchange_reads(case: str) -> None:
    experiment = EXPERIMENTS[case]
    fold, data = new_fold(experiment), said(experiment, seed=3)
    fold.take(reply(data=data), name="client-1")
    sections: dict[int, Section] = {
        s.kind: Section(s.kind, s.codec, s.count, s.parameter, s.data) for s in sections_of(data).sections
    }
    reader = fold.readers[0]
    kept, floats = reader.exchange.read_reply(sections, version=reader.version, layers=LAYERS)
    values = kept.values if isinstance(kept.values, np.ndarray) else kept.values.to_floats()
    assert isinstance(floats.values, np.ndarray)
    assert fold.kept.mean() == pytest.approx(values, abs=1e-6)
    assert fold.floats.mean() == pytest.approx(floats.values, abs=1e-6)
    assert fold.entropies == [kept.entropy + floats.entropy + 36]
    assert math.fsum(found.entropy for found in fold.sections().values()) == pytest.approx(fold.entropies[0])
    assert sum(found.bytes for found in fold.sections().values()) == sum(len(s.data) for s in sections.values())


def test_a_client_that_failed_once_may_still_deliver() -> None:
    fold = new_fold()
    fold.take(reply(1, error="busy"), name="client-1")
    fold.take(reply(1), name="client-1")
    assert fold.clients == {1}


def test_what_is_said_beside_the_payload_is_not_looked_at() -> None:
    fold = new_fold()
    metrics = {"examples": math.nan, "loss": -1.0, **{f"m{i}": 1.0 for i in range(1000)}}
    fold.take(reply(metrics=metrics), name="client-1")
    assert (fold.failures, fold.measures) == ([], [MEASURES])


def test_a_reason_is_cut_and_its_control_characters_are_taken_out() -> None:
    fold = new_fold()
    fold.take(reply(error="\x1b[2J\nbad\u202e" + "x" * 10_000), name="client-1")
    reason = fold.failures[0].reason
    assert len(reason) <= 500
    assert "bad" in reason
    assert reason.isprintable()


def test_values_that_are_no_variances_may_be_negative() -> None:
    fold = new_fold()
    fold.take(reply(1, data=payload(floats=[-1, -1, 0])), name="client-0001")
    fold.take(reply(2, data=payload(floats=[1, 1, -0.5])), name="client-0002")
    assert fold.clients == {1}
    assert [(f.client, f.reason, f.kind) for f in fold.failures] == [
        ("client-0002", "a variance is negative", "bounds")
    ]
    assert fold.floats.mean().tolist() == [-1, -1, 0]
