"""Random drop and rescale: positions that never travel."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.codec.drop import dropped, kept_groups, kept_positions
from hedgerow.seeds import derive_seed, numpy_generator


def bits_of(text: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([c == "1" for c in text], dtype=np.bool_)


def test_positions_are_the_same_on_every_machine_and_in_every_version_of_numpy() -> None:
    keep = kept_positions(16, drop=0.75, generator=numpy_generator(7, "drop", 3, 1))
    # Raw 64-bit output of PCG64 at or above 0.75 · 2**64.
    raw = np.random.PCG64(derive_seed(7, "drop", 3, 1)).random_raw(16)
    assert keep.tolist() == [int(r) >= 3 << 62 for r in raw]
    assert 0 < keep.sum() < 16


def test_two_ends_with_one_seed_keep_the_same() -> None:
    here = kept_positions(1000, drop=0.5, generator=numpy_generator(0, "drop", 2, 9))
    there = kept_positions(1000, drop=0.5, generator=numpy_generator(0, "drop", 2, 9))
    other = kept_positions(1000, drop=0.5, generator=numpy_generator(0, "drop", 3, 9))
    assert (here == there).all()
    assert (here != other).any()


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept_is_what_was_asked_for(drop: float) -> None:
    keep = kept_positions(100_000, drop=drop, generator=numpy_generator(0, "drop"))
    # Five standard deviations of a binomial share of 100,000.
    assert abs(keep.mean() - (1 - drop)) < 5 * (drop * (1 - drop) / 100_000) ** 0.5


def test_nothing_is_dropped_at_zero() -> None:
    assert kept_positions(1000, drop=0.0, generator=numpy_generator(0)).all()


def test_the_rest_is_rescaled() -> None:
    values = dropped(np.array([1, 2, -3, 4], dtype=np.float32), bits_of("0110"), drop=0.75)
    assert values.tolist() == [8.0, -12.0]


def test_what_rescaling_would_take_beyond_float32_becomes_the_largest() -> None:
    largest = np.finfo(np.float32).max
    values = dropped(np.array([largest, -largest]), bits_of("11"), drop=0.9)
    assert values.tolist() == [largest, -largest]


def test_the_expected_update_stays_what_it_was() -> None:
    update = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    total = np.zeros(3)
    for round in range(2000):
        keep = kept_positions(3, drop=0.5, generator=numpy_generator(0, "drop", round))
        total[keep] += dropped(update, keep, drop=0.5)
    # The standard error is |u| / sqrt(2000) = 0.022 |u|.
    assert np.allclose(total / 2000, update, atol=0, rtol=0.11)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 2**20))
def test_groups_of_the_kept_sum_to_their_number(groups: list[int], seed: int) -> None:
    keep = kept_positions(sum(groups), drop=0.4, generator=numpy_generator(seed))
    ends = np.cumsum([0, *groups])
    assert kept_groups(keep, groups) == tuple(int(keep[a:b].sum()) for a, b in pairwise(ends))


def test_nothing_is_dropped_of_nothing() -> None:
    keep = kept_positions(0, drop=0.5, generator=numpy_generator(0))
    empty = np.zeros(0, dtype=np.float32)
    assert dropped(empty, keep, drop=0.5).size == 0
    assert kept_groups(keep, []) == ()
