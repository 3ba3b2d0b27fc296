"""Pruning by and by: a network that starts denser than it ends, and in which nothing grows.

The schedule is that of Zhu & Gupta 2017 (arXiv 1710.01878).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hedgerow.codec import Floats
from hedgerow.config import AdjustmentSettings, PruningSettings
from hedgerow.pruning.density import LAYER_RULES, kept_count
from hedgerow.pruning.mask import Mask

__all__ = ["lowest_together", "scheduled_density", "thinned_counts"]


def scheduled_density(round: int, *, settings: AdjustmentSettings, density: float, rounds: int) -> float:
    """The density after round `round`: d + (start - d)·(1 - t/end)³, d exactly from the last adjustment on.

    It is their equation 1 for densities in place of sparsities, with t₀ = 0; t is the last round up to `round` that
    adjusted, and `end` the last one that may.

    Args:
        round: from 0.
        settings: when, and the density to start with.
        density: d, the one to end with.
        rounds: of the whole run.

    >>> plan = AdjustmentSettings(every=2, until=8, density="cubic", start_density=1.0)
    >>> [scheduled_density(round, settings=plan, density=0.5, rounds=20) for round in (0, 2, 3, 4, 8, 20)]
    [1.0, 0.7109375, 0.7109375, 0.5625, 0.5, 0.5]
    """
    start = settings.start_density
    if settings.density == "constant" or start is None:
        return density
    end = settings.last(rounds) // settings.every * settings.every
    left = 1 - min(round // settings.every * settings.every, end) / end
    return density + (start - density) * left**3


def thinned_counts(mask: Mask, *, pruning: PruningSettings, density: float) -> tuple[dict[str, int], int]:
    """How many weights of each tensor have to go so that the mask has this density, and how many more of all together.

    By a rule that fixes densities of layers the second is 0; by rule `global`, where the scores decide, the first is
    empty (see `lowest_together`). No tensor has to grow for it, and none loses its last weight.

    Args:
        mask: what is kept now.
        pruning: the rule.
        density: of the mask afterwards.

    Raises:
        PruningError: the density leaves less than one weight a layer.
    """
    kept = mask.layer_kept()
    wanted = kept_count(density, size=mask.size, layers=len(kept))
    total = max(0, sum(kept.values()) - wanted)
    if pruning.rule == "global" or not total:
        return {}, total
    counts = LAYER_RULES[pruning.rule](mask.shapes, density=density, most=kept)
    return {name: kept[name] - count for name, count in counts.items() if count < kept[name]}, 0


def lowest_together(scores: Floats, *, layers: Mapping[str, int], count: int) -> dict[str, int]:
    """Of each tensor how many of the `count` smallest scores of all are in it; its largest one stays.

    Args:
        scores: (kept,) finite; of equal ones those at lower positions are the smaller.
        layers: the kept weights of each tensor, which add up to kept.
        count: at most kept less one a tensor.

    >>> lowest_together(np.array([1, 2, 0, 3], dtype=np.float32), layers={"a": 2, "b": 1, "c": 1}, count=1)
    {'a': 1}
    """
    assert scores.size == sum(layers.values()), "the scores belong to another mask"
    ends = np.cumsum(list(layers.values()), dtype=np.int64)
    held = np.zeros(scores.size, dtype=np.bool_)
    for end, kept in zip(ends, layers.values(), strict=True):
        if kept:
            held[end - kept + int(np.argsort(scores[end - kept : end], kind="stable")[-1])] = True
    free = np.flatnonzero(~held)
    assert count <= free.size, "a tensor would lose its last weight"
    goes = free[np.argsort(scores[free], kind="stable")[:count]]
    found = np.bincount(np.searchsorted(ends, goes, side="right"), minlength=len(layers))
    return {name: int(own) for name, own in zip(layers, found, strict=True) if own}
