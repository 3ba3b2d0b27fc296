"""What guarantees add up to, against published values, exact sums and the accountant's own."""

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import ConfigError
from hedgerow.privacy import gaussian_epsilon, votes_epsilon


def normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def exact_delta(count: int, epsilon: float, total: float) -> float:
    """Of `count` randomised signs that all differ, at ε = total: the privacy loss is ε · (kept - changed)."""
    keep = 1 / (1 + math.exp(-epsilon))
    losses = (
        (math.comb(count, kept) * keep**kept * (1 - keep) ** (count - kept), epsilon * (2 * kept - count))
        for kept in range(count + 1)
    )
    return math.fsum(p * -math.expm1(total - loss) for p, loss in losses if loss > total)


def test_without_a_delta_epsilons_add_up_over_votes_and_rounds() -> None:
    assert votes_epsilon(votes=96_618, rounds=1, epsilon=1.0) == 96_618
    assert votes_epsilon(votes=3, rounds=4, epsilon=0.5) == 6


def test_with_a_delta_it_is_mean_and_deviation_of_the_privacy_loss() -> None:
    # 10,000 · 0.01 · tanh(0.005) + 0.01 · √(20,000 · ln 10⁶) = 0.499996 + 5.256522
    assert votes_epsilon(votes=100, rounds=100, epsilon=0.01, delta=1e-6) == pytest.approx(5.756518, abs=1e-6)


def test_a_large_epsilon_of_few_votes_simply_adds_up() -> None:
    assert votes_epsilon(votes=2, rounds=1, epsilon=1.0, delta=1e-9) == 2


@given(st.integers(1, 60), st.integers(1, 3), st.floats(0.01, 3), st.floats(1e-9, 0.1))
def test_the_bound_holds_for_the_exact_privacy_loss_of_all_votes(
    votes: int, rounds: int, epsilon: float, delta: float
) -> None:
    total = votes_epsilon(votes=votes, rounds=rounds, epsilon=epsilon, delta=delta)
    assert exact_delta(votes * rounds, epsilon, total) <= delta


def test_the_accountant_agrees_that_the_bound_holds_and_is_not_far_off() -> None:
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    count, epsilon, delta = 1000, 0.1, 1e-6
    # Its noise parameter is the probability of an answer drawn blindly.
    one = pld.from_randomized_response(2 / (math.exp(epsilon) + 1), 2)
    exact = float(one.self_compose(count).get_epsilon_for_delta(delta))
    assert exact < votes_epsilon(votes=count, rounds=1, epsilon=epsilon, delta=delta) < 1.15 * exact


def test_one_round_is_the_gaussian_mechanism_with_the_distance_of_any_two_updates() -> None:
    pytest.importorskip("dp_accounting")
    # Twice the norm apart, so a multiplier of 2 is a standard deviation of 1 distance; there δ(1) = Φ(-½) - e · Φ(-1½).
    delta = normal_cdf(-0.5) - math.e * normal_cdf(-1.5)
    assert delta == pytest.approx(0.126936737, abs=1e-9)
    assert gaussian_epsilon(multiplier=2, rounds=1, delta=delta) == pytest.approx(1, abs=1e-6)


def test_four_rounds_are_one_with_half_the_noise() -> None:
    pytest.importorskip("dp_accounting")
    one, four = (gaussian_epsilon(multiplier=m, rounds=r, delta=1e-5) for m, r in ((3, 1), (6, 4)))
    assert one == pytest.approx(four)


def test_a_sampled_run_is_within_the_published_value_of_the_moments_accountant() -> None:
    pytest.importorskip("dp_accounting")
    # Abadi et al. 2016, section 3.2 and figure 2: q = 0.01, σ = 4, 10,000 steps, δ = 10⁻⁵: 1.26, and 9.34 without it.
    # Conversion from Rényi's divergence has become tighter since.
    epsilon = gaussian_epsilon(multiplier=4, rounds=10_000, delta=1e-5, sampling=0.01)
    assert 1.0 < epsilon < 1.26
    assert epsilon == pytest.approx(1.0355, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 20), st.integers(1, 100), st.floats(0.01, 0.9))
def test_more_noise_fewer_rounds_and_rarer_sampling_protect_better(
    multiplier: float, rounds: int, sampling: float
) -> None:
    pytest.importorskip("dp_accounting")
    base = gaussian_epsilon(multiplier=multiplier, rounds=rounds, delta=1e-5, sampling=sampling)
    assert gaussian_epsilon(multiplier=2 * multiplier, rounds=rounds, delta=1e-5, sampling=sampling) <= base
    assert gaussian_epsilon(multiplier=multiplier, rounds=2 * rounds, delta=1e-5, sampling=sampling) >= base
    assert gaussian_epsilon(multiplier=multiplier, rounds=rounds, delta=1e-5, sampling=sampling / 2) <= base


def test_without_the_accountant_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"pip install 'hedgerow\[privacy\]'"):
        gaussian_epsilon(multiplier=1, rounds=1, delta=1e-5)
    assert votes_epsilon(votes=1, rounds=1, epsilon=1, delta=1e-5) == 1


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="votes is 0"):
        votes_epsilon(votes=0, rounds=1, epsilon=1)
    with pytest.raises(ConfigError, match="rounds is 0"):
        gaussian_epsilon(multiplier=1, rounds=0, delta=1e-5)
    with pytest.raises(ConfigError, match="epsilon is 17"):
        votes_epsilon(votes=1, rounds=1, epsilon=17)
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="delta is"):
            votes_epsilon(votes=1, rounds=1, epsilon=1, delta=delta)
        with pytest.raises(ConfigError, match="delta is"):
            gaussian_epsilon(multiplier=1, rounds=1, delta=delta)
    with pytest.raises(ConfigError, match="multiplier is nan"):
        gaussian_epsilon(multiplier=math.nan, rounds=1, delta=1e-5)
    for sampling in (0.0, 1.5):
        with pytest.raises(ConfigError, match="sampling is"):
            gaussian_epsilon(multiplier=1, rounds=1, delta=1e-5, sampling=sampling)
