"""Accuracy against a cost, in letters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hedgerow.server.comparing.rows import WIDE
from hedgerow.units import percent_text, tick_text

__all__ = ["Mark", "text_plot"]

_SEVERAL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point: its letter, a cost above 0, and the accuracy as a fraction."""

    letter: str
    x: float
    y: float


def text_plot(marks: Sequence[Mark], *, x_text: Callable[[float], str], x_label: str, width: int, height: int) -> str:
    """Lines of text: accuracy upwards, the cost to the right; `*` where several letters would stand on one place.

    Args:
        marks: at least one.
        x_text: a cost as text.
        x_label: what stands below.
        width: letters of a line, at least 30.
        height: lines for the points, at least 2.
    """
    xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
    logarithmic = max(xs) >= WIDE * min(xs)
    scale = math.log10 if logarithmic else float
    top, bottom = percent_text(max(ys), decimals=1), percent_text(min(ys), decimals=1)
    margin = max(len(top), len(bottom)) + 2
    columns = width - margin - 1
    rows = [[" "] * columns for _ in range(height)]
    for mark in marks:
        column = _place(scale(mark.x), low=scale(min(xs)), high=scale(max(xs)), places=columns)
        row = height - 1 - _place(mark.y, low=min(ys), high=max(ys), places=height)
        rows[row][column] = mark.letter if rows[row][column] == " " else _SEVERAL
    edges = [""] * height
    edges[0], edges[-1] = top, bottom if height > 1 else top
    lines = [f"{edge:>{margin - 1}} │{''.join(row).rstrip()}" for edge, row in zip(edges, rows, strict=True)]
    left, right = tick_text(x_text(min(xs))), tick_text(x_text(max(xs)))
    lines.append(" " * margin + "└" + "─" * columns)
    lines.append(" " * (margin + 1) + left + right.rjust(columns - len(left)))
    label = x_label + (", log scale" if logarithmic else "")
    lines.append((" " * (margin + 1) + label.center(columns)).rstrip())
    return "\n".join(lines)


def _place(value: float, *, low: float, high: float, places: int) -> int:
    # One value alone stands in the middle.
    share = (value - low) / (high - low) if high > low else 0.5
    return round(share * (places - 1))
