"""Sums of replies: exact in whatever order they come."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec import Bits, Floats, Levels, Votes
from hedgerow.errors import PayloadError
from hedgerow.native.library import Status
from hedgerow.server.aggregation import FloatMean, Nested, SignMean

weights = st.integers(1, 2**24)
values = st.floats(-(2.0**20), 2.0**20, width=32, exclude_min=True, exclude_max=True)


@st.composite
def float_replies(draw: st.DrawFn) -> list[tuple[Floats, int]]:
    count = draw(st.integers(1, 4))
    reply = st.tuples(st.lists(values, min_size=count, max_size=count), weights)
    return [(np.array(v, dtype=np.float32), w) for v, w in draw(st.lists(reply, min_size=1, max_size=8))]


@st.composite
def sign_replies(draw: st.DrawFn) -> list[tuple[Bits, int]]:
    count = draw(st.integers(1, 6))
    reply = st.tuples(st.lists(st.booleans(), min_size=count, max_size=count), weights)
    return [(np.array(v, dtype=np.bool_), w) for v, w in draw(st.lists(reply, min_size=1, max_size=8))]


@st.composite
def vote_replies(draw: st.DrawFn) -> list[tuple[Levels, int]]:
    count = draw(st.integers(1, 20))
    reply = st.tuples(st.lists(st.integers(0, 2), min_size=count, max_size=count), weights)
    return [(np.array(v, dtype=np.uint8), w) for v, w in draw(st.lists(reply, min_size=1, max_size=40))]


def float_mean(replies: list[tuple[Floats, int]]) -> Floats:
    mean = FloatMean(replies[0][0].size)
    for value, weight in replies:
        mean.check(value)
        mean.add(value, weight=weight)
    return mean.mean()


def sign_mean(replies: list[tuple[Bits, int]]) -> Floats:
    mean = SignMean(replies[0][0].size)
    for value, weight in replies:
        mean.add(Votes.from_bools(value), weight=weight)
    return mean.mean()


def test_the_mean_vote_weighs_clients_by_their_samples() -> None:
    replies = [(np.array([True, True, False, False]), 3), (np.array([True, False, True, False]), 1)]
    theta = sign_mean(replies)
    assert theta.tolist() == [1.0, 0.5, -0.5, -1.0]
    assert theta.dtype == np.float32


def test_an_even_split_is_zero() -> None:
    assert sign_mean([(np.array([True]), 7), (np.array([False]), 7)]).tolist() == [0.0]


def test_who_abstains_counts_in_the_weight_only() -> None:
    mean = SignMean(4)
    mean.add(Votes.from_ternary(np.array([2, 2, 1, 1], dtype=np.uint8)), weight=3)
    mean.add(Votes.from_ternary(np.array([2, 1, 0, 1], dtype=np.uint8)), weight=1)
    assert mean.mean().tolist() == [1.0, 0.75, -0.25, 0.0]


def test_clients_that_abstain_and_others_that_do_not_are_averaged_together() -> None:
    mean = SignMean(3)
    mean.add(Votes.from_bools(np.array([True, True, False])), weight=2)
    mean.add(Votes.from_ternary(np.array([1, 0, 1], dtype=np.uint8)), weight=2)
    mean.add(Votes.from_bools(np.array([True, False, False])), weight=4)
    assert mean.mean().tolist() == [0.75, -0.5, -0.75]


def test_a_mean_of_speakers_leaves_out_who_abstains_and_is_zero_where_nobody_speaks() -> None:
    mean = SignMean(4, of_speakers=True)
    mean.add(Votes.from_ternary(np.array([2, 2, 1, 1], dtype=np.uint8)), weight=3)
    mean.add(Votes.from_ternary(np.array([0, 1, 0, 1], dtype=np.uint8)), weight=1)
    assert mean.mean().tolist() == [0.5, 1.0, -1.0, 0.0]


@given(vote_replies(), st.randoms())
def test_ternary_votes_are_averaged_exactly_but_for_the_rounding_in_any_order(
    replies: list[tuple[Levels, int]], random: object
) -> None:
    means = []
    for _ in range(2):
        mean = SignMean(replies[0][0].size)
        for symbols, weight in replies:
            votes = Votes.from_ternary(symbols)
            mean.check(votes)
            mean.add(votes, weight=weight)
        means.append(mean.mean())
        random.shuffle(replies)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert means[0].tobytes() == means[1].tobytes()
    total = sum(weight for _, weight in replies)
    sums = sum((s.astype(np.int64) - 1) * w for s, w in replies)
    assert means[0].tolist() == [float(np.float32(int(n) / total)) for n in np.asarray(sums)]


def test_the_mean_is_the_quotient_of_whole_numbers_rounded_once() -> None:
    generator, mean = np.random.default_rng(0), SignMean(5000)
    positive, total = np.zeros(5000, dtype=np.int64), 0
    for weight in generator.integers(1, 3000, 40).tolist():
        up = generator.random(5000) < 0.5
        mean.add(Votes.from_bools(up), weight=weight)
        positive, total = positive + up * weight, total + weight
    assert mean.mean().tobytes() == ((2 * positive - total) / total).astype(np.float32).tobytes()


def test_a_vote_that_is_up_where_its_client_abstains_is_refused() -> None:
    votes = Votes(np.array([0b1100_0000], dtype=np.uint8), np.array([0b1010_0000], dtype=np.uint8), 3)
    with pytest.raises(PayloadError, match="up where its client abstains"):
        SignMean(3).check(votes)


def test_votes_or_values_of_another_number_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="3 votes for 4 weights"):
        SignMean(4).add(Votes.from_bools(np.array([True, True, False])), weight=1)
    with pytest.raises(AssertionError, match="values for"):
        FloatMean(4).add(np.zeros(3, dtype=np.float32), weight=1)


def test_the_mean_of_floats_weighs_clients_by_their_samples() -> None:
    replies = [(np.array([1.0, -8.0], dtype=np.float32), 3), (np.array([5.0, 0.25], dtype=np.float32), 1)]
    mean = float_mean(replies)
    assert mean.tolist() == [2.0, -5.9375]
    assert mean.dtype == np.float32


@given(float_replies(), st.randoms())
def test_floats_fold_to_the_same_bits_in_any_order(replies: list[tuple[Floats, int]], random: object) -> None:
    shuffled = list(replies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert float_mean(shuffled).tobytes() == float_mean(replies).tobytes()


@given(sign_replies(), st.randoms())
def test_signs_fold_to_the_same_bits_in_any_order(replies: list[tuple[Bits, int]], random: object) -> None:
    shuffled = list(replies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # as above
    assert sign_mean(shuffled).tobytes() == sign_mean(replies).tobytes()


@given(st.lists(values | st.sampled_from([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]).map(lambda v: v * 2**-32)), weights)
def test_native_and_numpy_fold_floats_to_the_same_bits(folded: list[float], weight: int) -> None:
    native = float_mean([(np.array(folded, dtype=np.float32), weight)] * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hedgerow.server.aggregation.status", lambda: Status(available=False, reason="a test"))
        numpy = float_mean([(np.array(folded, dtype=np.float32), weight)] * 3)
    assert native.tobytes() == numpy.tobytes()


def test_halves_of_the_smallest_step_are_rounded_to_even() -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], dtype=np.float32) * np.float32(2**-32)
    mean = float_mean([(halves, 7)])
    assert (mean * np.float32(2**32)).tolist() == [0, 2, 2, 0, -2, -2]


@given(float_replies())
def test_the_mean_of_floats_is_the_exact_mean_but_for_its_rounding(replies: list[tuple[Floats, int]]) -> None:
    total = sum(weight for _, weight in replies)
    for i, found in enumerate(float_mean(replies).tolist()):
        exact = sum((Fraction(float(value[i])) * weight for value, weight in replies), Fraction(0)) / total
        assert abs(Fraction(found) - exact) <= Fraction(1, 2**31) + abs(exact) / 2**23


@given(sign_replies())
def test_the_mean_vote_is_exact_but_for_its_rounding_and_stays_within_one(replies: list[tuple[Bits, int]]) -> None:
    total = sum(weight for _, weight in replies)
    for i, found in enumerate(sign_mean(replies).tolist()):
        exact = Fraction(sum((1 if value[i] else -1) * weight for value, weight in replies), total)
        assert abs(Fraction(found) - exact) <= abs(exact) / 2**23
        assert -1 <= found <= 1
        assert (found >= 0) == (exact >= 0)


def test_4096_clients_with_the_largest_values_and_weights_do_not_overflow() -> None:
    largest = np.nextafter(np.float32(2**20), np.float32(0))
    mean = FloatMean(3)
    fraction = np.float32(1 - 2**-24)  # all ones in the low limb
    for _ in range(4096):
        mean.add(np.array([largest, -largest, fraction], dtype=np.float32), weight=2**24)
    assert mean.mean().tolist() == [float(largest), -float(largest), float(fraction)]


def test_one_client_alone_gets_its_own_values_back() -> None:
    given_values = np.array([0.1, -1e-5, 1234.567, 0.0], dtype=np.float32)
    found = float_mean([(given_values, 12345)])
    assert np.abs(found - given_values).max() < 2**-31


@pytest.mark.parametrize("bad", [2.0**20, -(2.0**20), 3e38, np.inf, np.nan])
def test_values_that_are_too_large_are_refused_and_change_nothing(bad: float) -> None:
    touched, untouched = FloatMean(2), FloatMean(2)
    for mean in (touched, untouched):
        mean.add(np.array([1, 2], dtype=np.float32), weight=3)
    with pytest.raises(PayloadError, match="below 1048576 is allowed"):
        touched.check(np.array([1, bad], dtype=np.float32))
    assert touched.mean().tobytes() == untouched.mean().tobytes()


def test_no_values_at_all_can_be_averaged() -> None:
    mean = FloatMean(0)
    mean.check(np.zeros(0, dtype=np.float32))
    mean.add(np.zeros(0, dtype=np.float32), weight=1)
    assert mean.mean().shape == (0,)


def test_adding_does_not_change_what_was_added() -> None:
    floats, votes = np.array([1.5], dtype=np.float32), Votes.from_bools(np.array([True]))
    FloatMean(1).add(floats, weight=5)
    SignMean(1).add(votes, weight=5)
    assert floats.tolist() == [1.5]
    assert votes.to_floats().tolist() == [1.0]


@pytest.mark.parametrize("mean", [SignMean(1), FloatMean(1)], ids=["signs", "floats"])
def test_the_mean_of_nothing_is_a_mistake_of_the_caller(mean: SignMean | FloatMean) -> None:
    with pytest.raises(AssertionError, match="nothing was folded"):
        mean.mean()


ALL, HALF, QUARTER = None, np.array([True, False, True, False]), np.array([False, False, True, False])


def nested_floats() -> Nested:
    return Nested([FloatMean(4), FloatMean(2), FloatMean(1)], places=[ALL, HALF, QUARTER], count=4)


def test_a_weight_is_the_mean_over_those_that_hold_it() -> None:
    nested = nested_floats()
    nested.add(np.array([1, 2, 3, 4], dtype=np.float32), weight=1)
    nested.add(np.array([5, 9], dtype=np.float32), weight=3, level=1)
    nested.add(np.array([-1], dtype=np.float32), weight=4, level=2)
    # (1 + 3·5) / 4; 2; (3 + 3·9 - 4·1) / 8; 4.
    assert nested.mean().tolist() == [4.0, 2.0, 3.25, 4.0]
    assert nested.held().all()
    assert nested.part(1).mean().tolist() == [5.0, 9.0]


def test_what_nobody_holds_is_told_apart() -> None:
    nested = nested_floats()
    nested.add(np.array([-1], dtype=np.float32), weight=4, level=2)
    assert nested.held().tolist() == [False, False, True, False]
    assert nested.mean().tolist() == [0.0, 0.0, -1.0, 0.0]


def nested_signs(*, of_speakers: bool) -> Nested:
    nested = Nested(
        [SignMean(3, of_speakers=of_speakers), SignMean(1, of_speakers=of_speakers)],
        places=[ALL, np.array([False, True, False])],
        count=3,
    )
    nested.add(Votes.from_ternary(np.array([2, 2, 1], dtype=np.uint8)), weight=2)
    nested.add(Votes.from_ternary(np.array([1, 0, 0], dtype=np.uint8)), weight=2)
    nested.add(Votes.from_bools(np.array([True])), weight=4, level=1)
    nested.add(Votes.from_ternary(np.array([1], dtype=np.uint8)), weight=8, level=1)
    return nested


def test_who_abstains_counts_and_who_does_not_hold_the_weight_does_not() -> None:
    # 2 of 4; 2 - 2 + 4 of 16; -2 of 4.
    assert nested_signs(of_speakers=False).mean().tolist() == [0.5, 0.25, -0.5]


def test_over_speakers_neither_counts() -> None:
    assert nested_signs(of_speakers=True).mean().tolist() == [1.0, 0.5, -1.0]


@given(float_replies())
@settings(max_examples=30)
def test_one_level_of_floats_is_bit_by_bit_what_it_is_without_levels(replies: list[tuple[Floats, int]]) -> None:
    size, whole = replies[0][0].size, np.ones(replies[0][0].size, dtype=np.bool_)
    one = Nested([FloatMean(size)], places=[None], count=size)
    # All weights are in both levels, and the clients are in the one or in the other.
    two = Nested([FloatMean(size), FloatMean(size)], places=[None, whole], count=size)
    for number, (value, weight) in enumerate(replies):
        one.add(value, weight=weight)
        two.add(value, weight=weight, level=number % 2)
    assert one.mean().tobytes() == two.mean().tobytes() == float_mean(replies).tobytes()


@given(vote_replies(), st.booleans())
@settings(max_examples=30)
def test_one_level_of_votes_is_bit_by_bit_what_it_is_without_levels(
    replies: list[tuple[Levels, int]], of_speakers: bool
) -> None:
    size = replies[0][0].size
    plain = SignMean(size, of_speakers=of_speakers)
    one = Nested([SignMean(size, of_speakers=of_speakers)], places=[None], count=size)
    two = Nested([SignMean(size, of_speakers=of_speakers) for _ in range(2)], places=[None, None], count=size)
    for number, (symbols, weight) in enumerate(replies):
        votes = Votes.from_ternary(symbols)
        plain.add(votes, weight=weight)
        one.add(votes, weight=weight)
        two.add(votes, weight=weight, level=number % 2)
    assert plain.mean().tobytes() == one.mean().tobytes() == two.mean().tobytes()


@st.composite
def levelled(draw: st.DrawFn) -> tuple[list[Bits], list[tuple[int, Floats, int]]]:
    count, levels = draw(st.integers(1, 6)), draw(st.integers(2, 4))
    places = [np.ones(count, dtype=np.bool_)]
    for _ in range(levels - 1):
        inner = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        places.append(places[-1] & np.array(inner, dtype=np.bool_))
    replies = []
    for _ in range(draw(st.integers(1, 6))):
        level = draw(st.integers(0, levels - 1))
        size = int(places[level].sum())
        own = np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype=np.float32)
        replies.append((level, own, draw(weights)))
    return places, replies


@given(levelled(), st.randoms())
@settings(max_examples=30)
def test_any_levels_in_any_order_give_the_exact_mean_over_holders(
    case: tuple[list[Bits], list[tuple[int, Floats, int]]], random: Any
) -> None:
    places, replies = case
    count = places[0].size

    def folded(some: list[tuple[int, Floats, int]]) -> Nested:
        nested = Nested([FloatMean(int(own.sum())) for own in places], places=[None, *places[1:]], count=count)
        for level, value, weight in some:
            nested.check(value, level=level)
            nested.add(value, weight=weight, level=level)
        return nested

    nested = folded(replies)
    total, divisor = [Fraction(0)] * count, [0] * count
    for level, value, weight in replies:
        for place, one in zip(np.flatnonzero(places[level]).tolist(), value.tolist(), strict=True):
            total[place] += weight * Fraction(one)
            divisor[place] += weight
    assert nested.held().tolist() == [weight > 0 for weight in divisor]
    expected = [float(t / w) if w else 0.0 for t, w in zip(total, divisor, strict=True)]
    # A value is rounded to 2**-32, and the mean to float32.
    np.testing.assert_allclose(nested.mean(), expected, rtol=2**-23, atol=2**-32)
    shuffled = list(replies)
    random.shuffle(shuffled)
    assert folded(shuffled).mean().tobytes() == nested.mean().tobytes()
