"""The common kinds of chart of a report, lines over rounds and horizontal bars, as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from hedgerow.server.report.svg import INK, MUTED, PAPER, SERIES, drawing, inline_svg
from hedgerow.units import tick_text

__all__ = ["Bar", "Line", "bar_chart", "empty_axes", "line_chart", "log_axis", "round_axis", "short_label"]

_WIDTH = 5.0  # inches; narrow, so that letters stay legible when a phone scales the picture down
_HEIGHT = 2.7
_LABEL_LETTERS = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve; its name stands in the legend, which is HTML."""

    label: str
    value: str
    """The latest value, as text, for the legend."""
    colour: int
    """1 to 4."""
    x: tuple[int, ...]
    y: tuple[float, ...]
    dashed: bool = False
    ring: int | None = None
    """Round to be ringed, for example the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One horizontal bar."""

    label: str
    value: float
    text: str


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    tick: Callable[[float], str],
    zero: bool = False,
    top: float | None = None,
) -> str:
    """Lines over rounds as an inline SVG.

    Args:
        name: Prefix of every id.
        lines: At least one, each with at least one finite point.
        tick: A value of the y axis as text.
        zero: Whether a linear y axis starts at zero.
        top: The largest value that makes sense (1 for a fraction); the axis stops there.
    """
    with drawing():
        figure, axes = empty_axes(_HEIGHT)
        for line in lines:
            _draw(axes, line)
        values = [value for line in lines for value in line.y]
        if zero and min(values) >= 0:
            axes.set_ylim(bottom=0, top=None if max(values) > 0 else 1)
        if top is not None and axes.get_ylim()[1] > top >= max(values):
            axes.set_ylim(top=top)
        round_axis(axes, {x for line in lines for x in line.x})
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        if zero and _spread(lines):
            log_axis(axes, values)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(tick(value))))
        axes.grid(axis="y")
        return inline_svg(figure, name)


def bar_chart(name: str, bars: Sequence[Bar], *, mark: float | None = None) -> str:
    """Horizontal bars from zero, the first on top, as an inline SVG; `mark` is a dashed vertical line."""
    with drawing():
        figure, axes = empty_axes(max(_HEIGHT, 0.35 + 0.27 * len(bars)))
        places = range(len(bars))
        axes.barh(places, [bar.value for bar in bars], height=0.62, color=SERIES[0])
        for place, bar in zip(places, bars, strict=True):
            axes.annotate(
                bar.text,
                (bar.value, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none"},
            )
        if mark is not None:
            axes.axvline(mark, color=SERIES[1], linewidth=1.4, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_yticks(places, [short_label(bar.label) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, 1.2 * max([bar.value for bar in bars] + [mark or 0.0]) or 1.0)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_visible(True)
        return inline_svg(figure, name)


def empty_axes(height: float) -> tuple[Figure, Axes]:
    """A figure of the pages' width and `height` inches, with nothing but a line below."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False, bottom=False, pad=5)
    return figure, axes


def round_axis(axes: Axes, rounds: Collection[int]) -> None:
    """Makes the x axis one of rounds."""
    if len(rounds) == 1:
        axes.set_xticks(sorted(rounds))  # else the axis would count in hundredths of a round
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Round")


def _draw(axes: Axes, line: Line) -> None:
    colour = SERIES[line.colour - 1]
    axes.plot(
        line.x,
        line.y,
        color=colour,
        linewidth=1.5 if line.dashed else 2.0,
        linestyle=(0, (4, 2.5)) if line.dashed else "solid",
        clip_on=False,
    )
    if not line.dashed or len(line.x) == 1:
        # Dots show where something was measured; many of them only hide the line, so then only the last stays.
        few = len(line.x) <= 12
        x, y = (line.x, line.y) if few else (line.x[-1:], line.y[-1:])
        axes.plot(x, y, "o", color=colour, markersize=5.5, markeredgecolor=PAPER, clip_on=False)
    if line.ring is not None:
        height = line.y[line.x.index(line.ring)]
        axes.plot(
            line.ring,
            height,
            "o",
            markersize=10,
            color="none",
            markeredgecolor=colour,
            markeredgewidth=1.4,
            clip_on=False,
        )


def _spread(lines: Sequence[Line]) -> bool:
    """Whether a linear axis would press one line flat: the ends of two lines lie 20 times apart or more."""
    ends = [line.y[-1] for line in lines]
    return min(ends) > 0 and max(ends) >= 20 * min(ends)


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Makes the y axis logarithmic, for values of which at least one is positive."""
    positive = [value for value in values if value > 0]
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(min(positive) / 1.3, max(positive) * 1.3)
    narrow = max(positive) < 30 * min(positive)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=7))
    axes.yaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_ylabel("log scale", color=MUTED, fontsize=9)


def short_label(label: str, letters: int = _LABEL_LETTERS) -> str:
    """A long name keeps its two ends: layers differ in the first part and in the last."""
    if len(label) <= letters:
        return label
    half = (letters - 1) // 2
    return f"{label[:half]}…{label[-half:]}"
