"""Taking in replies: a good one is folded, a bad one is noted and changes nothing."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.codec import Floats, Header, Section, encode_payload, floats_section, signs_section, weights_section
from hedgerow.config import AggregationSettings, SignSettings
from hedgerow.representation import Representation, Signs, Weights
from hedgerow.server.aggregation import FloatMean, SignMean
from hedgerow.server.fleet import Reply
from hedgerow.server.fold import Fold

HEADER = Header(experiment=bytes(6), round=3, mask_digest=bytes(range(16)))
START = np.array([1, -1, 1, -1], dtype=np.float32)
SIGNS = np.array([True, True, True, False])
FLOATS = np.array([0.5, -2.0, 8.0], dtype=np.float32)
METRICS = {"examples": 20.0, "loss": 1.5, "seconds": 0.25}


def new_fold(*, representation: Representation | None = None) -> Fold:
    signs = representation is None
    return Fold(
        header=HEADER,
        start=START,
        representation=Signs(SignSettings(), AggregationSettings(signs="mean"))
        if representation is None
        else representation,
        kept=SignMean(4) if signs else FloatMean(4),
        floats=FloatMean(3),
        float_count=3,
    )


def payload(*, header: Header = HEADER, kept: Section | None = None, floats: Floats = FLOATS) -> bytes:
    return encode_payload(header, [signs_section(SIGNS) if kept is None else kept, floats_section(floats)])


def reply(
    node: int = 1,
    *,
    data: bytes | None = None,
    metrics: Mapping[str, float] = METRICS,
    error: str | None = None,
) -> Reply:
    body = None if error is not None else payload() if data is None else data
    return Reply(node=node, payload=body, error=error, metrics=metrics, bytes_down=100, bytes_up=30)


def with_metric(name: str, value: float) -> Reply:
    return reply(5, metrics={**METRICS, name: value})


def without_metric(name: str) -> Reply:
    return reply(5, metrics={k: v for k, v in METRICS.items() if k != name})


def raw_floats(bits: str) -> bytes:
    section = replace(floats_section(FLOATS), data=bytes.fromhex(bits + "00000000" * 2))
    return encode_payload(HEADER, [signs_section(SIGNS), section])


BAD: dict[str, tuple[Callable[[], Reply], str]] = {
    "failed": (lambda: reply(5, error="out of memory"), "out of memory"),
    "failed without a word": (lambda: replace(reply(5), payload=None), "no reply"),
    "twice": (lambda: reply(1), "second reply"),
    "noise": (lambda: reply(5, data=b"\xff" * 40), "not a hedgerow payload"),
    "empty": (lambda: reply(5, data=b""), "version 0"),
    "too long": (lambda: reply(5, data=bytes(10_000)), "10000 bytes"),
    "other mask": (lambda: reply(5, data=payload(header=replace(HEADER, mask_digest=bytes(16)))), "another experiment"),
    "no digest": (lambda: reply(5, data=payload(header=replace(HEADER, mask_digest=b""))), "another experiment"),
    "other round": (lambda: reply(5, data=payload(header=replace(HEADER, round=2))), "another experiment"),
    "other experiment": (lambda: reply(5, data=payload(header=replace(HEADER, experiment=b"abcdef"))), "another exp"),
    "too few signs": (lambda: reply(5, data=payload(kept=signs_section(SIGNS[:3]))), "3 symbols, expected 4"),
    "too many signs": (lambda: reply(5, data=payload(kept=signs_section(np.ones(5, np.bool_)))), "5 symbols, exp"),
    "weights for signs": (lambda: reply(5, data=payload(kept=weights_section(START))), "KIND_SIGNS is missing"),
    "too few floats": (lambda: reply(5, data=payload(floats=FLOATS[:2])), "2 symbols, expected 3"),
    "no floats": (lambda: reply(5, data=encode_payload(HEADER, [signs_section(SIGNS)])), "KIND_FLOATS is missing"),
    "float nan": (lambda: reply(5, data=raw_floats("0000c07f")), "not finite"),
    "float inf": (lambda: reply(5, data=raw_floats("0000807f")), "not finite"),
    "float too large": (lambda: reply(5, data=payload(floats=FLOATS * 2**20)), "is allowed"),
    "no metrics": (lambda: reply(5, metrics={}), "'examples' is None"),
    "no loss": (lambda: without_metric("loss"), "'loss' is None"),
    "no seconds": (lambda: without_metric("seconds"), "'seconds' is None"),
    "loss nan": (lambda: with_metric("loss", math.nan), "'loss' is nan"),
    "loss inf": (lambda: with_metric("loss", math.inf), "'loss' is inf"),
    "loss negative": (lambda: with_metric("loss", -0.1), "'loss' is -0.1"),
    "loss overflows sums": (lambda: with_metric("loss", 1.7e308), "'loss' is 1.7e"),
    "seconds negative": (lambda: with_metric("seconds", -1), "'seconds' is -1"),
    "seconds overflow sums": (lambda: with_metric("seconds", 1.7e308), "'seconds' is 1.7e"),
    "examples zero": (lambda: with_metric("examples", 0), "'examples' is 0"),
    "examples negative": (lambda: with_metric("examples", -5), "'examples' is -5"),
    "examples fraction": (lambda: with_metric("examples", 2.5), "'examples' is 2.5"),
    "examples nan": (lambda: with_metric("examples", math.nan), "'examples' is nan"),
    "examples too many": (lambda: with_metric("examples", 2.0**24 + 1), "it has to be 1 to 16777216"),
    "peak nan": (lambda: with_metric("peak-bytes", math.nan), "'peak-bytes' is nan"),
    "peak inf": (lambda: with_metric("peak-bytes", -math.inf), "'peak-bytes' is -inf"),
    "phase nan": (lambda: with_metric("backward-bytes", math.nan), "'backward-bytes' is nan"),
    "share nan": (lambda: with_metric("native-share", math.nan), "'native-share' is nan; it has to be 0 to 1"),
    "share above one": (lambda: with_metric("native-share", 1.5), "'native-share' is 1.5"),
    "lost": (lambda: replace(reply(5, error="the line is dead"), kind="lost"), "the line is dead"),
    "more than was asked for": (
        lambda: reply(
            5, data=encode_payload(HEADER, [signs_section(SIGNS), floats_section(FLOATS), weights_section(START)])
        ),
        "3 sections; two were asked for",
    ),
}
KINDS = {
    "device": ["failed", "failed without a word"],
    "lost": ["lost"],
    "duplicate": ["twice"],
    "malformed": ["noise"],
    "bounds": ["too long", "float too large"],
    "not_finite": ["float nan", "float inf"],
    "mismatch": [
        "empty",
        "other mask",
        "no digest",
        "other round",
        "other experiment",
        "too few signs",
        "too many signs",
        "weights for signs",
        "too few floats",
        "no floats",
        "more than was asked for",
    ],
}
"""Of each case but those of metrics."""


def test_a_good_reply_is_folded_with_its_number_of_samples_as_weight() -> None:
    fold = new_fold()
    fold.take(reply(1), name="client-1")
    others = payload(kept=signs_section(~SIGNS), floats=-FLOATS)
    fold.take(reply(2, data=others, metrics={"examples": 60, "loss": 0.5, "seconds": 1}), name="client-2")
    assert fold.failures == []
    assert fold.clients == {1, 2}
    assert fold.kept.mean().tolist() == [-0.5, -0.5, -0.5, 0.5]
    assert fold.floats.mean().tolist() == [-0.25, 1.0, -4.0]
    assert (fold.bytes_up, fold.bytes_down, fold.examples) == (60, 200, 80)
    assert fold.train_loss() == (20 * 1.5 + 60 * 0.5) / 80
    # START is + - + -: the first client changed one sign of four, the second, its opposite, three.
    assert fold.flips == [1, 3]
    # H(1/4) = H(3/4) = 0.8112781 bits, four times; three floats.
    assert fold.entropies == pytest.approx([4 * 0.8112781 / 8 + 12] * 2)
    sections = fold.sections()
    assert {label: section.bytes for label, section in sections.items()} == {"floats/float32": 24, "signs/bits": 2}
    assert sections["signs/bits"].entropy == pytest.approx(8 * 0.8112781 / 8)
    assert sections["floats/float32"].entropy == 24


def test_weights_are_folded_as_floats_without_flips() -> None:
    fold = new_fold(representation=Weights())
    fold.take(reply(data=payload(kept=weights_section(START * 3))), name="client-1")
    assert fold.failures == []
    assert fold.kept.mean().tolist() == [3, -3, 3, -3]
    assert fold.flips == []
    assert fold.entropies == [4.0 * 4 + 4.0 * 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**20])
def test_weights_that_cannot_be_summed_are_refused_before_the_floats_are_folded(bad: float) -> None:
    fold = new_fold(representation=Weights())
    fold.take(reply(1, data=payload(kept=weights_section(START))), name="client-1")
    wrong = START.copy()
    wrong[2] = bad
    fold.take(reply(2, data=payload(kept=weights_section(wrong), floats=-FLOATS)), name="client-2")
    kind = "bounds" if np.isfinite(bad) else "not_finite"
    assert [(failure.client, failure.kind) for failure in fold.failures] == [("client-2", kind)]
    assert fold.kept.mean().tolist() == START.tolist()
    assert fold.floats.mean().tolist() == FLOATS.tolist()


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
    assert fold.failures[0].kind == next((kind for kind, cases in KINDS.items() if case in cases), "metrics")
    assert fold.kept.mean().tobytes() == untouched.kept.mean().tobytes()
    assert fold.floats.mean().tobytes() == untouched.floats.mean().tobytes()
    assert fold.clients == {1}
    assert fold.sections() == untouched.sections()
    assert fold.answered == {1} | {build().node}
    assert (fold.metrics, fold.flips, fold.entropies) == (untouched.metrics, untouched.flips, untouched.entropies)
    assert (fold.bytes_up, fold.bytes_down) == (60, 200)  # it did travel


@given(
    st.binary(max_size=80), st.dictionaries(st.sampled_from([*METRICS, "peak-bytes", "native-share", "x"]), st.floats())
)
def test_whatever_arrives_is_folded_or_noted(data: bytes, metrics: dict[str, float]) -> None:
    fold = new_fold()
    fold.take(reply(1, data=data), name="client-1")
    fold.take(reply(2, metrics=metrics), name="client-2")
    assert len(fold.failures) + len(fold.clients) == 2
    if fold.clients:
        assert math.isfinite(fold.train_loss())


@given(st.integers(0, 8 * len(payload()) - 1))
def test_a_bit_flip_on_the_way_is_folded_or_noted(bit: int) -> None:
    data = bytearray(payload())
    data[bit // 8] ^= 1 << bit % 8
    fold = new_fold()
    fold.take(reply(1, data=bytes(data)), name="client-1")
    assert len(fold.failures) + len(fold.clients) == 1
    if fold.clients:
        assert np.isfinite(fold.floats.mean()).all()


def test_a_client_that_failed_once_may_still_deliver() -> None:
    fold = new_fold()
    fold.take(reply(1, error="busy"), name="client-1")
    fold.take(reply(1), name="client-1")
    assert fold.clients == {1}


def test_only_known_metrics_are_kept_so_memory_does_not_grow_with_what_clients_send() -> None:
    fold = new_fold()
    fold.take(reply(metrics={**METRICS, "peak-bytes": -10, **{f"m{i}": 1.0 for i in range(1000)}}), name="client-1")
    assert fold.metrics == [{**METRICS, "peak-bytes": -10}]


def test_a_reason_is_cut_and_its_control_characters_are_taken_out() -> None:
    fold = new_fold()
    fold.take(reply(error="\x1b[2J\nbad\u202e" + "x" * 10_000), name="client-1")
    reason = fold.failures[0].reason
    assert len(reason) <= 500
    assert "bad" in reason
    assert reason.isprintable()


def test_a_negative_variance_is_refused_and_changes_nothing() -> None:
    fold = new_fold()
    fold.variances = np.array([False, True, False])
    fold.take(reply(1, data=payload(floats=np.array([-1.0, 0.5, -1.0], dtype=np.float32))), name="client-0001")
    fold.take(reply(2), name="client-0002")
    assert fold.clients == {1}
    assert [(f.client, f.reason, f.kind) for f in fold.failures] == [
        ("client-0002", "a variance is negative", "bounds")
    ]
    assert fold.floats.mean().tolist() == [-1.0, 0.5, -1.0]
