"""Clipped updates and their noise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hedgerow.errors import ConfigError, TrainingError
from hedgerow.privacy.gaussian import Floats, clipped, l2_norm, noised
from hedgerow.privacy.randomness import Draw, seeded_words, system_words


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def seeded(seed: int) -> Draw:
    return seeded_words(np.random.Generator(np.random.PCG64(seed)))


def test_a_long_update_is_scaled_to_the_norm_and_keeps_its_direction() -> None:
    assert clipped(floats(3, -4), norm=1).tolist() == pytest.approx([0.6, -0.8], rel=1e-6)


def test_a_short_update_is_left_bit_by_bit_as_it_is() -> None:
    update = floats(3, -4)
    result = clipped(update, norm=5)
    assert result.tolist() == [3, -4]
    assert result is not update


@given(
    arrays.arrays(np.float32, st.integers(0, 50), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.floats(1e-6, 1e6),
)
def test_what_is_clipped_is_never_longer_than_the_norm(update: Floats, norm: float) -> None:
    before = update.copy()
    result = clipped(update, norm=norm)
    # The sum of squares itself, so that the root cannot round in favour.
    assert math.fsum(float(v) ** 2 for v in result) <= norm**2 * (1 + 1e-15)
    assert l2_norm(result) >= min(l2_norm(update), norm) * (1 - 1e-6) - 1e-36
    assert update.tolist() == before.tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        clipped(floats(0, bad), norm=1)


def test_noise_of_a_seed_is_repeated_and_another_seed_gives_other_noise() -> None:
    update = floats(1, 2, 3)
    results = [noised(update, norm=1, multiplier=1, draw=seeded(seed)).tolist() for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]
    assert update.tolist() == [1, 2, 3]


def test_the_noise_of_a_seed_never_changes() -> None:
    result = noised(floats(0, 0, 10), norm=0.5, multiplier=2, draw=seeded(1))
    assert result.tolist() == pytest.approx([0.03971241, -1.222679, 11.14636], rel=1e-6)


def test_noise_is_as_large_as_the_multiplier_times_the_norm_and_of_mean_zero() -> None:
    count = (1 << 20) + 5
    noise = noised(np.zeros(count, dtype=np.float32), norm=0.25, multiplier=8, draw=seeded(1))
    assert noise.dtype == np.float32
    assert float(noise.std(dtype=np.float64)) == pytest.approx(2, rel=5e-3)
    assert float(noise.mean(dtype=np.float64)) == pytest.approx(0, abs=5 * 2 / math.sqrt(count))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_norm_or_multiplier_that_is_not_positive_and_finite_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="norm is"):
        clipped(floats(1), norm=bad)
    with pytest.raises(ConfigError, match="norm is"):
        noised(floats(1), norm=bad, multiplier=1, draw=system_words)
    with pytest.raises(ConfigError, match="multiplier is"):
        noised(floats(1), norm=1, multiplier=bad, draw=system_words)
