"""Charts about masks: dots of candidates, densities of layers over rounds, and what adjustments pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hedgerow.server.report.charts import empty_axes, log_axis, round_axis, short_label
from hedgerow.server.report.comparison import spread
from hedgerow.server.report.svg import INK, MUTED, PAPER, SERIES, drawing, inline_svg
from hedgerow.units import count_text, percent_text, tick_text

__all__ = ["NAMED", "Dot", "LayerLine", "Row", "dot_chart", "exchange_chart", "layer_chart"]

NAMED = 10
"""Lines that are named at their ends; in a deeper network the others are thin and grey."""
_LETTERS = 20
_DOTS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A candidate and its loss; None where there is none."""

    label: str
    value: float | None
    text: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """The density of a tensor over the rounds, and the rounds in which weights of it were pruned."""

    label: str
    x: tuple[int, ...]
    y: tuple[float, ...]
    pruned: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The adjustments of one block."""

    label: str
    """Of up to two lines."""
    x: tuple[int, ...]
    counts: tuple[int, ...]


def dot_chart(name: str, dots: Sequence[Dot]) -> str:
    """Values as dots on an axis that need not begin at zero, the first on top; the chosen one stands out."""
    with drawing():
        figure, axes = empty_axes(max(1.6, 0.75 + 0.27 * len(dots)))
        for place, dot in enumerate(dots):
            if dot.value is None:
                axes.annotate("not finite", (0.02, place), xycoords=("axes fraction", "data"), va="center", color=MUTED)
                continue
            colour = SERIES[0] if dot.chosen else MUTED
            axes.plot(dot.value, place, "o", color=colour, markersize=9 if dot.chosen else 6.5, clip_on=False, zorder=3)
            axes.annotate(
                f"{dot.text}, chosen" if dot.chosen else dot.text,
                (dot.value, place),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontweight="bold" if dot.chosen else "normal",
                bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none"},
            )
        values = [dot.value for dot in dots if dot.value is not None] or [0.0, 1.0]
        room = max(values) - min(values) or abs(values[0]) or 1.0
        # What stands beside the dots needs room on the right.
        axes.set_xlim(min(values) - 0.05 * room, max(values) + 0.45 * room)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlabel("Loss on the devices, nats")
        axes.set_yticks(range(len(dots)), [short_label(dot.label) for dot in dots])
        for tick, dot in zip(axes.get_yticklabels(), dots, strict=True):
            if dot.chosen:
                tick.set_fontweight("bold")
                tick.set_color(INK)
        axes.set_ylim(len(dots) - 0.4, -0.6)
        axes.grid(axis="y", linestyle=(0, (1, 3)))
        return inline_svg(figure, name)


def layer_chart(name: str, lines: Sequence[LayerLine], *, overall: LayerLine) -> str:
    """Densities over rounds, a line a tensor, named at its end; dots where weights were pruned.

    Args:
        name: Prefix of every id.
        lines: At least one, each with at least one point; the y axis is logarithmic where they span decades.
        overall: Of all tensors together, dashed.
    """
    with drawing():
        figure, axes = empty_axes(3.4)
        named = _named(lines)
        for place, line in enumerate(lines):
            if place in named:
                _draw(axes, line, SERIES[named.index(place) % len(SERIES)], width=1.8)
            else:
                axes.plot(line.x, line.y, color=MUTED, linewidth=0.8, alpha=0.55)
        axes.plot(overall.x, overall.y, color=INK, linewidth=1.3, linestyle=(0, (4, 2.5)))
        values = [value for line in (*lines, overall) for value in line.y]
        positive = [value for value in values if value > 0]
        if positive and max(positive) >= 10 * min(positive):
            log_axis(axes, positive)
        else:
            axes.set_ylim(0, 1.05 * max(values) or 1.0)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(percent_text(value))))
        round_axis(axes, set(overall.x))
        axes.margins(x=0.02)
        axes.grid(axis="y")
        ends = [(lines[place], SERIES[rank % len(SERIES)]) for rank, place in enumerate(named)]
        _names(axes, [*ends, (overall, INK)])
        return inline_svg(figure, name)


def exchange_chart(name: str, rows: Sequence[Row], *, last: int) -> str:
    """Numbers of weights that were pruned, as small bars over the rounds up to `last`, a row a block.

    All rows have the same scale.
    """
    with drawing():
        figure, axes = empty_axes(max(1.7, 0.7 + (0.46 if len(rows) <= 12 else 0.28) * len(rows)))
        most = max(count for row in rows for count in row.counts) or 1
        rounds = sorted({x for row in rows for x in row.x})
        gap = min((b - a for a, b in pairwise(rounds)), default=1)
        few = len(rounds) <= 16 and len(rows) <= 12
        for place, row in enumerate(rows):
            heights = [0.62 * count / most for count in row.counts]
            axes.bar(
                row.x,
                [-height for height in heights],  # the axis points down
                width=min(max(0.62 * gap, last / 90), last / 12),
                bottom=place + 0.4,
                color=SERIES[2],
                clip_on=False,
            )
            axes.axhline(place + 0.4, color=MUTED, linewidth=0.5, alpha=0.5)
            shown = range(len(row.x)) if few else [max(range(len(row.x)), key=lambda at: heights[at])]
            for at in shown:
                axes.annotate(
                    count_text(row.counts[at]),
                    (row.x[at], place + 0.4 - heights[at]),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5 if len(rows) <= 12 else 7,
                    color=INK,
                )
        labels = ["\n".join(short_label(line) for line in row.label.splitlines()) for row in rows]
        axes.set_yticks([place + 0.15 for place in range(len(rows))], labels, fontsize=9 if len(rows) <= 12 else 7)
        axes.set_ylim(len(rows) - 0.6, -0.6)
        axes.set_xlim(min(0, rounds[0] - gap), last + 0.5 * gap)
        round_axis(axes, {*rounds, 0, last})
        return inline_svg(figure, name)


def _named(lines: Sequence[LayerLine]) -> list[int]:
    """Places of the lines to be named, by their last density: all of few, else some from the largest to the least."""
    order = sorted(range(len(lines)), key=lambda place: -lines[place].y[-1])
    if len(order) <= NAMED:
        return order
    picked = [round(step * (len(order) - 1) / (NAMED - 1)) for step in range(NAMED)]
    return [order[rank] for rank in picked]


def _draw(axes: Axes, line: LayerLine, colour: str, *, width: float) -> None:
    axes.plot(line.x, line.y, color=colour, linewidth=width)
    at = dict(zip(line.x, line.y, strict=True))
    found = [round for round in line.pruned if round in at]
    # Many dots would hide the line, so they are small then.
    many = len(found) > _DOTS
    axes.plot(
        found,
        [at[round] for round in found],
        "o",
        color=colour,
        markersize=3.0 if many else 5.0,
        markeredgecolor=colour if many else PAPER,
    )


def _names(axes: Axes, ends: Sequence[tuple[LayerLine, str]]) -> None:
    """Names each line right of the picture, moved apart where names would touch."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = []
    for line, _ in ends:
        y = line.y[-1] if line.y[-1] > 0 or axes.get_yscale() == "linear" else axes.get_ylim()[0]
        heights.append(min(max(float(to_axes.transform((line.x[-1], y))[1]), 0.0), 1.0))
    order = sorted(range(len(ends)), key=heights.__getitem__)
    placed = spread([heights[at] for at in order], min(0.075, 1 / len(ends)))
    for at, height in zip(order, placed, strict=True):
        line, colour = ends[at]
        axes.plot(
            [1.0, 1.035], [heights[at], height], color=colour, linewidth=0.8, transform=axes.transAxes, clip_on=False
        )
        axes.annotate(
            f"{short_label(line.label, _LETTERS)} {percent_text(line.y[-1])}",
            (1.0, height),
            xytext=(12, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
        )
