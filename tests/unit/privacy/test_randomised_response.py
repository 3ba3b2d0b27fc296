"""Randomised response: its probabilities, exactly."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import ConfigError
from hedgerow.privacy.randomised_response import (
    LARGEST_EPSILON,
    exact_epsilon,
    keep_words,
    randomised,
    unbiased,
    unbiasing_factor,
)
from hedgerow.privacy.randomness import Words, seeded_words, system_words

epsilons = st.floats(1e-4, LARGEST_EPSILON)
alphabets = st.sampled_from([2, 3])


def drawn(*values: int) -> Words:
    return np.array(values, dtype=np.uint32)


def votes_of(*values: int) -> npt.NDArray[np.uint8]:
    return np.array(values, dtype=np.uint8)


def answer(vote: int, word: int, *, alphabet: int, epsilon: float) -> int:
    return int(randomised(votes_of(vote), alphabet=alphabet, epsilon=epsilon, draw=lambda _: drawn(word))[0])


def probabilities(alphabet: int, epsilon: float) -> list[list[Fraction]]:
    """Of each answer to each vote. The answer depends on a word by three facts only, each of which is tested below."""
    kept = keep_words(alphabet=alphabet, epsilon=epsilon)
    lie = Fraction(2**32 - kept, (alphabet - 1) * 2**32)
    return [[Fraction(kept, 2**32) if a == v else lie for a in range(alphabet)] for v in range(alphabet)]


def test_at_log_three_three_of_four_signs_are_kept_and_three_of_five_ternary_votes() -> None:
    assert keep_words(alphabet=2, epsilon=math.log(3)) / 2**32 == pytest.approx(3 / 4, abs=2**-31)
    assert keep_words(alphabet=3, epsilon=math.log(3)) / 2**32 == pytest.approx(3 / 5, abs=2**-31)


def test_at_one_the_probabilities_are_those_of_the_formula() -> None:
    # e / (e + 1) and e / (e + 2)
    assert keep_words(alphabet=2, epsilon=1) / 2**32 == pytest.approx(0.7310585786, abs=1e-9)
    assert keep_words(alphabet=3, epsilon=1) / 2**32 == pytest.approx(0.5761168848, abs=1e-9)


@pytest.mark.parametrize("alphabet", [2, 3])
def test_the_words_below_the_threshold_keep_a_vote_and_all_others_change_it(alphabet: int) -> None:
    kept = keep_words(alphabet=alphabet, epsilon=1)
    for vote in range(alphabet):
        assert [answer(vote, word, alphabet=alphabet, epsilon=1) for word in (0, kept - 1)] == [vote, vote]
        assert vote not in [answer(vote, word, alphabet=alphabet, epsilon=1) for word in (kept, kept + 1, 2**32 - 1)]


def test_consecutive_words_of_a_lie_go_through_the_others_in_turn_and_come_out_even() -> None:
    kept = keep_words(alphabet=3, epsilon=1)
    assert (2**32 - kept) % 2 == 0
    assert [answer(0, kept + i, alphabet=3, epsilon=1) for i in range(4)] == [1, 2, 1, 2]
    assert [answer(1, kept + i, alphabet=3, epsilon=1) for i in range(4)] == [2, 0, 2, 0]
    assert [answer(2, kept + i, alphabet=3, epsilon=1) for i in range(4)] == [0, 1, 0, 1]


@given(alphabets, epsilons)
def test_no_answer_is_more_than_e_to_the_epsilon_times_as_likely_for_one_vote_as_for_another(
    alphabet: int, epsilon: float
) -> None:
    table = probabilities(alphabet, epsilon)
    with localcontext(prec=60):
        bound = Decimal(epsilon).exp()
        for answers in zip(*table, strict=True):
            for one, other in itertools.permutations(answers, 2):
                ratio = one / other
                assert Decimal(ratio.numerator) <= bound * ratio.denominator


@given(alphabets, epsilons)
def test_the_epsilon_that_is_given_is_not_above_that_which_is_asked_for_and_close_to_it(
    alphabet: int, epsilon: float
) -> None:
    given_epsilon = exact_epsilon(alphabet=alphabet, epsilon=epsilon)
    assert epsilon * (1 - 2e-4) <= given_epsilon <= epsilon * (1 + 1e-12)


@given(alphabets, epsilons)
def test_the_answers_to_a_vote_are_right_on_average(alphabet: int, epsilon: float) -> None:
    values = {2: (-1, 1), 3: (-1, 0, 1)}[alphabet]
    factor = unbiasing_factor(alphabet=alphabet, epsilon=epsilon)
    for value, row in zip(values, probabilities(alphabet, epsilon), strict=True):
        assert sum(row) == 1
        mean = sum((p * v for p, v in zip(row, values, strict=True)), Fraction(0))
        assert factor * float(mean) == pytest.approx(value, rel=1e-12)


def test_the_mean_vote_of_three_clients_is_right_on_average_over_all_that_they_could_answer() -> None:
    table = probabilities(2, 0.5)
    votes, weights = (0, 1, 1), (1, 1, 4)
    expected = Fraction(0)
    for answers in itertools.product((0, 1), repeat=3):
        likelihood = math.prod((table[v][a] for v, a in zip(votes, answers, strict=True)), start=Fraction(1))
        expected += likelihood * Fraction(sum(w * (2 * a - 1) for w, a in zip(weights, answers, strict=True)), 6)
    mean = np.array([float(expected)], dtype=np.float32)
    assert unbiased(mean, alphabet=2, epsilon=0.5).tolist() == pytest.approx([4 / 6], rel=1e-6)


def test_the_factor_is_that_of_the_formula() -> None:
    e = math.e
    assert unbiasing_factor(alphabet=2, epsilon=1) == pytest.approx((e + 1) / (e - 1), rel=1e-8)
    assert unbiasing_factor(alphabet=3, epsilon=1) == pytest.approx((e + 2) / (e - 1), rel=1e-8)


@pytest.mark.parametrize(("alphabet", "keep"), [(2, 0.75), (3, 0.6)])
def test_answers_come_as_often_as_they_should(alphabet: int, keep: float) -> None:
    draw = seeded_words(np.random.Generator(np.random.PCG64(1)))
    count = 300_000
    answers = randomised(np.ones(count, dtype=np.uint8), alphabet=alphabet, epsilon=math.log(3), draw=draw)
    shares = np.bincount(answers, minlength=alphabet) / count
    others = (1 - keep) / (alphabet - 1)
    # Five standard deviations.
    assert shares == pytest.approx([others, keep, others][:alphabet], abs=5 * math.sqrt(0.25 / count))


@given(st.lists(st.integers(0, 2), max_size=40), epsilons, st.integers(0, 2**32))
def test_a_seed_repeats_the_answers_and_the_votes_stay_as_they_are(votes: list[int], epsilon: float, seed: int) -> None:
    given_votes = votes_of(*votes)
    first, second = (
        randomised(
            given_votes, alphabet=3, epsilon=epsilon, draw=seeded_words(np.random.Generator(np.random.PCG64(seed)))
        )
        for _ in range(2)
    )
    assert first.tolist() == second.tolist()
    assert given_votes.tolist() == votes
    assert first.shape == given_votes.shape
    assert not first.size or first.max() < 3


def test_the_answers_of_a_seed_never_change() -> None:
    draw = seeded_words(np.random.Generator(np.random.PCG64(7)))
    votes = votes_of(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2)
    assert randomised(votes, alphabet=3, epsilon=1, draw=draw).tolist() == [2, 0, 1, 1, 2, 1, 1, 1, 2, 0, 1, 1]


def test_the_number_of_words_does_not_depend_on_the_votes() -> None:
    asked: list[int] = []

    def draw(count: int) -> Words:
        asked.append(count)
        return system_words(count)

    randomised(np.zeros((1 << 20) + 3, dtype=np.uint8), alphabet=2, epsilon=1, draw=draw)
    randomised(np.ones((1 << 20) + 3, dtype=np.uint8), alphabet=2, epsilon=1, draw=draw)
    assert asked == [1 << 20, 3, 1 << 20, 3]


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 16.1, math.inf, math.nan])
def test_an_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 16"):
        unbiasing_factor(alphabet=2, epsilon=epsilon)


def test_an_epsilon_at_which_votes_say_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="say nothing"):
        randomised(votes_of(0), alphabet=3, epsilon=1e-12, draw=system_words)


def test_other_numbers_of_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 or 3 answers, not 4"):
        randomised(votes_of(0), alphabet=4, epsilon=1, draw=system_words)
