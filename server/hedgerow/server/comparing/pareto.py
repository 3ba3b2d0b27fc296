"""Which of several things nobody beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["beaten_by"]


def beaten_by(points: Mapping[str, Sequence[float | None]]) -> dict[str, tuple[str, ...]]:
    """For each point those that are at least as good on each axis and better on one; nobody for the Pareto front.

    An axis on which anybody has no value counts for nobody: two points have to be compared on the same axes.

    Args:
        points: by name the values on each axis, of which more is better; as many for all.

    >>> beaten_by({"a": [0.9, -10], "b": [0.9, -20], "c": [0.95, -30]})
    {'a': (), 'b': ('a',), 'c': ()}
    """
    known = [all(value is not None for value in axis) for axis in zip(*points.values(), strict=True)]
    values = {
        name: [value for value, there in zip(point, known, strict=True) if there and value is not None]
        for name, point in points.items()
    }
    return {name: tuple(other for other in values if _beats(values[other], own)) for name, own in values.items()}


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))
