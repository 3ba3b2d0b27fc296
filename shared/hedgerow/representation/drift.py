"""Ternary votes on the direction in which training moved each score: down, none, up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hedgerow.codec import Floats, Levels

__all__ = ["ABSTAINS", "DOWN", "UP", "ternary"]

DOWN, ABSTAINS, UP = 0, 1, 2


def ternary(moved: Floats, *, layers: Sequence[int], abstain: float) -> Levels:
    """Votes of the scores that moved most: in each layer the fraction 1 - `abstain`, at least one of its scores.

    It is the sparse ternary compression of Sattler et al. 2019 (arXiv 1903.02891) without magnitudes. Taken over all
    layers at once, the largest are in few of them, and the others stop learning.

    Args:
        moved: (kept,) float32.
        layers: numbers of kept weights of the prunable tensors.
        abstain: in [0, 1).

    Returns:
        (kept,) uint8 of DOWN, ABSTAINS and UP. What did not move at all abstains.

    >>> ternary(np.array([3, -5, 1, 0, -1], dtype=np.float32), layers=[3, 2], abstain=0.5).tolist()
    [2, 0, 1, 1, 0]
    """
    votes = np.full(moved.size, ABSTAINS, dtype=np.uint8)
    begin = 0
    for kept in layers:
        part = moved[begin : begin + kept]
        # Rounded to even, so that the same share is meant whatever the layer's size.
        speakers = max(1, round(kept * (1 - abstain))) if kept else 0
        # A stable order, so that among equal ones the same speak on every machine.
        most = begin + np.argsort(-np.abs(part), kind="stable")[:speakers]
        votes[most] = np.where(moved[most] > 0, UP, np.where(moved[most] < 0, DOWN, ABSTAINS))
        begin += kept
    return votes
