"""Sizes of memory with which devices come to train each level of an experiment."""

from __future__ import annotations

from hedgerow.budget import Refusal
from hedgerow.budget.deciding import Decider, estimated_levels
from hedgerow.config import Experiment
from hedgerow.server.bench import Bench

__all__ = ["memory_for_levels"]

_STEP, _MOST = 100_000, 40_000_000


def memory_for_levels(experiment: Experiment) -> list[str]:
    """A size in the middle of those that choose it for each of `budget.levels`, and after them one that is refused.

    What predictions are exactly is not what these tests are about, so no size is written down.
    """
    bench = Bench.of(experiment)
    levels = estimated_levels(experiment, bench.initial)
    decider = Decider(experiment, bench.initial, input_shape=bench.dataset.input_shape, levels=levels)
    found: dict[int | None, list[int]] = {}
    for size in range(_STEP, _MOST, _STEP):
        choice = decider.decide(size)
        found.setdefault(None if isinstance(choice, Refusal) else choice.chosen.level, []).append(size)
    return [_text(found[level][len(found[level]) // 2]) for level in [*range(len(levels)), None]]


def _text(size: int) -> str:
    return f"{size / 1_000_000:.1f}MB"
