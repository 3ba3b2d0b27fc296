"""Which candidate a device trains by: of those that fit into its memory the one that costs the least accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeAlias

from hedgerow.budget.plans import Candidate, DevicePlan, Refusal

__all__ = ["GUARD", "Cost", "Predict", "solve"]

Predict: TypeAlias = Callable[[Candidate], int]
"""Bytes that a candidate takes at most."""
Cost: TypeAlias = Callable[[Candidate], tuple[float, float]]
"""Points of accuracy that a candidate costs, and its time; see `hedgerow.budget.penalties`."""

GUARD = 1.05
"""Times the prediction that a budget has to be, because predictions are not exact."""
_MEGABYTE = 1_000_000


def solve(
    candidates: Sequence[Candidate], predict: Predict, budget: int, *, cost: Cost, guard: float = GUARD
) -> DevicePlan | Refusal:
    """Chooses; the same arguments always give the same choice.

    The first candidate is taken wherever it fits. Of the others it is the one of the least penalty, of equal ones that
    of the least time, of equal ones that of the least memory, and of equal ones the first. That one takes less memory
    than another because it does more about it is never assumed.

    Args:
        candidates: ways to train, the one that is asked for first.
        predict: bytes of each.
        budget: bytes that there are.
        cost: penalty and time of each.
        guard: a candidate fits if its bytes times this are no more than the budget.

    >>> asked = Candidate(kernels="dense", activations="exact", micro_batch=8, recompute=False, momentum=True)
    >>> found = solve([asked], lambda candidate: 10_000_000, 20_000_000, cost=lambda candidate: (0.0, 1.0))
    >>> found.chosen == asked, found.predicted
    (True, 10000000)
    >>> solve([asked], lambda candidate: 10_000_000, 5_000_000, cost=lambda candidate: (0.0, 1.0)).least
    11000000
    """
    assert candidates
    asked, *others = candidates
    asked_bytes = predict(asked)

    def plan(chosen: Candidate, predicted: int, penalty: float) -> DevicePlan:
        return DevicePlan(
            chosen=chosen,
            asked=asked,
            budget=budget,
            predicted=predicted,
            asked_bytes=asked_bytes,
            penalty=penalty,
        )

    if asked_bytes * guard <= budget:
        return plan(asked, asked_bytes, cost(asked)[0])
    smallest = (asked_bytes, asked)
    # A prediction is work, and the first of the cheapest that fits ends it.
    for (penalty, _), group in groupby(sorted(others, key=cost), key=cost):
        sizes = [(predict(candidate), candidate) for candidate in group]
        fitting = [found for found in sizes if found[0] * guard <= budget]
        if fitting:
            size, chosen = min(fitting, key=lambda found: found[0])
            return plan(chosen, size, penalty)
        smallest = min([smallest, *sizes], key=lambda found: found[0])
    size, chosen = smallest
    return Refusal(smallest=chosen, budget=budget, least=_megabytes_up(size * guard))


def _megabytes_up(size: float) -> int:
    return int(-(-size // _MEGABYTE)) * _MEGABYTE
