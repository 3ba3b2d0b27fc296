"""The figures of a comparison as text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hedgerow.server.comparing.figures import INSTEAD, LineFigures, RunFigures, Spread
from hedgerow.units import (
    MISSING,
    bytes_text,
    clean_text,
    count_text,
    factor_text,
    number_text,
    percent_text,
    seconds_text,
)

__all__ = [
    "COSTS",
    "PLOTTED",
    "WIDE",
    "Cost",
    "accuracy_text",
    "axis_of",
    "beaten_text",
    "cost_text",
    "count_of_seeds",
    "fewer_text",
    "points_text",
]

WIDE = 8
"""An axis of a plot whose ends are so many times apart is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Something that accuracy costs: an axis of the plots.

    Attributes:
        figure: of `RunFigures`.
        title: of the plot.
        label: of the axis.
        short: heading of a column.
        less: a word for what is better.
        text: how a value is shown.
        instead: what is shown of a line that lacks the figure; a column of its own it has not.
    """

    figure: str
    title: str
    label: str
    short: str
    less: str
    text: Callable[[float | None], str]
    instead: Cost | None = None


_HELD = Cost(
    figure=INSTEAD["client_peak_bytes"],
    title="Accuracy and memory held",
    label="Most that a client’s process held for a request, measured",
    short="held",
    less="less",
    text=bytes_text,
)
COSTS = (
    Cost(
        figure="bytes_both",
        title="Accuracy and bytes",
        label="Bytes up and down, all clients, as encoded",
        short="bytes",
        less="fewer",
        text=bytes_text,
    ),
    Cost(
        figure="client_peak_bytes",
        title="Accuracy and memory",
        label="Peak memory of a client’s training, measured",
        short="client peak",
        less="less",
        text=bytes_text,
        instead=_HELD,
    ),
    Cost(
        figure="client_seconds",
        title="Accuracy and time",
        label="Time that all clients trained, one core each",
        short="device time",
        less="less",
        text=seconds_text,
    ),
)
PLOTTED = tuple(one for cost in COSTS for one in (cost, cost.instead) if one is not None)
"""Each kind of memory has a plot of its own, where any line has it."""


def cost_text(line: LineFigures | RunFigures, cost: Cost) -> str:
    """What a line or a run costs; where it has only what stands for the figure, with the word for that.

    >>> line = LineFigures(name="a", runs={}, over={"client_held_bytes": Spread.of([2e6])}, fewer={})
    >>> cost_text(line, COSTS[1])
    '2.0 MB held'
    """
    own, instead = _value(line, cost), cost.instead
    held = None if instead is None else _value(line, instead)
    if instead is None or own is not None or held is None:
        return cost.text(own)
    return f"{instead.text(held)} {instead.short}"


def _value(line: LineFigures | RunFigures, cost: Cost) -> float | None:
    if isinstance(line, LineFigures):
        return line.mean(cost.figure)
    found: float | None = getattr(line, cost.figure)
    return found


def accuracy_text(spread: Spread | None) -> str:
    """As `93.12% ± 0.20`, the latter in points; without it where there is one value.

    >>> accuracy_text(Spread(mean=0.9312, deviation=0.002, count=3)), accuracy_text(None)
    ('93.12% ± 0.20', '–')
    """
    return _spread_text(spread, lambda value: percent_text(value, decimals=2), lambda d: number_text(100 * d, 2))


def points_text(spread: Spread | None) -> str:
    """A difference as `+1.25 ± 0.30`; nothing of the line that the others are compared with.

    >>> points_text(Spread(mean=-0.5, deviation=None, count=1)), points_text(None)
    ('-0.50', '')
    """
    return "" if spread is None else _spread_text(spread, lambda value: f"{value:+.2f}", lambda d: f"{d:.2f}")


def _spread_text(spread: Spread | None, text: Callable[[float], str], deviation: Callable[[float], str]) -> str:
    """A mean and what it is spread by."""
    if spread is None:
        return MISSING
    return text(spread.mean) + ("" if spread.deviation is None else f" ± {deviation(spread.deviation)}")


def fewer_text(line: LineFigures, cost: Cost) -> str:
    """How many times less than the first line; nothing of this one.

    >>> line = LineFigures(name="a", runs={}, over={}, fewer={"bytes_both": 4.13, "client_seconds": 0.5})
    >>> [fewer_text(line, cost) for cost in COSTS]
    ['4.1× fewer', '', '2.0× more']
    """
    factor = line.fewer.get(cost.figure)
    if factor is None:
        return "" if cost.instead is None else fewer_text(line, cost.instead)
    times = factor_text(max(factor, 1 / factor))
    return times if times == "1.0×" else f"{times} {cost.less if factor > 1 else 'more'}"


def count_of_seeds(line: LineFigures, seeds: Sequence[int]) -> str:
    """How many seeds are done, of how many.

    >>> count_of_seeds(LineFigures(name="a", runs={}, over={}, fewer={}), [0, 1, 2])
    '0 of 3'
    """
    return count_text(len(seeds)) if len(line.runs) == len(seeds) else f"{len(line.runs)} of {len(seeds)}"


def beaten_text(line: LineFigures) -> str:
    """Who is at least as good on all axes and better on one: `nobody`, or names; a dash where nothing is done."""
    if not line.runs:
        return MISSING
    names = line.beaten_by
    if not names:
        return "nobody"
    return clean_text(", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else ""), 100)


def axis_of(cost: Cost, values: Sequence[float]) -> tuple[float, Callable[[float], str], str]:
    """How an axis of a plot shows these values: what they are divided by, a tick as text, and the label.

    >>> divisor, tick, label = axis_of(COSTS[2], [90.0, 1500.0])
    >>> divisor, tick(12.5), label
    (60.0, '12.5', 'Time that all clients trained, one core each, minutes')
    """
    if cost.text is not seconds_text:
        return 1.0, cost.text, cost.label
    longest = max(values)
    units = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
    divisor, unit = next((pair for pair in units if longest >= 2 * pair[0]), units[-1])
    return divisor, lambda value: f"{value:,.6g}", f"{cost.label}, {unit}"
