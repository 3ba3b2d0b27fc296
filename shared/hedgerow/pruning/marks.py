"""Which kept weights are marked: those that an adjustment is going to prune, known before the round that trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hedgerow.codec import Bits, Floats

__all__ = ["marked"]


def marked(scores: Floats, *, layers: Sequence[int], counts: Sequence[int]) -> Bits:
    """Of each tensor the `counts` smallest scores; of equal ones those at lower positions.

    Coordinator and device call it on the scores of the same version, and get the same marks without a position being
    sent. A device that has a part of the kept weights marks the same ones among them, if its counts say how many of the
    marked it has.

    Args:
        scores: (kept,) float32, finite; see `Representation.drop_scores`.
        layers: numbers of kept weights of the prunable tensors, which add up to kept.
        counts: how many of each are marked; at most as many as it keeps.

    Returns:
        (kept,) bool.

    >>> marked(np.array([3, 1, 2, 5, 5], dtype=np.float32), layers=[3, 2], counts=[2, 1]).tolist()
    [False, True, True, True, False]
    """
    assert scores.size == sum(layers), "the scores belong to another mask"
    bits, begin = np.zeros(scores.size, dtype=np.bool_), 0
    for kept, count in zip(layers, counts, strict=True):
        assert 0 <= count <= kept, "more marks than weights"
        if count:
            bits[begin + np.argsort(scores[begin : begin + kept], kind="stable")[:count]] = True
        begin += kept
    return bits
