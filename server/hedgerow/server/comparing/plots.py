"""The plots of a comparison's page, as inline SVG: accuracy against what it costs, and over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hedgerow.server.comparing.looks import COLOUR_COUNT, look_of
from hedgerow.server.comparing.placing import Box, Wanted, placed
from hedgerow.server.comparing.rows import WIDE
from hedgerow.server.report.charts import empty_axes, round_axis
from hedgerow.server.report.svg import INK, MORE_SERIES, MUTED, PAPER, SERIES, drawing, inline_svg
from hedgerow.units import percent_text, tick_text

__all__ = ["Curve", "Point", "curve_chart", "front_of", "scatter_chart"]

_COLOURS = (*SERIES, *MORE_SERIES)
_HEIGHT = 3.6
_STYLES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.5)))
"""Of the lines over the rounds, when colours begin again."""
_SIZE = 8.0  # points, of a marker
_NAME_SIZE = 9.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A line in a plot of accuracy against something that it costs; means, with deviations where there are several."""

    name: str
    look: int
    """Its place among the lines, which `look_of` takes."""
    x: float
    y: float
    x_deviation: float = 0.0
    y_deviation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Accuracies over rounds, the mean over seeds and the deviation from it."""

    look: int
    rounds: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def front_of(points: Sequence[Point]) -> list[Point]:
    """Those that no other is better than in accuracy and cost at once, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def scatter_chart(name: str, points: Sequence[Point], *, tick: Callable[[float], str], label: str) -> str:
    """Accuracy (upwards) against a cost (to the right) as an inline SVG. Points on the front are filled, and a dashed
    step line joins them; names stand where there is room.

    Args:
        name: prefix of every id.
        points: at least one, of which x is positive.
        tick: a cost as text.
        label: of the axis.
    """
    with drawing():
        figure, axes = empty_axes(_HEIGHT)
        FigureCanvasAgg(figure)
        front = front_of(points)
        for point in points:
            _mark(axes, point, filled=point in front)
        _cost_axis(axes, [point.x for point in points], tick=tick, label=label)
        _accuracy_axis(axes, [p.y + sign * p.y_deviation for p in points for sign in (-1, 1)])
        _step(axes, front)
        _names(figure, axes, [*front, *sorted((p for p in points if p not in front), key=lambda p: -p.y)])
        return inline_svg(figure, name)


def curve_chart(name: str, curves: Sequence[Curve]) -> str:
    """Accuracies over rounds as an inline SVG, with a band of one deviation to both sides.

    Args:
        name: prefix of every id.
        curves: at least one, each with at least one round.
    """
    with drawing():
        figure, axes = empty_axes(_HEIGHT)
        for curve in curves:
            colour, marker = _look(curve.look)
            style = _STYLES[curve.look // COLOUR_COUNT % len(_STYLES)]
            if any(curve.deviations):
                low, high = (
                    [mean + sign * deviation for mean, deviation in zip(curve.means, curve.deviations, strict=True)]
                    for sign in (-1, 1)
                )
                axes.fill_between(curve.rounds, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(curve.rounds, curve.means, color=colour, linewidth=1.8, linestyle=style)
            axes.plot(
                curve.rounds[-1:],
                curve.means[-1:],
                marker,
                color=colour,
                markersize=_SIZE - 1,
                markeredgecolor=PAPER,
                clip_on=False,
            )
        round_axis(axes, {number for curve in curves for number in curve.rounds})
        # The first rounds climb so high that they would press the ends together.
        begin = curves[0].rounds[-1] / 5
        _accuracy_axis(axes, [m for c in curves for n, m in zip(c.rounds, c.means, strict=True) if n >= begin])
        return inline_svg(figure, name)


def _look(place: int) -> tuple[str, str]:
    colour, marker = look_of(place)
    return _COLOURS[colour - 1], marker


def _mark(axes: Axes, point: Point, *, filled: bool) -> None:
    colour, marker = _look(point.look)
    axes.errorbar(
        point.x,
        point.y,
        xerr=point.x_deviation or None,
        yerr=point.y_deviation or None,
        fmt=marker,
        color=colour,
        ecolor=colour,
        elinewidth=1.2,
        markersize=_SIZE,
        markerfacecolor=colour if filled else PAPER,
        markeredgecolor=PAPER if filled else colour,
        markeredgewidth=0.8 if filled else 1.6,
        zorder=3,
    )


def _cost_axis(axes: Axes, values: Sequence[float], *, tick: Callable[[float], str], label: str) -> None:
    low, high = min(values), max(values)
    if high >= WIDE * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.8, high * 1.8)
        narrow = high < 1000 * low
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if narrow else (1,), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        label += ", log scale"
    else:
        axes.set_xlim(0, 1.18 * high)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(tick(value))))
    axes.set_xlabel(label, color=MUTED)


def _accuracy_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    room = 0.12 * max(high - low, 0.01)
    axes.set_ylim(max(low - room, -0.01), min(high + room, 1.01))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(percent_text(value, decimals=1))))
    axes.grid(axis="y")


def _step(axes: Axes, front: Sequence[Point]) -> None:
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    # What a front reaches at each cost is the accuracy of the last point that is no dearer.
    x = [front[0].x, *(point.x for point in front), right]
    y = [bottom, *(point.y for point in front), front[-1].y]
    axes.plot(x, y, drawstyle="steps-post", color=MUTED, alpha=0.6, linewidth=1.0, linestyle=(0, (4, 2.5)), zorder=1)
    axes.set_xlim(left, right)


def _names(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    # Only a drawn figure has its final layout.
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # that of Agg has one
    pixel = figure.dpi / 72
    places = [axes.transData.transform((point.x, point.y)) for point in points]
    sizes = []
    for point in points:
        text = axes.text(0, 0, point.name, fontsize=_NAME_SIZE)
        extent = text.get_window_extent(renderer)
        text.remove()
        sizes.append((extent.width, extent.height))
    half = _SIZE / 2 * pixel
    taken = [Box(x - half, y - half, x + half, y + half) for x, y in places]
    taken += [bar for point in points for bar in _bars(axes, point)]
    frame = axes.get_window_extent(renderer)
    wanted = [Wanted(x, y, *size) for (x, y), size in zip(places, sizes, strict=True)]
    within = Box(frame.x0, frame.y0, frame.x1 + 4 * pixel, frame.y1 + 4 * pixel)
    found = placed(wanted, within=within, taken=taken, gap=half + 3 * pixel)
    for point, box in zip(points, found, strict=True):
        if box is not None:
            x, y = axes.transData.inverted().transform(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
            text = axes.text(x, y, point.name, ha="center", va="center", fontsize=_NAME_SIZE, color=INK, zorder=4)
            # The front's dashed line would strike it through.
            text.set_bbox({"boxstyle": "square,pad=0.05", "facecolor": PAPER, "edgecolor": "none"})
            text.set_in_layout(False)


def _bars(axes: Axes, point: Point) -> Iterator[Box]:
    """Where the bars of deviations are, in pixels."""
    left, right = max(point.x - point.x_deviation, 1e-3 * point.x), point.x + point.x_deviation
    corners = [(left, point.y), (right, point.y), (point.x, point.y - point.y_deviation)]
    corners.append((point.x, point.y + point.y_deviation))
    (x0, y), (x1, _), (x, y0), (_, y1) = (axes.transData.transform(corner) for corner in corners)
    yield Box(x0, y - 1, x1, y + 1)
    yield Box(x - 1, y0, x + 1, y1)
