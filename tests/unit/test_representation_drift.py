"""Ternary votes: who speaks in each layer, and what of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Floats
from hedgerow.representation.drift import ABSTAINS, DOWN, UP, ternary

layers_of_moves = st.lists(
    hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(-1, 1, width=32)), min_size=1, max_size=4
)
shares = st.floats(0, 1, exclude_max=True)


def votes_of(moved: list[float], *, layers: list[int], abstain: float) -> list[int]:
    found: list[int] = ternary(np.array(moved, dtype=np.float32), layers=layers, abstain=abstain).tolist()
    return found


def test_the_symbols_are_those_that_travel() -> None:
    assert (DOWN, ABSTAINS, UP) == (0, 1, 2)


def test_in_each_layer_the_scores_that_moved_most_speak() -> None:
    # The second layer's largest is smaller than all that speaks in the first; its half speaks all the same.
    moved = [3, -5, 1, -2, 0.1, -0.2, 0.4, 0.3]
    assert votes_of(moved, layers=[4, 4], abstain=0.5) == [2, 0, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("kept", "abstain", "speakers"),
    [(20, 0.95, 1), (20, 0.9, 2), (10, 0.25, 8), (10, 0.75, 2), (10, 0.0, 10), (3, 0.999, 1), (1, 0.5, 1)],
)
def test_the_share_that_speaks_is_rounded_and_somebody_always_does(kept: int, abstain: float, speakers: int) -> None:
    votes = votes_of(list(range(1, kept + 1)), layers=[kept], abstain=abstain)
    assert votes == [ABSTAINS] * (kept - speakers) + [UP] * speakers


def test_of_those_that_moved_equally_far_the_first_speak() -> None:
    assert votes_of([1, -1, 1, -1, 1], layers=[5], abstain=0.6) == [2, 0, 1, 1, 1]
    assert votes_of([0.5] * 1000, layers=[1000], abstain=0.75) == [2] * 250 + [1] * 750


def test_a_score_that_did_not_move_abstains_even_where_all_may_speak() -> None:
    assert votes_of([0, 2, -0.0, -1], layers=[4], abstain=0.0) == [1, 2, 1, 0]
    assert votes_of([0, 0, 0], layers=[3], abstain=0.5) == [1, 1, 1]


def test_an_empty_layer_has_no_votes_and_takes_none() -> None:
    assert votes_of([1, -2], layers=[0, 1, 0, 1, 0], abstain=0.9) == [2, 0]
    assert votes_of([], layers=[], abstain=0.9) == []
    assert votes_of([], layers=[0, 0], abstain=0.0) == []


def test_the_smallest_move_counts_as_one() -> None:
    assert votes_of([1e-45, -1e-45], layers=[2], abstain=0.0) == [2, 0]


@given(layers_of_moves, shares)
def test_whoever_speaks_moved_at_least_as_far_as_whoever_does_not_and_tells_the_direction(
    moves: list[Floats], abstain: float
) -> None:
    votes = ternary(np.concatenate(moves), layers=[part.size for part in moves], abstain=abstain)
    assert votes.dtype == np.uint8
    begin = 0
    for part in moves:
        said = votes[begin : begin + part.size]
        begin += part.size
        spoke = said != ABSTAINS
        assert (np.sign(part[spoke]) == said[spoke].astype(int) - 1).all()
        if spoke.any():
            assert np.abs(part[~spoke]).max(initial=0) <= np.abs(part[spoke]).min()
        if part.size:
            wanted = max(1, round(part.size * (1 - abstain)))
            assert np.count_nonzero(spoke) == min(wanted, np.count_nonzero(part))


@given(layers_of_moves, shares)
def test_a_layer_votes_as_it_would_alone(moves: list[Floats], abstain: float) -> None:
    together = ternary(np.concatenate(moves), layers=[part.size for part in moves], abstain=abstain)
    alone = [ternary(part, layers=[part.size], abstain=abstain) for part in moves]
    assert together.tolist() == np.concatenate(alone).tolist()


@given(layers_of_moves, shares)
def test_moves_the_other_way_are_votes_the_other_way(moves: list[Floats], abstain: float) -> None:
    moved, layers = np.concatenate(moves), [part.size for part in moves]
    there, back = (ternary(way, layers=layers, abstain=abstain) for way in (moved, -moved))
    assert (there + back == 2).all()


def test_nothing_is_written_into_what_was_given() -> None:
    moved = np.array([1, -2, 0], dtype=np.float32)
    moved.flags.writeable = False
    ternary(moved, layers=[3], abstain=0.5)
