"""Votes of one client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.codec import PackedBits, Votes


def test_votes_up_and_down() -> None:
    votes = Votes.from_bools(np.array([True, False, True]))
    assert votes.positive.tolist() == [0b1010_0000]
    assert votes.spoken is None
    assert votes.count == 3
    assert votes.to_floats().tolist() == [1, -1, 1]


def test_votes_up_down_and_none() -> None:
    votes = Votes.from_ternary(np.array([0, 1, 2, 2, 1, 0, 0, 0, 2], dtype=np.uint8))
    assert votes.positive.tolist() == [0b0011_0000, 0b1000_0000]
    assert votes.spoken is not None
    assert votes.spoken.tolist() == [0b1011_0111, 0b1000_0000]
    floats = votes.to_floats()
    assert floats.tolist() == [-1, 0, 1, 1, 0, -1, -1, -1, 1]
    assert floats.dtype == np.float32


@given(st.lists(st.integers(0, 2), max_size=40))
def test_ternary_votes_are_the_floats_one_below_their_symbols(symbols: list[int]) -> None:
    votes = Votes.from_ternary(np.array(symbols, dtype=np.uint8))
    assert votes.to_floats().tolist() == [s - 1 for s in symbols]


def test_packed_bits_are_votes() -> None:
    votes = Votes.of(PackedBits.from_bools(np.array([False, True])))
    assert votes.to_floats().tolist() == [-1, 1]


def test_votes_can_be_read_only_and_leave_the_arrays_they_were_made_of_as_they_are() -> None:
    positive = np.array([0x80], dtype=np.uint8)
    votes = Votes(positive, positive, 1)
    assert votes.spoken is not None
    for data in (votes.positive, votes.spoken):
        with pytest.raises(ValueError, match="read-only"):
            data[0] = 0
    assert positive.flags.writeable


@pytest.mark.parametrize("data", [[], [0, 0], [0x01]])
def test_votes_of_the_wrong_size_or_with_bits_behind_the_last_one_are_a_mistake_of_the_caller(data: list[int]) -> None:
    bits, good = np.array(data, dtype=np.uint8), np.zeros(1, dtype=np.uint8)
    with pytest.raises(AssertionError):
        Votes(bits, None, 7)
    with pytest.raises(AssertionError):
        Votes(good, bits, 7)
